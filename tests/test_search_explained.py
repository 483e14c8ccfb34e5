"""What is said of the settings of a search: what matters is found, and what does not is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coin_ray.cli.screen.preamble import cells
from coin_ray.execution.optuna_record import OptunaRecord, storage
from coin_ray.report.document.blocks import Notes, Table
from coin_ray.report.document.head import in_short
from coin_ray.report.document.searched import search_section
from coin_ray.report.figures.of_design import of_settings
from coin_ray.report.figures.of_search import of_search
from coin_ray.report.values.study_results import Results, read_results
from coin_ray.report.values.trials import trials_of
from coin_ray.statistics.searched import (
    FEWEST,
    Trial,
    best_so_far,
    importances,
    in_optuna,
    interactions,
)
from coin_ray.study.resolved import Dimension, Objective
from coin_ray.study.search import with_trials
from coin_ray.workspace import Workspace
from tests.cli_calls import call
from tests.report_study import finish, study

SPACE = (
    Dimension("a", "log", (0.01, 10.0)),
    Dimension("b", "lin", (0.0, 1.0)),
    Dimension("rule", "any", ("x", ["y", 1])),
    Dimension("c", "int", (1, 9), when={"rule": ("x",)}),
)


def draw(count: int, value: Any, seed: int = 0) -> list[Trial]:
    rng, out = np.random.default_rng(seed), []
    for _ in range(count):
        settings: dict[str, Any] = {
            "a": float(10 ** rng.uniform(-2, 1)),
            "b": float(rng.uniform()),
            "rule": ["x", ["y", 1]][rng.integers(2)],
        }
        if settings["rule"] == "x":
            settings["c"] = int(rng.integers(1, 10))
        out.append(Trial(settings, float(value(settings))))
    return out


def test_the_setting_that_decides_is_the_most_important() -> None:
    found = importances(SPACE, draw(60, lambda s: math.log10(s["a"])), "max")
    by_key = {one.key: one for one in found}
    assert found[0].key == "a" and set(by_key) == {"a", "b", "rule", "c"}
    assert sum(one.ped_anova for one in found) == pytest.approx(1)
    whole = {key: one.fanova for key, one in by_key.items() if one.fanova is not None}
    assert max(whole, key=lambda key: whole[key]) == "a" and whole["a"] > 0.8
    assert by_key["c"].fanova is None  # not every trial was asked for it
    chosen = importances(SPACE, draw(60, lambda s: -1.0 if s["rule"] == "x" else 1.0), "min")
    assert max(chosen, key=lambda one: one.fanova or 0).key == "rule"


def test_too_few_trials_and_an_objective_that_never_changes_say_nothing() -> None:
    trials = draw(FEWEST, lambda s: s["b"])
    assert importances(SPACE, trials, "max")
    failed = Trial(trials[0].settings, None)
    assert not importances(SPACE, [*trials[1:], failed], "max")
    assert not importances(SPACE, draw(20, lambda s: 1.0), "max")


def test_an_interaction_is_told_from_two_effects() -> None:
    alone = interactions(SPACE, draw(200, lambda s: math.log10(s["a"]) + s["b"]))
    shares = {(one.first, one.second): one.share for one in alone}
    assert shares["a", "b"] < 1e-6 and max(shares.values()) < 0.2  # what is left is noise
    together = interactions(SPACE, draw(200, lambda s: math.log10(s["a"]) * (s["b"] - 0.5)))
    first = together[0]
    assert {first.first, first.second} == {"a", "b"} and first.p < 1e-6 and first.share > 0.5
    switch = interactions(SPACE, draw(200, lambda s: s["b"] * (1 if s["rule"] == "x" else -1)))
    assert {switch[0].first, switch[0].second} == {"b", "rule"}
    assert not interactions(SPACE, draw(5, lambda s: s["b"]))


def test_the_best_so_far_has_the_interval_of_its_random_seeds() -> None:
    nan = math.nan
    values = [[nan, nan], [0.5, 0.5], [0.4, nan], [0.6, 0.8]]
    none, first, same, best = best_so_far(values, "max", 0.95)
    assert math.isnan(none.value) and first == same
    assert (first.value, first.low, first.high) == (0.5, 0.5, 0.5)
    assert best.value == pytest.approx(0.7)
    # Student's t with one degree of freedom, over two seeds 0.1 from their mean.
    assert best.high == pytest.approx(0.7 + 12.7062 * 0.1, abs=1e-3)
    (alone,) = best_so_far([[0.5]], "min", 0.95)
    assert alone.low is None
    assert [b.value for b in best_so_far([[3.0], [1.0], [2.0]], "min", 0.9)] == [3.0, 1.0, 1.0]


SEARCH = """
design: search
trials: 12
space:
  ot.lambda: {log: [0.01, 3.0]}
  ot.prior: {lin: [0.0, 3.0]}
  select.rule: {any: [mean, otsu]}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A finished search; the values are made up, by level, and differ."""
    folder, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(1)
    drawn = [
        {
            "ot.lambda": float(f"{10 ** rng.uniform(-2, 0.4):.3g}"),
            "ot.prior": float(f"{rng.uniform(0, 3):.3g}"),
            "select.rule": ["mean", "otsu"][i % 2],
        }
        for i in range(12)
    ]
    given = with_trials(study(folder, SEARCH), drawn)

    def value(cell: Any, step: int, image: int) -> float:
        return 0.5 + 0.05 * math.log10(cell.config.ot.lambda_) + 0.002 * cell.seed

    finish(given, folder / "runs", value=value)
    return read_results(given, folder / "runs")


def test_trials_are_read_from_the_cells(results: Results) -> None:
    found = trials_of(results, "generated")
    assert found.values.shape == (12, 2) and np.isfinite(found.values).all()
    level, trial = next(iter(found.trials.items()))
    assert trial.settings == results.study.patches[level]
    assert trial.value == pytest.approx(found.values[0].mean())


def test_the_report_explains_a_search(results: Results) -> None:
    section = search_section(results)
    assert section is not None
    first, second = section.blocks
    assert isinstance(first, Table) and isinstance(second, Table)
    shares = {row[0].text: float(row[2].text.rstrip("%")) for row in first.rows}
    assert max(shares, key=lambda key: shares[key]) == "ot.lambda" and len(shares) == 3
    names = [plot.name for plot in of_search(results, results.tables[0])]
    assert names == ["best-so-far-generated", "importance-generated", "contour-generated"]


def lucky(folder: Path, *, repeated: bool = True) -> Results:
    """A search with ``repeats``: of one random seed the baseline has .6, one trial .9 and another
    .8; the first has been run again, came to .5, and is the best by its mean."""
    drawn = [{"ot.lambda": x, "ot.prior": 1.0, "select.rule": "otsu"} for x in (0.02, 0.5, 2.0)]
    given = with_trials(study(folder, SEARCH + "repeats: 1\n"), drawn)
    base, first, second, third = given.levels
    values = {
        base: (0.6, 0.6), first: (0.9, 0.5), second: (0.8, 0.0), third: (0.1, 0.0)
    }  # fmt: skip
    again = [base, first] if repeated else [base]
    without = [c.key_label for c in given.cells if c.seed and c.level not in again]

    def value(cell: Any, step: int, image: int) -> float:
        return values[cell.level][cell.seed]

    finish(given, folder / "runs", value=value, without=without)
    return read_results(given, folder / "runs")


def told(results: Results) -> str:
    (notes,) = in_short(results).blocks
    assert isinstance(notes, Notes)
    return "\n".join(notes.lines)


def test_a_trial_with_one_lucky_seed_is_not_the_best(tmp_path: Path) -> None:
    results = lucky(tmp_path)
    _, first, second, _ = results.study.levels
    assert f"Best agreement: {first} (0.800, the baseline 0.700)." in told(results)
    (table,) = results.tables
    assert table.best()[-1] == pytest.approx(0.85)
    assert table.best_level("aji") == table.best_level("aji", baseline=False) == first
    best = next(plot for plot in of_search(results, table) if plot.name.startswith("best-so-far"))
    assert "only trials with all 2 of them are compared" in best.caption
    assert trials_of(results).means(1)[second] == pytest.approx(0.9)


def test_before_any_trial_is_repeated_all_are_compared_on_the_first_seed(tmp_path: Path) -> None:
    results = lucky(tmp_path, repeated=False)
    _, first, *_ = results.study.levels
    assert f"Best agreement: {first} (1.000, the baseline 0.700)." in told(results)
    assert results.tables[0].best()[-1] is None  # the baseline alone has both seeds


def test_a_search_by_a_metric_of_labels_finds_its_best_trial(results: Results) -> None:
    """The objective is no fact of a cell then, and is measured."""
    from dataclasses import replace

    for metric, mode in (("aji", "max"), ("pq", "min")):
        goal = Objective(metric, mode, "val")  # type: ignore[arg-type]
        given = replace(results, study=replace(results.study, objective=goal))
        found = trials_of(given)
        weight = given.study.configuration(given.study.baseline_level).ot.lambda_
        base = 0.501 + 0.05 * math.log10(weight) + 0.01 * (metric == "pq")
        assert found.baseline.mean() == pytest.approx(base)
        best = found.best(goal.mode)
        assert best is not None and f"Best {metric}: {best} (" in told(given)
        names = [plot.name for plot in of_search(given, given.tables[0])]
        assert names[0] == "best-so-far-generated"
        slices = [plot.name for plot in of_settings(given, given.tables[0])]
        assert len(slices) == len({name.lower() for name in slices})


def test_a_search_stands_in_a_storage_of_optuna_once(results: Results, tmp_path: Path) -> None:
    import optuna

    given = trials_of(results).trials
    trials = [*given.values(), Trial({"ot.lambda": 0.5, "select.rule": "mean"}, None)]
    from dataclasses import replace

    contents = {spec.name: "digest" for spec in results.study.data}
    read = replace(results.study, contents=contents)
    for _ in range(2):  # the second time they are all there
        OptunaRecord(read, tmp_path).add(trials)
    found = optuna.load_study(study_name=read.run_name, storage=storage(Workspace(tmp_path).optuna))
    assert len(found.trials) == 13 and found.metric_names == ["agreement"]
    best = max(given.values(), key=lambda trial: trial.value or 0)
    assert found.best_params["ot.lambda"] == best.settings["ot.lambda"]
    assert [t.state.name for t in found.trials].count("FAIL") == 1


def test_what_optuna_is_told_is_what_was_asked_for() -> None:
    trials = draw(12, lambda s: s["b"])
    made = in_optuna(SPACE, trials, "min")
    assert made.best_value == min(t.value for t in trials if t.value is not None)
    for told, trial in zip(made.trials, trials, strict=True):
        assert told.params.keys() == trial.settings.keys()
        assert told.params["rule"] in ('"x"', '["y", 1]')


def test_a_storage_that_cannot_be_written_stops_nothing(
    results: Results, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    read = replace(results.study, contents={s.name: "digest" for s in results.study.data})
    Workspace(tmp_path).optuna.mkdir()
    record = OptunaRecord(read, tmp_path)
    for _ in range(2):
        record.add(list(trials_of(results).trials.values()))
    assert caplog.text.count("the search goes on") == 1


def test_the_dashboard_needs_a_search(tmp_path: Path) -> None:
    told = call("ui", "--optuna", "--workspace", str(tmp_path))
    assert told.exit_code == 2 and "no search has run" in told.output


REPEATED = """
study: repeated
extends: mini
design: search
baseline: {rounds.count: 0, uss.family: none}
data: {generated: {train: 0, test: 1, size: 64}}
space: {instances.footprint: {any: [5, 9, 13, 15]}}
sampler: grid
seeds: 3
repeats: 1
"""


def test_only_the_best_trials_are_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial has one random seed, the best one and the baseline have all; again, nothing is
    computed and the same are left out."""
    import coin_ray
    from coin_ray.events import events

    monkeypatch.chdir(tmp_path)
    (tmp_path / "repeated.yaml").write_text(REPEATED)
    heard: list[events.Event] = []
    given = coin_ray.load_study("repeated.yaml", workspace=tmp_path)
    # One of the four configurations is the baseline's.
    assert cells(given.resolved).endswith("the best 1 and the baseline × 3 random seeds = 8 cells")
    found = coin_ray.run(
        given, on_event=heard.append, executor=coin_ray.Local("cpu"), tracking=False
    )
    assert not found.failed and found.outcome is not None
    seeds = {
        level: sorted(own["seed"].unique().to_list())
        for (level,), own in found.per_image().partition_by("level", as_dict=True).items()
    }
    base = found.values.study.baseline_level
    trials = {level: own for level, own in seeds.items() if level != base}
    assert seeds[base] == [0, 1, 2] and len(trials) == 3
    assert sorted(map(len, trials.values())) == [1, 1, 3]
    values = {k: t.value for k, t in trials_of(found.values).trials.items()}
    assert len(trials[max(values, key=lambda level: values[level] or 0)]) == 3
    assert len(found.outcome.left_out) == 4  # two trials, two seeds each
    assert any("not among the best 1" in why for why in found.outcome.left_out.values())
    again = coin_ray.run(given, executor=coin_ray.Local("cpu"), tracking=False)
    assert again.outcome is not None and again.outcome.computed == 0
    assert again.outcome.left_out == found.outcome.left_out
    assert Workspace(tmp_path).optuna.is_file()


def test_the_tracker_knows_the_cells_that_may_be_repeated(tmp_path: Path) -> None:
    from coin_ray.api.recording import Recorder
    from coin_ray.events import events
    from coin_ray.study.search import proposal
    from coin_ray.study.study import resolve

    (tmp_path / "repeated.yaml").write_text(REPEATED)
    given, described = resolve(str(tmp_path / "repeated.yaml")), []

    class Tracker:
        def add(self, cells: Any) -> None:
            described.extend(cell["seed"] for cell in cells)

        def record(self, event: Any) -> None:
            assert event["event"] == "CellsProposed"

    values = {"instances.footprint": 13}
    (first,) = proposal(given, values)
    record = Recorder(Tracker(), given, tmp_path)  # type: ignore[arg-type]
    record(events.CellsProposed(first.level, values, [first.key_label], {}))
    assert first.seed == 0 and described == [0, 1, 2]


def test_repeats_need_further_seeds(tmp_path: Path) -> None:
    from coin_ray.errors import UserError
    from coin_ray.study.command_line import Request
    from coin_ray.study.study import resolve

    path = tmp_path / "repeated.yaml"
    path.write_text(REPEATED.replace("seeds: 3", "seeds: 1"))
    with pytest.raises(UserError, match="repeats needs further random seeds"):
        resolve(str(path))
    path.write_text(REPEATED)
    assert resolve(str(path)).first_seeds == 1
    once = resolve(str(path), Request(seeds="1"))
    assert once.search is not None and once.search.repeats is None and once.first_seeds is None
