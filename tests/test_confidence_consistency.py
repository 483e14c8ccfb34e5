"""Network-free consistency scores against hand values and against each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray.confidence import consistency as room
from coin_ray.imaging.instances import split_instances
from coin_ray.imaging.settings import Instances
from coin_ray.labels import relabel
from coin_ray.ucis.settings import Ucis
from coin_ray.ucis.stain import stain_mask
from tests.test_imaging_stain import field


def discs(*centres_radii: tuple[int, int, int], shape: tuple[int, int] = (80, 120)) -> np.ndarray:
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, dtype=np.int32)
    for i, (y, x, r) in enumerate(centres_radii):
        labels[(yy - y) ** 2 + (xx - x) ** 2 <= r * r] = i + 1
    return labels


def test_best_iou_of_hand_made_maps() -> None:
    first = np.zeros((10, 30), dtype=np.int32)
    first[:, 0:10], first[:, 10:20], first[0, 25] = 1, 2, 3
    second = np.zeros_like(first)
    second[:, 0:5], second[:, 5:18] = 1, 2
    expected = [50 / 100, 80 / (100 + 130 - 80), 0]
    np.testing.assert_allclose(room.best_iou(first, second), expected)
    np.testing.assert_array_equal(room.best_iou(first, np.zeros_like(first)), 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_best_iou_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (relabel(rng.integers(0, 5, (9, 11))) for _ in range(2))
    expected = [
        max(
            ((a == i) & (b == j)).sum() / ((a == i) | (b == j)).sum() for j in range(1, b.max() + 1)
        )
        for i in range(1, a.max() + 1)
    ]
    np.testing.assert_allclose(room.best_iou(a, b), expected)


def test_discs_and_ellipses_fit_and_crosses_do_not() -> None:
    labels = discs((20, 20, 12))
    yy, xx = np.mgrid[:80, :120]
    labels[((yy - 50) / 20) ** 2 + ((xx - 60 - 0.5 * (yy - 50)) / 8) ** 2 <= 1] = 2  # sheared
    labels[10:40, 95:99] = 3
    labels[23:27, 82:112] = 3
    scores = room.ellipse_fit(labels)
    assert scores[0] > 0.95
    assert scores[1] > 0.95
    assert scores[2] < 0.6
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_single_pixel_and_a_line_have_an_ellipse() -> None:
    labels = np.zeros((9, 20), dtype=np.int32)
    labels[2, 2] = 1
    labels[6, 3:18] = 2
    scores = room.ellipse_fit(labels)
    assert np.isfinite(scores).all()
    assert (scores > 0.5).all()


def test_regrowth_finds_the_true_outline_and_not_a_wrong_one() -> None:
    truth = discs((25, 25, 12), (25, 85, 12))
    evidence = np.where(truth > 0, 1.0, -1.0)
    wrong = discs((25, 25, 12), (25, 85, 6))  # half the radius of what is there
    scores = room.regrowth_agreement(evidence, wrong)
    assert scores[0] > 0.85
    assert scores[1] < 0.6


def test_ring_contrast_is_finite_and_neutral_for_walled_in_instances() -> None:
    labels = discs((25, 25, 12), (25, 85, 12), (60, 60, 12))
    evidence = np.select([labels == 1, labels == 2, labels == 3], [3.0, 1.0, 2.0], 0.0)
    np.testing.assert_allclose(room.ring_contrast(evidence, labels), [3, 1, 2])
    labels[58:63, 58:63] = 4  # inside 3
    scores = room.ring_contrast(np.where(labels == 4, 2.0, evidence), labels)
    np.testing.assert_allclose(scores, [3, 1, 2, 2])


def test_mean_rank() -> None:
    ranks = room.mean_rank([np.array([0.1, 0.9, 0.5]), np.array([10.0, 30.0, 30.0])])
    np.testing.assert_allclose(ranks, [1 / 6, (5 / 6 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2])
    assert room.mean_rank([np.array([7.0])]).tolist() == [0.5]
    assert room.mean_rank([np.zeros(0)]).shape == (0,)


def test_scores_of_a_map_without_instances_are_empty() -> None:
    labels, evidence = np.zeros((12, 12), np.int32), np.zeros((12, 12), np.float32)
    image, rng = np.full((12, 12, 3), 255, np.uint8), np.random.default_rng(0)
    for scores in (
        room.ellipse_fit(labels),
        room.ring_contrast(evidence, labels),
        room.regrowth_agreement(evidence, labels),
        room.stain_jitter_agreement(image, labels, lambda i: np.zeros(i.shape[:2], np.int32), rng),
    ):
        assert scores.shape == (0,)
        assert scores.dtype == np.float32


def segment(image: np.ndarray) -> np.ndarray:
    return split_instances(stain_mask(image, Ucis()), Instances(footprint=9))


def test_true_instances_agree_under_jitter_and_invented_ones_do_not() -> None:
    image, truth = field(size=160)
    labels = split_instances(truth, Instances(footprint=9))
    invented = labels.max() + 1
    labels[28:38, 28:38] = invented  # background between four nuclei
    scores = room.stain_jitter_agreement(image, labels, segment, np.random.default_rng(3))
    assert np.median(scores[:-1]) > 0.7
    assert scores[-1] < 0.2
    again = room.stain_jitter_agreement(image, labels, segment, np.random.default_rng(3))
    np.testing.assert_array_equal(scores, again)
    other = room.stain_jitter_agreement(image, labels, segment, np.random.default_rng(4))
    assert (scores != other).any()


def test_jitter_zooms_and_comes_back_to_the_same_place() -> None:
    labels = discs((25, 25, 12), (60, 85, 12))
    image = np.where(labels[..., None] > 0, 80, 230).astype(np.uint8).repeat(3, axis=2)
    shapes = []

    def dark(picture: np.ndarray) -> np.ndarray:
        shapes.append(picture.shape[:2])
        return split_instances(picture.mean(axis=2) < 150, Instances(footprint=9))

    scores = room.stain_jitter_agreement(
        image, labels, dark, np.random.default_rng(0), draws=3, sigma=0.0
    )
    assert shapes == [(64, 96), (100, 150), (64, 96)]
    assert (scores > 0.9).all()
