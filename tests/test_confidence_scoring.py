"""Score (Eq. 6) on masks with known IoU; what sanity checks look at; prompt points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray.confidence.prompts import prompt_points
from coin_ray.confidence.scoring import agreement, area_ratios, holds_points
from coin_ray.labels import InstanceMasks, relabel


def masks_of(*full: np.ndarray) -> InstanceMasks:
    """Full-size masks cut to their boxes, as a segmenter returns them."""
    boxes, crops = [], []
    for mask in full:
        y, x = np.nonzero(mask)
        box = (y.min(), x.min(), y.max() + 1, x.max() + 1) if len(y) else (0, 0, 0, 0)
        boxes.append(box)
        crops.append(mask[box[0] : box[2], box[1] : box[3]])
    shape = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    return InstanceMasks(shape, crops, np.ones(len(full), np.float32))


def square(shape: tuple[int, int], y: int, x: int, side: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_hand_made_masks_of_known_iou() -> None:
    labels = np.zeros((40, 60), dtype=np.int32)
    labels[2:12, 2:12] = 1
    labels[2:12, 20:30] = 2
    labels[20:30, 2:12] = 3
    labels[20:30, 20:30] = 4
    shifted = square(labels.shape, 2, 25, 10)  # half of it: 50 / 150
    larger = np.zeros(labels.shape, dtype=bool)
    larger[20:30, 2:22] = True  # twice the area, and it covers 2 columns of instance 4
    nothing = np.zeros(labels.shape, dtype=bool)
    scores = agreement(labels, masks_of(labels == 1, shifted, larger, nothing))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        scores, [100 / (100 + 1e-5), 50 / (150 + 1e-5), 100 / (200 + 1e-5), 0], rtol=1e-6
    )


def test_a_mask_beside_its_instance_scores_zero() -> None:
    labels = square((30, 30), 0, 0, 5).astype(np.int32)
    assert agreement(labels, masks_of(square((30, 30), 20, 20, 5))).tolist() == [0.0]


def test_no_instances_and_a_wrong_number() -> None:
    empty = np.zeros((8, 8), dtype=np.int32)
    assert agreement(empty, masks_of()).shape == (0,)
    with pytest.raises(ValueError, match="0 masks for 1 instances"):
        agreement(square((8, 8), 1, 1, 3).astype(np.int32), masks_of())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6))
def test_scores_equal_full_image_arithmetic(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = relabel(rng.integers(0, n + 1, (15, 18)))
    n = int(labels.max())
    full = rng.random((n, 15, 18)) < 0.3
    expected = [
        (m & (labels == i + 1)).sum() / ((m | (labels == i + 1)).sum() + 1e-5)
        for i, m in enumerate(full)
    ]
    np.testing.assert_allclose(agreement(labels, masks_of(*full)), expected, rtol=1e-5)


def test_area_ratios_and_prompts_inside_by_hand() -> None:
    labels = np.zeros((30, 30), dtype=np.int32)
    labels[2:6, 2:6], labels[10:14, 10:14], labels[20:24, 20:24] = 1, 2, 3
    ring = square((30, 30), 8, 8, 8)
    ring[11:13, 11:13] = False
    masks = masks_of(square((30, 30), 2, 2, 2), ring, np.zeros((30, 30), bool))
    np.testing.assert_allclose(area_ratios(labels, masks), [4 / 16, 60 / 16, 0])
    points = np.array([[3.0, 3.0], [11.0, 12.0], [21.0, 21.0]])
    assert holds_points(masks, points).tolist() == [True, False, False]
    assert holds_points(masks, points - [[2, 2], [0, 3], [0, 0]]).tolist() == [False, True, False]
    assert holds_points(masks_of(), np.zeros((0, 2))).shape == (0,)
    assert area_ratios(np.zeros((4, 4), np.int32), masks_of()).shape == (0,)


def test_centroid_prompts_are_rounded_down() -> None:
    labels = np.zeros((20, 20), dtype=np.int32)
    labels[2:4, 5:8] = 1  # mean (2.5, 6)
    labels[10:20, 10:15] = 2  # mean (14.5, 12)
    assert prompt_points(labels, "centroid").tolist() == [[2, 6], [14, 12]]
    assert prompt_points(np.zeros((5, 5), np.int32), "centroid").shape == (0, 2)
    assert prompt_points(np.zeros((5, 5), np.int32), "innermost").shape == (0, 2)


def test_innermost_prompts_lie_inside_where_the_centroid_does_not() -> None:
    labels = np.zeros((40, 40), dtype=np.int32)
    labels[5:35, 5:10] = 1  # a U: arms of 5 px, floor of 9 px
    labels[5:35, 30:35] = 1
    labels[26:35, 5:35] = 1
    y, x = prompt_points(labels, "centroid")[0].astype(int)
    assert labels[y, x] == 0
    y, x = prompt_points(labels, "innermost")[0].astype(int)
    assert labels[y, x] == 1
    assert y in (29, 30, 31)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 5))
def test_innermost_prompts_belong_to_their_instance(seed: int, n: int) -> None:
    labels = relabel(np.random.default_rng(seed).integers(0, n + 1, (9, 12)))
    y, x = prompt_points(labels, "innermost").astype(int).T
    np.testing.assert_array_equal(labels[y, x], np.arange(labels.max()) + 1)


def test_innermost_of_a_full_image_and_of_an_odd_square() -> None:
    assert prompt_points(np.ones((9, 9), np.int32), "innermost").tolist() == [[4, 4]]
    labels = np.zeros((20, 20), np.int32)
    labels[3:10, 8:15] = 1
    assert prompt_points(labels, "innermost").tolist() == [[6, 11]]
