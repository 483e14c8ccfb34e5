"""Metrics against values worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from coin_ray.errors import UserError
from coin_ray.metrics.aji import aji, aji_plus, assign
from coin_ray.metrics.contingency import contingency
from coin_ray.metrics.evaluate import evaluate
from coin_ray.metrics.panoptic import panoptic
from coin_ray.metrics.settings import Evaluate


def draw(*boxes):
    """12 x 12 map; box i (y0, x0, y1, x1) gets id i + 1."""
    out = np.zeros((12, 12), dtype=np.int32)
    for i, (y0, x0, y1, x1) in enumerate(boxes):
        out[y0:y1, x0:x1] = i + 1
    return out


SQUARE = (2, 2, 6, 6)
THREE = (SQUARE, (2, 7, 6, 11), (7, 2, 11, 6))
COLUMNS = "AJI, AJI+, DQ, SQ, PQ, Dice, the AJI of cellpose"
CASES = {
    "shifted": ([SQUARE], [(2, 3, 6, 7)], "3/5 3/5 1 3/5 3/5 3/4 3/5"),
    "split": ([SQUARE], [(2, 2, 6, 4), (2, 4, 6, 6)], "1/3 1/3 0 0 0 1 1/2"),
    "merged": ([SQUARE, (2, 6, 6, 10)], [(2, 2, 6, 10)], "1/2 1/3 0 0 0 1 1/2"),
    "one too many": ([SQUARE], [SQUARE, (8, 8, 10, 10)], "4/5 4/5 2/3 1 2/3 8/9 4/5"),
    "exact, part, missed": (
        THREE,
        [SQUARE, (2, 7, 6, 10)],
        "7/12 7/12 4/5 7/8 7/10 14/19 7/12",
    ),
    "prediction empty": ([SQUARE], [], "0 0 0 0 0 0 0"),
    "truth empty": ([], [SQUARE], "0 0 0 0 0 0 0"),
}


@pytest.mark.parametrize("name", CASES)
def test_toy_values(name):
    true, predicted, expected = CASES[name]
    table = contingency(draw(*true), draw(*predicted))
    quality = panoptic(table)
    values = evaluate(draw(*true), draw(*predicted), Evaluate())
    # the "AJI" of cellpose counts the union of the foregrounds once: matched pixels over it
    foreground = table.true_areas.sum() + table.predicted_areas.sum() - table.intersection.sum()
    cellpose = table.intersection[assign(table)].sum() / foreground
    found = [
        aji(table),
        aji_plus(table),
        quality.dq,
        quality.sq,
        quality.pq,
        values["dice"],
        cellpose,
    ]
    assert found == pytest.approx([float(Fraction(v)) for v in expected.split()], abs=1e-12), (
        COLUMNS
    )
    assert [values[k] for k in ("aji", "aji_plus", "dq", "sq", "pq")] == found[:5]


def test_both_empty_is_skipped():
    values = evaluate(draw(), draw(), Evaluate())
    for name in ("aji", "aji_plus", "pq", "sq", "dq", "dice", "iou", "miou", "fn", "fp"):
        assert math.isnan(values[name]), name
    assert values["n_true"] == values["n_predicted"] == 0


def test_pixel_metrics_by_hand():
    # truth 16 px, prediction 24 px, 12 in common, 144 in all: union 28, outside both 116
    values = evaluate(draw(SQUARE), draw((2, 3, 6, 9)), Evaluate())
    assert values["iou"] == pytest.approx(12 / 28)
    assert values["fn"] == pytest.approx(4 / 28)
    assert values["fp"] == pytest.approx(12 / 28)
    assert values["miou"] == pytest.approx((12 / 28 + 116 / 132) / 2)
    assert values["dice"] == pytest.approx(24 / 40)


def test_maps_without_background():
    full = np.ones((4, 4), dtype=np.int32)
    values = evaluate(full, full, Evaluate(), official=False)
    assert values["aji"] == values["pq"] == values["miou"] == 1


def test_published_values_of_another_implementation():
    """The 4 x 4 maps and values that MONAI checks its panoptic quality with."""
    true = np.array([[1, 1, 2, 1], [0, 0, 0, 0], [1, 3, 0, 0], [4, 3, 3, 3]])
    predicted = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [2, 0, 3, 3], [4, 2, 2, 0]])
    assert panoptic(contingency(true, predicted)).pq == pytest.approx(0.25)


def test_aji_and_assignment_differ_where_one_prediction_serves_two():
    true, predicted = draw(SQUARE, (2, 6, 6, 10)), draw((2, 2, 6, 10))
    table = contingency(true, predicted)
    assert list(assign(table)) == [0]
    # swapped, AJI is another number: it is not symmetric
    assert aji(table) == pytest.approx(1 / 2)
    assert aji(contingency(predicted, true)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("predicted", [draw(SQUARE) > 0, draw(SQUARE).astype(float)])
def test_masks_are_no_label_maps(predicted):
    with pytest.raises(UserError, match="no label map"):
        evaluate(draw(SQUARE), predicted, Evaluate())


def test_sizes_must_agree():
    with pytest.raises(UserError, match=r"differ in size[\s\S]*\(12, 12\)[\s\S]*\(12, 11\)"):
        evaluate(draw(SQUARE), draw(SQUARE)[:, :-1], Evaluate())


def test_negative_ids_are_refused():
    with pytest.raises(UserError, match="negative"):
        evaluate(draw(SQUARE), -draw(SQUARE), Evaluate())
