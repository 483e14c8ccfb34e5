"""Errors of a prediction, by hand and against the metric that counts them."""

from __future__ import annotations

import numpy as np
import pytest

from coin_ray.metrics.contingency import contingency
from coin_ray.metrics.mistakes import CAUSES, errors
from coin_ray.metrics.panoptic import panoptic
from tests.test_metrics_definitions import SQUARE, draw

TWO = (SQUARE, (2, 6, 6, 10))
BESIDE = [(2, 2, 6, 6), (8, 8, 10, 10)]
CASES = {
    "right": ([SQUARE], [SQUARE], {}),
    "missed": ([SQUARE], [], {"missed": 1}),
    "hardly met": ([SQUARE], [(5, 5, 9, 9)], {"missed": 1, "false": 1}),
    "merged": (TWO, [(2, 2, 6, 10)], {"merged": 2}),
    "one of two swallowed": (
        [(2, 2, 6, 8), (2, 8, 6, 10)], [(2, 2, 6, 10)], {"merged": 1}
    ),
    "split": ([SQUARE], [(2, 2, 6, 4), (2, 4, 6, 6)], {"split": 1}),
    "too small": ([SQUARE], [(2, 2, 4, 5)], {"outline": 1}),
    "one too many": ([SQUARE], BESIDE, {"false": 1}),
    "nothing there": ([], [SQUARE], {"false": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_causes_by_hand(name: str) -> None:
    true, predicted, expected = CASES[name]
    found = errors(contingency(draw(*true), draw(*predicted)))
    assert found.causes == dict.fromkeys(CAUSES, 0) | expected


def test_ids_are_those_of_the_maps() -> None:
    true, predicted = draw(*TWO) * 10, draw((2, 2, 6, 6), (8, 8, 10, 10)) * 7
    found = errors(contingency(true, predicted))
    assert found.false_negative.tolist() == [20] and found.false_positive.tolist() == [14]


@pytest.mark.parametrize("seed", range(20))
def test_they_are_the_errors_that_dq_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, predicted = (
        np.kron(rng.integers(0, 5, (6, 6)), np.ones((3, 3), int))[: 15 + shift, :17][-15:]
        for shift in (0, 1)
    )
    table = contingency(true, predicted)
    found = errors(table)
    fp, fn = len(found.false_positive), len(found.false_negative)
    tp = len(table.true_areas) - fn
    assert tp == len(table.predicted_areas) - fp
    assert panoptic(table).dq == pytest.approx(tp / (tp + fp / 2 + fn / 2))
    assert sum(found.causes[name] for name in CAUSES[:4]) == fn and found.causes["false"] <= fp
