"""Label maps and overlapping masks: ids, boxes and the packed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coin_ray.labels import InstanceMasks, areas, boundaries, boxes, centroids, relabel

MAPS = hnp.arrays(
    np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 6)
)


@pytest.mark.parametrize(
    ("given_ids", "wanted"),
    [
        ([[0, 5], [70_000, 5]], [[0, 1], [2, 1]]),
        ([[3, 5], [9, 9]], [[1, 2], [3, 3]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    ],
)
def test_ids_become_contiguous_in_their_order(given_ids, wanted):
    assert relabel(np.array(given_ids)).tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(MAPS)
def test_relabelling_keeps_the_partition(label_map):
    new = relabel(label_map)
    assert new.dtype == np.int32
    assert ((new == 0) == (label_map == 0)).all()
    pairs = np.unique(np.stack([label_map.ravel(), new.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))
    assert set(np.unique(new)) - {0} == set(range(1, int(new.max()) + 1))


@settings(max_examples=60, deadline=None)
@given(MAPS)
def test_masks_survive_the_packed_form(label_map):
    masks = InstanceMasks.from_label_map(relabel(label_map))
    again = InstanceMasks.from_arrays(masks.to_arrays())
    np.testing.assert_array_equal(again.boxes, masks.boxes)
    assert [c.tolist() for c in again.crops] == [c.tolist() for c in masks.crops]
    assert again.areas().tolist() == areas(relabel(label_map)).tolist()


def test_boxes_are_half_open_and_centroids_are_means():
    label_map = np.zeros((6, 8), np.int32)
    label_map[1:3, 2:6] = 1
    label_map[5, 7] = 2
    assert boxes(label_map).tolist() == [[1, 2, 3, 6], [5, 7, 6, 8]]
    assert centroids(label_map).tolist() == [[1.5, 3.5], [5.0, 7.0]]


def test_touching_instances_have_a_boundary_between_them():
    label_map = np.ones((3, 4), np.int32)
    label_map[:, 2:] = 2
    assert boundaries(label_map).tolist() == [[False, True, True, False]] * 3
    assert not boundaries(np.ones((3, 3), np.int32)).any()


def random_masks(seed: int) -> tuple[InstanceMasks, np.ndarray, np.ndarray]:
    """Masks that overlap, the same at full size (n, 12, 14), and scores with ties."""
    rng = np.random.default_rng(seed)
    full = np.zeros((int(rng.integers(0, 7)), 12, 14), dtype=bool)
    for mask in full:
        y, x = rng.integers(0, 9, 2)
        mask[y : y + rng.integers(1, 7), x : x + rng.integers(1, 7)] = True
    parts = [InstanceMasks.from_label_map(mask.astype(np.int32)) for mask in full]
    empty = InstanceMasks.from_label_map(np.zeros((1, 1), np.int32))
    return InstanceMasks.join([empty, *parts]), full, np.round(rng.random(len(full)), 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    limit=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    contained=st.sampled_from([0.3, 1.0]),
)
def test_distinct_masks_are_the_greedy_choice(seed, limit, contained):
    masks, full, scores = random_masks(seed)
    kept = masks.distinct(scores, limit, max_contained=contained).tolist()

    def apart(i, j):
        both = (full[i] & full[j]).sum()
        smaller = min(full[i].sum(), full[j].sum())
        return both <= limit * (full[i] | full[j]).sum() and both <= contained * smaller

    before = [[j for j in kept if (-scores[j], j) < (-scores[i], i)] for i in range(len(full))]
    for i, better in enumerate(before):
        assert (i in kept) == all(apart(i, j) for j in better)
    assert kept == sorted(kept, key=lambda i: (-scores[i], i))
    assert min(limit, contained) < 1 or len(kept) == len(full)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_best_mask_is_painted_last(seed):
    masks, full, scores = random_masks(seed)
    painted = masks.paint((12, 14), scores)
    owner = np.full((12, 14), -1)
    for i in np.argsort(scores, kind="stable"):
        owner[full[i]] = i
    assert np.array_equal(painted > 0, owner >= 0)
    assert painted.max(initial=0) == len(np.unique(owner[owner >= 0]))
    for i in np.unique(owner[owner >= 0]):
        assert len(np.unique(painted[owner == i])) == 1
    order = np.arange(len(full))[::-1]
    turned = masks.take(order)
    assert np.array_equal(turned.boxes, masks.boxes[order])
    assert [c.sum() for c in turned.crops] == full[order].sum(axis=(1, 2)).tolist()
