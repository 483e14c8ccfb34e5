"""Figures: which there are for each design, and what they show."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from coin_ray.report.figures import style
from coin_ray.report.figures.of_design import of_budget, of_factors, of_settings, varied
from coin_ray.report.figures.of_study import figures_section
from coin_ray.report.figures.slices import Varied
from coin_ray.report.figures.style import PALETTE, is_named, spread, strokes
from coin_ray.report.values.study_results import Results, objective_points, read_results
from coin_ray.study.search import with_trials
from tests.report_study import DESIGNS, NUMBERS, finish, finished, study

SEARCH = """
design: search
trials: 4
space:
  ot.lambda: {log: [0.01, 3.0]}
  select.rule: {any: [mean, otsu]}
"""


@pytest.fixture
def drawn_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and not written: that takes most of the time."""
    monkeypatch.setattr(style, "render", lambda draw: (repr(draw()).encode(), b""))


def search(folder: Path) -> Results:
    given = with_trials(
        study(folder, SEARCH),
        [
            {"ot.lambda": weight, "select.rule": rule}
            for weight, rule in ((0.02, "mean"), (0.3, "otsu"), (2.5, "mean"), (0.9, "otsu"))
        ],
    )
    finish(given, folder / "runs")
    return read_results(given, folder / "runs")


def test_a_study_has_its_figures(tmp_path: Path) -> None:
    results = finished(tmp_path, NUMBERS)
    plots = {plot.name: plot for plot in figures_section(results).blocks}  # type: ignore[union-attr]
    assert list(plots) == [
        f"{kind}-generated"
        for kind in (
            *("levels", "differences", "steps", "profile", "rounds"),
            *("slice-aji", "objective"),
        )
    ]
    for plot in plots.values():
        assert ET.fromstring(plot.svg).tag.endswith("svg") and plot.pdf.startswith(b"%PDF")
        assert plot.caption.endswith(".")
    assert "Without a value of their own: off." in plots["slice-aji-generated"].caption


@pytest.mark.parametrize(
    ("design", "kinds"),
    [
        ("factorial", ["main", "interaction", "shapley"]),
        ("leave_one_out", ["difference"]),
        ("ladder", ["step"]),
    ],
)
def test_designs_with_switches_have_the_effects_of_their_factors(
    design: str, kinds: list[str], tmp_path: Path, drawn_only: None
) -> None:
    results = finished(tmp_path, f"design: {design}\n{DESIGNS[design]}")
    plots = list(of_factors(results, results.tables[0]))
    assert [plot.name for plot in plots] == [f"effects-{kind}-generated" for kind in kinds]
    assert not list(of_settings(results, results.tables[0]))


def test_a_search_has_slices_and_parallel_coordinates(tmp_path: Path, drawn_only: None) -> None:
    results = search(tmp_path)
    names = [plot.name for plot in of_settings(results, results.tables[0])]
    assert names == ["slice-agreement-generated", "slice-aji-generated", "parallel-generated"]
    weight, rule = varied(results.study)
    (budget,) = of_budget(results, results.tables[0])
    assert budget.name == "budget-generated"
    assert weight.logarithmic and rule.words == ["top_fraction", "mean", "otsu"]


def test_equal_numbers_are_equal_bytes(tmp_path: Path) -> None:
    results = search(tmp_path)
    first, second = (next(of_settings(results, results.tables[0])) for _ in range(2))
    assert (first.svg, first.pdf) == (second.svg, second.pdf)


def test_the_objective_is_ranked_within_a_data_set(tmp_path: Path) -> None:
    # Every cell's agreement is its AJI on the first image plus 0.1: the ranks are the same.
    results = finished(tmp_path, NUMBERS, images=1)
    lost, *others = (cell.key_label for cell in results.study.cells)
    facts = {**results.facts, lost: {"agreement": float("nan")}}
    points = objective_points(replace(results, facts=facts), "generated")
    assert list(points) == others
    assert all(x == pytest.approx(y + 0.1) for _, x, y in points.values())
    assert not objective_points(results, "another")
    plots = {plot.name: plot for plot in figures_section(results).blocks}  # type: ignore[union-attr]
    assert "over 8 cells: 1.00 (1.00 to 1.00)." in plots["objective-generated"].caption


def test_nothing_measured_nothing_drawn(tmp_path: Path, drawn_only: None) -> None:
    results = finished(tmp_path, NUMBERS, images=0)
    names = [plot.name for plot in figures_section(results).blocks]  # type: ignore[union-attr]
    assert names == ["rounds-generated"]


def test_places_on_an_axis() -> None:
    found = Varied("a.b", {"x": 0.01, "y": 0.1, "z": 10.0})
    assert found.logarithmic
    assert [found.fraction(level) for level in "xyz"] == pytest.approx([0, 1 / 3, 1])
    assert not Varied("a.b", {"x": 1, "y": 3}).logarithmic
    assert not Varied("a.b", {"x": True, "y": 2}).numeric
    assert Varied("a.b", {"x": 5}).fraction("x") == 0.5
    # A search says itself how its axis goes.
    assert not Varied("a.b", {"x": 0.01, "y": 10.0}, "lin").logarithmic


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 5, 10], [0, 5, 10]),
        ([0, 0, 10], [-0.5, 0.5, 10]),
        ([3, 0, 0.5], [3, -0.25, 0.75]),
        ([0, 0.9, 1.8], [-0.1, 0.9, 1.9]),
    ],
)
def test_labels_are_moved_apart_and_keep_their_order(
    given: list[float], expected: list[float]
) -> None:
    assert spread(given, 1.0) == pytest.approx(expected)


def test_few_levels_have_colours_and_many_have_one_that_stands_out() -> None:
    def colours(looks: Mapping[str, Mapping[str, object]]) -> set[object]:
        return {look["color"] for look in looks.values()}

    few = strokes(["base", *"abc"], "base", "a")
    assert len(colours(few)) == 4 and all(map(is_named, few.values()))
    levels = ["base", *(str(i) for i in range(len(PALETTE) + 1))]
    many = strokes(levels, "base", "3")
    assert [level for level in levels if is_named(many[level])] == ["base", "3"]
