"""Mining of missed nuclei: where it asks, what it accepts, and that nothing covered is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from coin_ray.confidence import mining
from coin_ray.confidence.mining import Candidates
from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.confidence.settings import Mine
from coin_ray.data.synthetic import generated_samples
from coin_ray.labels import InstanceMasks, count, keep_instances

SHAPE = (40, 50)


def disk(y: int, x: int, radius: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    yy, xx = np.indices(shape)
    return (yy - y) ** 2 + (xx - x) ** 2 <= radius**2


def candidates(*drawn: tuple[tuple[int, int], np.ndarray | None, float]) -> Candidates:
    """Of points, each with its mask, or none, and the IoU that the segmenter expects."""
    parts = [InstanceMasks.from_label_map(np.zeros((1, 1), np.int32))]
    parts += [
        InstanceMasks.from_label_map(m.astype(np.int32)) for _, m, _ in drawn if m is not None
    ]
    masks = InstanceMasks.join(parts)
    expected = np.array([iou for _, m, iou in drawn if m is not None], dtype=np.float32)
    asked = np.array([i for i, (_, m, _) in enumerate(drawn) if m is not None], dtype=np.int64)
    points = np.array([point for point, _, _ in drawn], dtype=float).reshape(-1, 2)
    return Candidates(InstanceMasks(masks.boxes, masks.crops, expected), points, asked)


def nothing() -> np.ndarray:
    return np.zeros(SHAPE, dtype=bool)


def test_the_grid_is_the_same_in_tiles_of_an_image() -> None:
    whole = mining.grid_points((64, 48), 8, scale=1.0)
    assert len(whole) == 8 * 6 and whole.min() == 4
    right = mining.grid_points((64, 24), 8, scale=1.0) + np.array([0, 24])
    assert {tuple(p) for p in right} < {tuple(p) for p in whole}
    assert len(mining.grid_points((64, 48), 8, scale=0.5)) == 16 * 12
    assert len(mining.grid_points((2, 2), 8, scale=1.0)) == 0


def test_peaks_are_the_highest_within_a_step_where_they_may_be() -> None:
    values = np.zeros(SHAPE, dtype=np.float32)
    values[10, 10], values[10, 14], values[10, 30], values[30, 30] = 0.9, 0.4, 0.3, 0.01
    values[20:22, 40:43] = 0.5  # a plateau is one peak
    found = mining.peaks(values, ~nothing(), 0.05, 6, scale=1.0)
    assert found.tolist() == [[10, 10], [10, 30], [20, 40]]
    allowed = ~disk(10, 10, 2)  # what is covered casts no shadow
    assert [10, 14] in mining.peaks(values, allowed, 0.05, 6, scale=1.0).tolist()
    assert len(mining.peaks(values, nothing(), 0.05, 6, scale=1.0)) == 0


def test_of_a_nucleus_its_part_and_two_drawn_as_one_the_surest_stays() -> None:
    whole, part = disk(20, 20, 8), disk(20, 17, 3)
    both = disk(20, 20, 8) | disk(20, 35, 8)
    other = disk(20, 35, 8)
    found = candidates(
        ((20, 20), whole, 0.95), ((20, 17), part, 0.9), ((20, 27), both, 0.85),
        ((20, 35), other, 0.9),
    )  # fmt: skip
    label_map, sure = mining.mined(found, nothing(), Mine(min_area=20), scale=1.0)
    assert count(label_map) == 2
    assert np.array_equal(label_map > 0, whole | other)
    np.testing.assert_allclose(sure, [0.9, 0.95], atol=1e-6)  # of the ids, in their order
    # IoU alone would have kept the part, too.
    assert {0, 1, 3} <= set(found.masks.distinct(found.masks.predicted_iou, 0.5))


def test_nothing_covered_is_overwritten_and_covered_prompts_are_refused() -> None:
    covered = disk(20, 20, 8)
    beside, mostly, inside = disk(20, 35, 6), disk(10, 20, 6), disk(20, 22, 9)
    found = candidates(((20, 35), beside, 0.9), ((8, 20), mostly, 0.9), ((20, 22), inside, 0.99))
    mine = Mine(min_area=20, min_free=0.7)
    label_map, _ = mining.mined(found, covered, mine, scale=1.0)
    assert not label_map[covered].any()
    assert np.array_equal(label_map > 0, (beside | mostly) & ~covered)
    strict = Mine(min_area=20, min_free=0.99)
    assert count(mining.mined(found, covered, strict, scale=1.0)[0]) == 1
    instances = np.where(covered, 1, 0).astype(np.int32)
    whole = mining.completed(instances, label_map)
    assert np.array_equal(whole[covered], instances[covered])
    assert count(whole) == 3 and set(np.unique(whole)) == {0, 1, 2, 3}


def test_what_the_segmenter_doubts_and_what_is_small_are_no_nuclei() -> None:
    found = candidates(((20, 20), disk(20, 20, 8), 0.7), ((20, 38), disk(20, 38, 3), 0.9))
    for mine, n in (
        (Mine(min_area=20), 1), (Mine(min_area=20, min_iou=0.6), 2), (Mine(min_iou=0.6), 1),
        (Mine(min_area=20, min_iou=0.95), 0),
    ):  # fmt: skip
        label_map, sure = mining.mined(found, nothing(), mine, scale=1.0)
        assert count(label_map) == len(sure) == n


def test_agreement_is_with_the_other_prompts_inside() -> None:
    whole, half = disk(20, 20, 8), disk(20, 20, 8) & (np.indices(SHAPE)[1] <= 20)
    found = candidates(
        ((20, 20), whole, 0.9), ((20, 16), half, 0.9), ((20, 24), whole, 0.9),
        ((20, 40), disk(20, 40, 4), 0.9), ((16, 20), None, 0.0), ((2, 2), None, 0.0),
    )  # fmt: skip
    share = half.sum() / whole.sum()
    # Of the half, the prompts beside it lie outside: those on its edge column are inside.
    by_hand = [(share + 1 + 0) / 3, (share + 0) / 2, (share + 1 + 0) / 3, 1.0]
    np.testing.assert_allclose(mining.agreement(found, np.arange(4)), by_hand)
    assert count(mining.mined(found, nothing(), Mine(min_area=20), scale=1.0)[0]) == 2
    agreed = Mine(min_area=20, min_agreement=0.7)
    label_map, _ = mining.mined(found, nothing(), agreed, scale=1.0)
    assert np.array_equal(label_map > 0, disk(20, 40, 4))


def test_candidates_of_several_terms_count_a_point_once() -> None:
    one = candidates(((20, 20), disk(20, 20, 8), 0.9), ((5, 5), None, 0.0))
    two = candidates(((20, 38), disk(20, 38, 5), 0.8), ((20, 20), disk(20, 20, 8), 0.9))
    joined = Candidates.join([one, two])
    assert joined.points_yx.tolist() == [[20, 20], [5, 5], [20, 38]]
    assert joined.asked.tolist() == [0, 2]
    assert joined.masks.areas().tolist() == [disk(20, 20, 8).sum(), disk(20, 38, 5).sum()]
    again = Candidates.from_arrays(joined.to_arrays())
    assert (
        again.asked.tolist() == [0, 2] and again.masks.boxes.tolist() == joined.masks.boxes.tolist()
    )
    none = Candidates.join([])
    assert len(none.masks) == len(none.points_yx) == 0
    assert count(mining.mined(none, nothing(), Mine(), scale=1.0)[0]) == 0


def test_masks_of_no_nucleus_are_thrown_away_as_they_come() -> None:
    """SAM draws a tile where it sees no object: no more than a request's are held at a time."""
    asked: list[int] = []

    def draw(prompts: Prompts) -> InstanceMasks:
        asked.append(len(prompts))
        n = len(prompts)
        return InstanceMasks(
            np.tile([0, 0, 100, 100], (n, 1)),
            [np.ones((100, 100), bool)] * n,
            np.ones(n, np.float32),
        )

    points = mining.grid_points((100, 100), 5, scale=1.0)
    found = mining.ask(points, draw, Mine(), scale=1.0)
    assert sum(asked) == len(points) == len(found.points_yx) == 400
    assert max(asked) <= mining.AT_ONCE and len(found.masks) == 0
    assert len(mining.ask(points, draw, Mine(max_area=10_000), scale=1.0).masks) == 400
    assert len(mining.ask(points, draw, Mine(), scale=2.0).masks) == 400  # 10 000 px are 2 500


def test_nuclei_that_a_coarse_mask_lost_are_found(tmp_path: Any) -> None:
    """Half of the nuclei of a generated tile are known: most of the others are found, and hardly
    anything else."""
    (sample,) = generated_samples(tmp_path, 1, size=160, seed=11)
    image, truth = sample.load_image(), sample.load_label_map()
    known = np.arange(count(truth)) % 2 == 0
    covered = keep_instances(truth, known) > 0
    lost = InstanceMasks.from_label_map(keep_instances(truth, ~known))
    segmenter = load_segmenter("mini", batch=64)
    seen = segmenter.encode(image)

    def draw(prompts: Prompts) -> InstanceMasks:
        return segmenter.decode(seen, prompts, image.shape[:2])

    mine = Mine(points=("grid",), min_iou=0.7)
    found = mining.ask(mining.grid_points(image.shape[:2], 8, scale=1.0), draw, mine, scale=1.0)
    label_map, _ = mining.mined(found, covered, mine, scale=1.0)
    assert not label_map[covered].any()
    hit = lost.best_iou(label_map) > 0.5
    assert hit.mean() > 0.5
    assert hit.sum() > 0.5 * count(label_map)
    blank = np.full_like(image, 240)
    seen = segmenter.encode(blank)
    found = mining.ask(found.points_yx, draw, mine, scale=1.0)
    assert count(mining.mined(found, np.zeros_like(covered), mine, scale=1.0)[0]) == 0


def test_a_term_stands_once() -> None:
    assert Mine().points == ()
    with pytest.raises(ValidationError, match="twice"):
        Mine(points=("grid", "grid"))
