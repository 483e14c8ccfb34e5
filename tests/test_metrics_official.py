"""The public evaluator's quirks, against a literal and slow transcription of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coin_ray.labels import relabel
from coin_ray.metrics.evaluate import evaluate
from coin_ray.metrics.official import evaluate_official
from coin_ray.metrics.settings import Evaluate


def literal(true, predicted):
    """AJI and PQ with full-image masks and the indices of the public evaluator."""
    true_ids, predicted_ids = np.unique(true)[1:], np.unique(predicted)[1:]
    try:
        used = [0] * len(predicted_ids)
        above = below = 0
        for i in true_ids:
            mask, best, best_iou = true == i, None, -1.0
            for j in np.unique(predicted[mask]):
                if j not in predicted_ids:
                    continue
                other = predicted == j
                iou = (mask & other).sum() / (mask | other).sum()
                if iou > best_iou:
                    best, best_iou = j, iou
            if best is None:
                below += mask.sum()
                continue
            above += (mask & (predicted == best)).sum()
            below += (mask | (predicted == best)).sum()
            used[best - 1] = 1
        below += sum((predicted == j).sum() for k, j in enumerate(predicted_ids) if not used[k])
        masks = [None, *(predicted == j for j in predicted_ids)]
        truths = [None, *(true == i for i in true_ids)]
        matched, total = [], 0.0
        for i in range(1, len(true_ids)):  # one short: the list was re-indexed from 0
            for j in np.unique(predicted[truths[i]]):
                if j not in predicted_ids:
                    continue
                iou = (truths[i] & masks[j]).sum() / (truths[i] | masks[j]).sum()
                if iou > 0.5:
                    matched.append(int(j))
                    total += iou
        tp = len(matched)
        fp, fn = len(predicted_ids) - len(set(matched)), len(true_ids) - 1 - tp
        dq = tp / (tp + fp / 2 + fn / 2 + 1e-6)
        return above / below, dq * total / (tp + 1e-6)
    except IndexError:
        return 0.0, 0.0


def random_pair(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 7, (5, 5))
    true = np.repeat(np.repeat(coarse, 4, 0), 4, 1)
    predicted = np.roll(true, rng.integers(-1, 2), 1)
    if seed % 3 == 0:  # gaps: an id vanishes
        predicted = np.where(predicted == rng.integers(1, 7), 0, predicted)
    if seed % 5 == 0:  # no background
        predicted = predicted + 1
    return true, predicted if seed % 3 == 0 else relabel(predicted) + (seed % 5 == 0)


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_literal_transcription(seed):
    true, predicted = random_pair(seed)
    v = evaluate_official(true, predicted)
    assert [v["official_aji"], v["official_pq"]] == pytest.approx(literal(true, predicted))


def test_the_random_pairs_reach_both_outcomes():
    scores = [literal(*random_pair(seed))[0] for seed in range(40)]
    assert any(s == 0 for s in scores)
    assert any(s > 0.5 for s in scores)


def grid(n):
    """n instances of 2 x 2 pixels with background between."""
    out = np.zeros((3 * math.ceil(n / 25), 75), dtype=np.int32)
    for i in range(n):
        out[3 * (i // 25) : 3 * (i // 25) + 2, 3 * (i % 25) : 3 * (i % 25) + 2] = i + 1
    return out


@pytest.mark.parametrize("n", [2, 10, 575])
def test_panoptic_of_a_perfect_prediction(n):
    v = evaluate(grid(n), grid(n), Evaluate())
    assert v["official_pq"] == pytest.approx((n - 1) / (n - 0.5), abs=1e-5)
    assert v["pq"] == 1
    if n == 575:
        assert v["official_pq"] == pytest.approx(0.99913, abs=5e-6)


def test_gap_in_the_ids_sets_the_image_to_zero_unless_ordered():
    predicted = np.where(grid(10) == 4, 0, grid(10))
    assert evaluate_official(grid(10), predicted)["official_aji"] == 0
    ordered = evaluate_official(grid(10), relabel(predicted))
    assert ordered["official_aji"] == pytest.approx(9 / 10)


def test_dice_is_smoothed_and_two_on_empty():
    empty = np.zeros((4, 4), dtype=np.int32)
    assert evaluate_official(empty, empty)["official_dice"] == 2
    half = empty.copy()
    half[:2] = 1
    assert evaluate_official(half, half)["official_dice"] == pytest.approx(2 * 9 / 17)
    assert math.isnan(evaluate_official(empty, half)["official_aji"])


def test_headline_is_the_mean_of_both_classes():
    true, predicted = np.zeros((2, 4), np.int32), np.zeros((2, 4), np.int32)
    true[0], predicted[0, :2] = 1, 1
    v = evaluate_official(true, predicted)
    # foreground: 2 of 4 found; background: 4 of 6
    assert v["official_miou"] == pytest.approx((2 / 4 + 4 / 6) / 2)
    assert v["official_mfn"] == pytest.approx((2 / 4 + 0) / 2)
    assert v["official_mfp"] == pytest.approx((0 + 2 / 6) / 2)


def test_both_evaluators_are_reported_under_different_names():
    v = evaluate(grid(3), grid(3), Evaluate())
    assert {"aji", "official_aji", "pq", "official_pq", "dice", "official_dice"} <= set(v)
