"""Searches: the space of a study, and proposed configurations as its levels and cells."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from coin_ray.study.command_line import Request
from coin_ray.study.resolved import Dimension, Objective, ResolvedStudy, Search
from coin_ray.study.search import active, proposal, settings_of, wanted, with_trials
from coin_ray.study.study import resolve

SPACE = """
profile: tiny
data: {a: {test: 2}, b: {test: 3}}
seeds: 2
baseline: {ot.lambda: 0.2, ot.prior: 1.5, select.rule: otsu, rounds.count: 1}
space:
  ot.lambda: {log: [0.01, 3.0]}
  ot.prior: {lin: [0.0, 3.0]}
  select.rule: {any: [otsu, fixed, top_fraction]}
  select.value: {lin: [0.3, 0.95], when: {select.rule: [fixed, top_fraction]}}
  rounds.count: {int: [1, 5], step: 2}
"""
STUDY = """
study: s
extends: tiny.yaml
design: search
trials: 20
space: [select.value, select.rule, ot.lambda]
"""
VALUES = {"ot.lambda": 0.123456, "select.rule": "fixed", "select.value": 0.5}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedStudy:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    (tmp_path / "s.yaml").write_text(STUDY)
    return resolve("s.yaml")


def test_a_study_takes_ranges_of_its_search_space(study: ResolvedStudy) -> None:
    # In the order of the search space, where a `when` finds what it looks at.
    assert study.search == Search(
        (
            Dimension("ot.lambda", "log", (0.01, 3.0)),
            Dimension("select.rule", "any", ("otsu", "fixed", "top_fraction")),
            Dimension(
                "select.value", "lin", (0.3, 0.95), 1, {"select.rule": ("fixed", "top_fraction")}
            ),
        ),
        20,
        "tpe",
    )
    assert study.levels == ("baseline",) and len(study.cells) == 4
    assert study.cells[0].labels == {"ot.lambda": "0.2", "select.rule": "otsu"}
    assert (study.patches, study.warnings) == ({"baseline": {}}, ())
    assert pickle.loads(pickle.dumps(study)) == study  # noqa: S301


def test_other_ways_to_a_space(study: ResolvedStudy) -> None:
    Path("s.yaml").write_text(STUDY.replace("space: [select.value, select.rule, ot.lambda]", ""))
    assert len(found(resolve("s.yaml")).space) == 5  # all of the search space
    own = "space: {instances.footprint: {int: [5, 15], step: 5}, uss.zoom: {any: [2.0, [2, 4]]}}"
    text = STUDY.replace("space: [select.value, select.rule, ot.lambda]", own)
    Path("s.yaml").write_text(text.replace("trials: 20", "sampler: grid"))
    assert found(resolve("s.yaml")) == Search(
        (
            Dimension("instances.footprint", "int", (5, 15), 5),
            Dimension("uss.zoom", "any", (2.0, [2, 4])),
        ),
        6,  # of a grid all, unless the study says how many
        "grid",
    )
    Path("child.yaml").write_text("study: child\nextends: s.yaml\nsampler: tpe\ntrials: 3\n")
    assert found(resolve("child.yaml")).trials == 3
    # Another design leaves what it inherits of a search aside.
    Path("child.yaml").write_text("study: child\nextends: s.yaml\ndesign: grid\n")
    assert resolve("child.yaml").search is None


GRID = """
study: s
extends: tiny.yaml
design: search
sampler: grid
space:
  ot.lambda: {any: [0.1, 0.3]}
  select.rule: {any: [otsu, fixed]}
  select.value: {any: [0.5, 0.7], when: {select.rule: fixed}}
"""


def test_a_grid_counts_the_configurations_that_there_are(study: ResolvedStudy) -> None:
    """Two with otsu and four with fixed; what comes to the baseline is no trial."""

    def trials(text: str, *settings: str) -> int:
        Path("s.yaml").write_text(text)
        return found(resolve("s.yaml", Request(settings=settings))).trials

    assert trials(GRID) == 6 and not resolve("s.yaml").warnings
    assert trials(GRID.replace("[0.1, 0.3]", "[0.2, 0.3]")) == 5  # 0.2 with otsu: the baseline
    assert trials(GRID, "select.rule=otsu") == 2
    assert trials(GRID, "select.rule=fixed") == 4
    assert trials(GRID + "trials: 3\n") == 3
    for sampler in ("grid", "tpe"):
        asked = GRID.replace("sampler: grid", f"sampler: {sampler}") + "trials: 30\n"
        assert trials(asked) == 6
        assert resolve("s.yaml").warnings == (
            "trials: 30 is more than the space has: 6 configurations beside the baseline",
        )
    assert trials(GRID.replace("{any: [0.1, 0.3]}", "{lin: [0.1, 0.3]}").replace(
        "sampler: grid", "trials: 30")) == 30  # fmt: skip
    whole = GRID + "  rounds.count: {int: [1, 6], step: 2}\n"
    assert trials(whole) == 18  # 1, 3 and 5 rounds of each


def test_settings_that_do_not_go_together_are_no_trials(study: ResolvedStudy) -> None:
    space = "space:\n  ucis.model: {any: [stain, maskcut]}\n  uss.family: {any: [mae, none]}\n"
    Path("s.yaml").write_text(GRID.partition("space:")[0] + space)
    base = settings_of(resolve("s.yaml").cells[0].config)
    assert (base["ucis.model"], base["uss.family"]) == ("stain", "mae")
    # Maskcut cuts the tokens of a backbone: with none it is refused.
    assert found(resolve("s.yaml")).trials == 2


def found(study: ResolvedStudy) -> Search:
    assert study.search is not None
    return study.search


def test_what_a_search_warns_of(study: ResolvedStudy) -> None:
    Path("s.yaml").write_text(STUDY.replace("select.value, select.rule,", "select.value,"))
    assert resolve("s.yaml").warnings == (
        "select.value is never asked for: select.rule is otsu in every trial",
    )
    forced = resolve("s.yaml", Request(settings=("ot.lambda=1", "select.rule=fixed")))
    assert forced.warnings == ("--set ot.lambda fixes what the search varies",)


def test_a_proposal_is_cells_of_one_level(study: ResolvedStudy) -> None:
    cells = proposal(study, VALUES)
    label = "ot.lambda 0.1235, select.rule fixed, select.value 0.5"
    assert [(c.level, c.data.name, c.seed) for c in cells] == [
        (label, "a", 0), (label, "b", 0), (label, "a", 1), (label, "b", 1),
    ]  # fmt: skip
    config = cells[0].config
    # The number is the one that the label shows, and all else is the baseline's.
    assert (config.ot.lambda_, config.select.rule, config.select.value) == (0.1235, "fixed", 0.5)
    assert (config.ot.prior, config.rounds.count) == (1.5, 1)
    assert cells[0].labels == {
        "ot.lambda": "0.1235", "select.rule": "fixed", "select.value": "0.5",
    }  # fmt: skip
    assert len({c.key_label for c in cells}) == 4


def test_what_does_not_apply_is_left_alone(study: ResolvedStudy) -> None:
    (cell, *_) = proposal(study, {**VALUES, "select.rule": "otsu", "ot.prior": 3.0})
    assert cell.level == "ot.lambda 0.1235, select.rule otsu"
    assert cell.config.select.value == study.cells[0].config.select.value
    assert cell.config.ot.prior == 1.5
    assert active(study, {**VALUES, "select.rule": "otsu"}) == {
        "ot.lambda": 0.1235, "select.rule": "otsu",
    }  # fmt: skip
    with pytest.raises(KeyError):
        active(study, {"ot.lambda": 0.1, "select.rule": "fixed"})  # its value is wanted
    forced = resolve("s.yaml", Request(settings=("ot.lambda=1",)))
    assert proposal(forced, VALUES)[0].config.ot.lambda_ == 1.0


def test_wanted_looks_at_all_settings(study: ResolvedStudy) -> None:
    settings = settings_of(study.cells[0].config)
    value = found(study).space[2]
    assert not wanted(value, settings)
    assert wanted(value, settings | {"select.rule": "top_fraction"})
    # A list of one is the value it holds.
    zoom = Dimension("uss.layer", "int", (-3, -1), 1, {"uss.zoom": (6.0,)})
    assert settings["uss.zoom"] == [6.0] and wanted(zoom, settings)


def test_trials_are_added_behind_the_baseline(study: ResolvedStudy) -> None:
    assignments: list[dict[str, Any]] = [
        VALUES,
        {"ot.lambda": 0.123471, "select.rule": "fixed", "select.value": 0.5},  # rounds to the same
        {"ot.lambda": 0.2, "select.rule": "otsu"},  # the baseline
        {"ot.lambda": 1.0, "select.rule": "otsu"},
    ]
    grown = with_trials(study, assignments)
    assert grown.levels == (
        "baseline",
        "ot.lambda 0.1235, select.rule fixed, select.value 0.5",
        "ot.lambda 1.0, select.rule otsu",
    )
    assert [c.level for c in grown.cells[:3]] == list(grown.levels)  # a seed of all, then the next
    assert [c.seed for c in grown.cells] == [0] * 6 + [1] * 6
    assert all(cell in grown.cells for cell in study.cells)
    assert grown.patches["ot.lambda 1.0, select.rule otsu"] == {
        "ot.lambda": 1.0, "select.rule": "otsu",
    }  # fmt: skip
    assert grown.configuration("baseline") == study.configuration("baseline")
    assert proposal(study, assignments[2])[0].level == "baseline"
    # Growing step by step comes to the same, and so do the cells of a single proposal.
    assert with_trials(with_trials(study, assignments[:2]), assignments[2:]) == grown
    assert all(cell in grown.cells for cell in proposal(study, VALUES))


def test_rounding_stays_in_the_range(study: ResolvedStudy) -> None:
    own = "space: {ot.foreground_mass: {lin: [0.123456, 0.99999]}}"  # 1.0 would not be allowed
    Path("s.yaml").write_text(STUDY.replace("space: [select.value, select.rule, ot.lambda]", own))
    edges = resolve("s.yaml")
    for end in (0.123456, 0.99999):
        assert proposal(edges, {"ot.foreground_mass": end})[0].config.ot.foreground_mass == (
            0.1235 if end < 0.5 else 0.99999
        )


def test_an_objective_of_which_less_is_better_is_made_small(
    tmp_path: Path,
) -> None:
    """Unsaid, the mode is the metric's own; of facts without labels, and of counts, it is said."""
    for said, mode in (
        ("metric: fp", "min"),
        ("metric: adj_fn, split: val", "min"),
        ("metric: official_mfp, mode: min", "min"),
        ("metric: pq", "max"),
        ("metric: instances_per_image", "max"),
        ("metric: instances_per_image, mode: min", "min"),
        ("metric: n_predicted, mode: min", "min"),
    ):
        file = tmp_path / "v.yaml"
        file.write_text(f"study: v\nextends: mini\nobjective: {{{said}}}\n")
        assert resolve(str(file)).objective.mode == mode, said
    assert Objective("fn").mode == "min" and Objective().mode == "max"
