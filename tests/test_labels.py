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
