"""Verdicts against published numbers, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coin_ray.errors import UserError
from coin_ray.report.document.published import published_section
from coin_ray.report.values.published import published_for, verdict
from coin_ray.report.values.statements import statements
from coin_ray.report.values.study_results import read_results
from coin_ray.statistics.intervals import Estimate
from coin_ray.study.resolved import Published
from tests.report_study import NUMBERS, finished

PAPER = Published("A paper", {"mae": {"MoNuSeg_test": {"aji": 0.58}}}, note="one run")


@pytest.mark.parametrize(
    ("own", "low", "high", "expected"),
    [
        (0.585, 0.55, 0.61, "reproduced"),
        (0.5904, 0.55, 0.61, "reproduced"),  # 0.590 at the precision of the published 0.580
        (0.585, 0.583, 0.587, "within tolerance"),  # close, and our interval excludes it
        (0.585, None, None, "within tolerance"),  # one image: no interval that could hold it
        (0.591, 0.55, 0.61, "differs"),
        (0.5, 0.4, 0.6, "differs"),  # the interval holds it, but the numbers are not close
        (None, None, None, "missing"),
    ],
)
def test_verdicts(own: float | None, low: float | None, high: float | None, expected: str) -> None:
    mean = None if own is None else Estimate(own, low, high, 8, 2)
    found, inside = verdict(mean, 0.58, tolerance=0.01, comparable=True)
    assert (found, inside) == (expected, bool(low and high and low <= 0.58 <= high))
    assert verdict(mean, 0.58, tolerance=0.01, comparable=False) == ("not comparable", False)


def test_numbers_belong_to_a_data_set_whatever_its_spelling_and_to_profiles() -> None:
    same = published_for(PAPER, "coin", "monuseg-test")
    assert same.rows == {"mae": {"aji": 0.58}} and same.comparable
    assert same.note == "Published: A paper (one run)."
    other = published_for(PAPER, "mini", "MoNuSeg-test")
    assert other.rows and not other.comparable
    assert other.note.endswith("not comparable with profile mini on MoNuSeg-test.")
    assert not published_for(PAPER, "coin", "TNBC").rows


def test_table_of_verdicts(tmp_path: Path) -> None:
    paper = """
published:
  source: A paper
  comparable: [mini]
  rows:
    "0.1": {generated: {aji: 0.5, pq: 0.9}}
    "off": {generated: {aji: 0.5}}
"""
    results = finished(
        tmp_path,
        NUMBERS + paper,
        value=lambda cell, step, image: 0.4 + 0.1 * image,  # means 0.5 and, of PQ, 0.51
        without=["off"],
    )
    section = published_section(results)
    assert section is not None
    table = section.blocks[0]
    rows = {(row[0].text, row[1].text): [value.text for value in row[2:]] for row in table.rows}  # type: ignore[union-attr]
    assert rows == {
        ("0.1", "AJI"): ["0.500", "0.500", "+0.000", "reproduced"],
        ("0.1", "PQ"): ["0.510", "0.900", "−0.390", "differs"],
        ("off", "AJI"): ["missing", "0.500", "–", "missing"],
    }


TEXT = """
published:
  source: A paper
  comparable: [mini]
  tolerance: 0.02
  unlike: {pq: another PQ}
  rows: {"0.1": {generated: {aji: 0.5, pq: 0.9}}}
  statements:
    - {says: flat over lambda, kind: spread, metric: aji, value: 0.112,
       levels: ["0.1", "1.0", "3.0"]}
    - {says: transport helps, kind: difference, metric: aji, levels: "0.1", than: "off", value: 0.3}
    - {says: flat at the end, kind: flat, metric: aji, levels: "0.1", value: 0.0}
    - {says: the deviation falls, kind: trend, metric: score_std, levels: "0.1", value: -0.09}
    - {says: slower, kind: slower, metric: train, levels: "0.1", than: "off", value: 0.5}
    - {says: as fast, kind: slower, metric: infer, levels: "0.1", than: "off", value: 0.0}
    - {says: of another metric, kind: spread, metric: pq, levels: ["0.1", "1.0"], value: 0.05}
"""
LEVELS = {"off": 0.1, "0.1": 0.3, "1.0": 0.25, "3.0": 0.2}


def test_what_the_text_says(tmp_path: Path) -> None:
    results = finished(
        tmp_path,
        NUMBERS + TEXT,
        value=lambda cell, step, image: LEVELS[cell.level] * (1 + 0.1 * image) + 0.01 * step,
    )
    for cell in results.study.cells:
        took = {"train": 60.0 if cell.level == "0.1" else 40.0}
        (results.runs / cell.key_label / "times.json").write_text(json.dumps(took))
    results = read_results(results.study, results.runs)
    found = {one.statement.says: one for one in statements(results, "generated")}
    told = {
        says: (None if one.own is None else round(one.own.mean, 6), one.verdict, one.same_way)
        for says, one in found.items()
    }
    assert told == {
        "flat over lambda": (0.11, "reproduced", True),
        "transport helps": (0.22, "differs", True),
        "flat at the end": (0.01, "within tolerance", None),
        "the deviation falls": (-0.1, "within tolerance", True),
        "slower": (0.5, "within tolerance", True),
        "as fast": (None, "missing", None),
        "of another metric": (0.055, "not comparable", True),
    }
    section = published_section(results)
    assert section is not None
    claims, said = section.blocks[:2]
    assert [r[-1].text for r in claims.rows] == ["differs", "not comparable"]  # type: ignore[union-attr]
    assert claims.rows[1][-1].detail == "another PQ"  # type: ignore[union-attr]
    assert said.rows[1][-1].detail == "in the same direction"  # type: ignore[union-attr]


def test_a_statement_names_levels_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown level '0\.11'"):
        finished(tmp_path, NUMBERS + TEXT.replace('levels: "0.1", than', 'levels: "0.11", than'))
