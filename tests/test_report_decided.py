"""A level that was decided by its first random seeds is compared over them; one that lacks seeds
for another reason is not said to be decided."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from coin_ray.report.values.comparisons import comparisons
from coin_ray.report.values.ends import ends
from coin_ray.study.resolved import ResolvedStudy
from tests.test_report_comparisons import frame, noisy, one_factor, study


def test_a_level_that_was_decided_early_is_compared_over_its_seeds() -> None:
    given = study(one_factor("base", "early"), seeds=range(6), first_seeds=2)
    full = frame(given, noisy({"base": 0.0, "early": 0.2}))

    def compared(part: pl.DataFrame, given: ResolvedStudy, why: str = "", seed: int = 2) -> dict:
        left = [c.key_label for c in given.cells if c.level == "early" and c.seed >= seed]
        ended = ends(part, given, dict.fromkeys(left, why))
        return comparisons(part, given, ended).to_dicts()[0]

    part = full.filter((pl.col("level") == "base") | (pl.col("seed") < 2))
    found = compared(part, given, "decided after 2 random seeds: better")
    assert found["reason"] is None and found["verdict"] == "better"
    assert (found["seeds"], found["p_image"]) == (2, 2 / 2**12)
    assert "decided after 2 of 6 random seeds" in found["caution"]
    assert "2 random seeds: p by seed cannot go below 0.5" in found["caution"]
    # While it is run a study holds no cell of the seeds that a decided level gets no more.
    own = tuple(c for c in given.cells if c.level == "base" or c.seed < 2)
    assert compared(part, replace(given, cells=own))["verdict"] == "better"
    # What has failed, or has not run yet, was decided by nothing.
    for why in ("", "the disk is full", "the 2 hours of its gates were spent"):
        found = compared(part, given, why)
        assert found["caution"].endswith("missing: random seed 2, 3, 4, 5")
        assert "no test: random seeds 0, 1 here" in found["reason"] and found["verdict"] == "open"
    assert (
        "missing"
        in compared(part, given, "decided after 3 random seeds: better", seed=3)["caution"]
    )
