"""Proposals of a search: seeded, each configuration once, and known again after an interruption."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coin_ray.api.recording import Recorder
from coin_ray.cluster.tuning import SearchOfProposals
from coin_ray.events import events
from coin_ray.execution.proposals import Proposals
from coin_ray.execution.trial_log import FILE, TrialLog, with_proposals
from coin_ray.pipeline.settings import Cell
from coin_ray.statistics.searched import Trial, in_optuna
from coin_ray.study.resolved import Dimension, Objective, ResolvedStudy, Search, Stopping
from coin_ray.study.search import proposal
from tests.test_cluster_order import study

LAMBDA = Dimension("ot.lambda", "log", (0.01, 3.0))
RULE = Dimension("select.rule", "any", ("mean", "fixed"))
VALUE = Dimension("select.value", "lin", (0.3, 0.9), when={"select.rule": ("fixed",)})
ZOOM = Dimension("uss.zoom", "any", (1.0, (1.0, 2.0)))
COUNT = Dimension("instances.footprint", "int", (5, 9), step=2)


def searching(sampler: str, *space: Dimension, trials: int = 8) -> ResolvedStudy:
    return study("base", design="search", search=Search(space, trials, sampler))  # type: ignore[arg-type]


class Trials:
    """Runs proposals one after the other, as Tune would, on a function of the settings."""

    def __init__(self, given: ResolvedStudy, known: Any = (), baseline: float | None = 0.0) -> None:
        self.ran: list[dict[str, Any]] = []
        self.values: list[tuple[dict[str, Any], float | None]] = []
        self.searcher = Proposals(given, known, baseline, self._run, self._done)

    def _run(self, values: Any) -> str:
        self.ran.append(dict(values))
        return f"job-{len(self.ran)}"

    def _done(self, values: Any, value: float | None) -> None:
        self.values.append((dict(values), value))

    def go(self, count: int) -> bool:
        """Ask and answer so many times; whether it was over before."""
        for _ in range(count):
            asked = len(self.ran)
            found = self.searcher.suggest(f"{id(self)}-{asked}")
            if found is None:
                return self.searcher.over
            assert found == f"job-{asked + 1}"
            value = -abs(self.ran[-1].get("ot.lambda", 0.0) - 0.2)
            self.searcher.complete(f"{id(self)}-{asked}", value)
        return False


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "grid"])
def test_every_sampler_proposes_within_the_space_and_by_its_seed(sampler: str) -> None:
    space = [RULE, COUNT] if sampler == "grid" else [LAMBDA, COUNT]
    one, two = (Trials(searching(sampler, *space)) for _ in range(2))
    one.go(6)
    two.go(6)
    assert one.ran == two.ran
    assert len({json.dumps(values) for values in one.ran}) == 6
    for values in one.ran:
        assert values["instances.footprint"] in (5, 7, 9)
        assert sampler == "grid" or 0.01 <= values["ot.lambda"] <= 3.0


def test_conditional_settings_and_lists() -> None:
    trials = Trials(searching("random", RULE, VALUE, ZOOM))
    trials.go(12)
    assert {values["select.rule"] for values in trials.ran} == {"mean", "fixed"}
    for values in trials.ran:
        assert ("select.value" in values) == (values["select.rule"] == "fixed")
        assert values["uss.zoom"] in (1.0, [1.0, 2.0])


def test_a_grid_ends_when_each_configuration_has_run_once() -> None:
    when = Dimension("select.value", "any", (0.5, 0.7), when={"select.rule": ("fixed",)})
    trials = Trials(searching("grid", RULE, when))
    assert trials.go(9)
    assert sorted(map(json.dumps, trials.ran)) == [
        '{"select.rule": "fixed", "select.value": 0.5}',
        '{"select.rule": "fixed", "select.value": 0.7}',
        '{"select.rule": "mean"}',
    ]


def test_a_known_configuration_is_not_run_again() -> None:
    known = [({"select.rule": "mean"}, 0.5), ({"select.rule": "fixed"}, None)]
    trials = Trials(searching("random", RULE), known)
    assert trials.go(1) and trials.ran == []
    # The baseline is known too: its footprint is 9.
    trials = Trials(searching("random", COUNT), [({"instances.footprint": 5}, 0.1)])
    assert trials.go(3)
    assert trials.ran == [{"instances.footprint": 7}]


def test_one_that_is_being_run_is_held_back_until_its_value_is_there() -> None:
    trials = Trials(searching("random", RULE))
    first = trials.searcher.suggest("a")
    assert first is not None
    second: Any = first
    for _ in range(9):  # of two choices a random sampler soon draws the first again
        second = trials.searcher.suggest("b")
        if second is None:
            break
        trials.searcher.complete("b", None)
    assert second is None and not trials.searcher.over
    assert trials.searcher.suggest("c") is None
    trials.searcher.complete("a", 0.5)
    again = trials.searcher.suggest("d")
    assert trials.searcher.over if again is None else len(trials.ran) == 2
    values = [json.dumps(v) for v in trials.ran]
    assert len(set(values)) == len(values)


def test_what_is_known_teaches_the_sampler() -> None:
    good = [({"ot.lambda": 0.19 + i / 1000}, 0.9 + i / 1000) for i in range(10)]
    bad = [({"ot.lambda": 0.9 + i / 10}, -0.5) for i in range(20)]
    trials = Trials(searching("tpe", LAMBDA), [*good, *bad])
    trials.go(20)  # at random a fifth of them would be where it is known to be bad
    assert all(values["ot.lambda"] < 0.9 for values in trials.ran)
    assert pickle.dumps(SearchOfProposals(trials.searcher, "max"))  # as Tune does at its start


def test_the_book_of_trials_goes_on_and_passes_over_what_is_strange(tmp_path: Path) -> None:
    given = searching("tpe", LAMBDA, RULE, VALUE)
    book = TrialLog(given, tmp_path)
    mean = {"ot.lambda": 0.2, "select.rule": "mean"}
    fixed = {"ot.lambda": 1.0, "select.rule": "fixed", "select.value": 0.5}
    book.propose(mean)
    book.valued(mean, 0.25)
    with (tmp_path / FILE).open("a") as file:
        file.write('\n{"values": {"ot.la')  # a driver that was killed here
    book.propose(fixed)
    assert TrialLog(given, tmp_path).proposals == [mean, fixed]
    levels = with_proposals(given, tmp_path).levels
    assert levels == ("base", "ot.lambda 0.2, select.rule mean",
                      "ot.lambda 1.0, select.rule fixed, select.value 0.5")  # fmt: skip
    narrow = searching("tpe", Dimension("ot.lambda", "log", (0.1, 0.5)), RULE, VALUE)
    assert TrialLog(narrow, tmp_path).proposals == [mean]
    wider = searching("tpe", LAMBDA, RULE, COUNT)
    assert TrialLog(wider, tmp_path).proposals == []
    assert with_proposals(study("base"), tmp_path).levels == ("base",)


@pytest.mark.parametrize(
    ("edited", "kept"),
    [
        (Dimension("instances.footprint", "int", (5, 13), step=4), [5, 9, 13]),
        (Dimension("instances.footprint", "int", (7, 15), step=4), [7, 11]),
        (Dimension("instances.footprint", "any", (13, 5)), [5, 13]),
        (Dimension("instances.footprint", "any", (13.0, True)), []),
        (COUNT, [5, 7, 9]),
    ],
)
def test_old_trials_outside_of_an_edited_space_are_passed_over(
    tmp_path: Path, edited: Dimension, kept: list[int]
) -> None:
    """What is left is told to Optuna, each value to its own settings; the search goes on."""
    book = TrialLog(searching("random", replace(COUNT, values=(5, 13)), RULE), tmp_path)
    for footprint in (5, 7, 9, 11, 13):
        book.propose({"instances.footprint": footprint, "select.rule": "fixed"})
    given = searching("random", edited, RULE)
    left = TrialLog(given, tmp_path).proposals
    assert [values["instances.footprint"] for values in left] == kept
    trials = Trials(given, [(values, values["instances.footprint"] / 100) for values in left])
    own = {d.key: d for d in (edited, RULE)}
    for told in trials.searcher._optuna.trials:
        (value,) = told.values
        params = {k: json.loads(v) if own[k].kind == "any" else v for k, v in told.params.items()}
        assert params == {"instances.footprint": round(value * 100), "select.rule": "fixed"}
    trials.go(2)
    shown = in_optuna((edited, RULE), [Trial(values, 0.5) for values in left], "max")
    assert len(shown.trials) == len(kept)


def test_old_trials_of_other_scales_choices_and_baselines(tmp_path: Path) -> None:
    given = searching("random", LAMBDA, RULE, VALUE)
    book = TrialLog(given, tmp_path)
    mean = {"ot.lambda": 0.2, "select.rule": "mean"}
    fixed = {"ot.lambda": 1.0, "select.rule": "fixed", "select.value": 0.5}
    book.propose(mean)
    book.propose(fixed)
    linear = Dimension("ot.lambda", "lin", (0.1, 0.5))
    assert TrialLog(searching("random", linear, RULE, VALUE), tmp_path).proposals == [mean]
    other = Dimension("select.rule", "any", ("otsu", "fixed"))
    assert TrialLog(searching("random", LAMBDA, other, VALUE), tmp_path).proposals == [fixed]
    listed = Dimension("select.value", "any", (0.4, "0.5"), when=VALUE.when)
    assert TrialLog(searching("random", LAMBDA, RULE, listed), tmp_path).proposals == [mean]
    family = searching("random", Dimension("uss.family", "any", ("mae", "none")))
    book = TrialLog(family, tmp_path / "families")
    book.propose({"uss.family": "none"})
    book.propose({"uss.family": "mae"})
    config = Cell.model_validate({"ucis": {"model": "maskcut"}, "uss": {"family": "mae"}})
    cut = replace(family, cells=tuple(replace(cell, config=config) for cell in family.cells))
    # Maskcut cuts the tokens of a backbone, and does not go with none.
    assert TrialLog(cut, tmp_path / "families").proposals == [{"uss.family": "mae"}]


def test_the_tracker_is_told_of_proposed_cells_before_it_hears_of_them(tmp_path: Path) -> None:
    given, told = searching("tpe", LAMBDA), []

    class Tracker:
        def add(self, cells: Any) -> None:
            told.append([cell["cell"] for cell in cells])
            assert cells[0]["config"]["ot"]["lambda"] == 0.1

        def record(self, event: Any) -> None:
            told.append(event["event"])

    record = Recorder(Tracker(), given, tmp_path)  # type: ignore[arg-type]
    (new,) = proposal(given, {"ot.lambda": 0.1})
    who = (new.key_label, new.level, new.data.name, new.seed)
    record(events.CellsProposed(new.level, {"ot.lambda": 0.1}, [new.key_label], {}))
    record(events.CellStarted(*who))
    record(events.RoundProgress(*who, step=1, steps=2))
    record(events.CellLeftOut(*who, reason="decided"))
    assert told == [[new.key_label], "CellsProposed", "CellStarted", "CellLeftOut"]


def test_a_stopped_cell_stays_stopped_while_nothing_has_changed(tmp_path: Path) -> None:
    given = study("base", "a", stopping=Stopping("asha"))
    cell = given.cells[1]
    given = replace(given, contents={"d": "digest"})
    TrialLog(given, tmp_path).stop(cell, 1)
    assert TrialLog(given, tmp_path).rounds(cell) == 1
    assert TrialLog(given, tmp_path).rounds(given.cells[0]) == 2
    others = replace(given, contents={"d": "other images"})
    assert TrialLog(others, tmp_path).rounds(cell) == 2
    for changed in (
        replace(given, stopping=Stopping("none")),
        replace(given, stopping=Stopping("asha", grace=2)),
        replace(given, objective=Objective("aji", split="val")),
    ):
        assert TrialLog(changed, tmp_path).rounds(cell) == 2
