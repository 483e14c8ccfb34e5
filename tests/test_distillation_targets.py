"""Pseudo labels against their truth table, and the edge target against a drawing."""

from __future__ import annotations

import numpy as np
import pytest

from coin_ray.distillation.targets import edge_target, pseudo_labels
from coin_ray.labels import InstanceMasks


def drawn(*masks: np.ndarray) -> InstanceMasks:
    """Full-size masks as InstanceMasks whose boxes are the whole image."""
    box = np.array([[0, 0, *m.shape] for m in masks], dtype=np.int64).reshape(-1, 4)
    return InstanceMasks(box, [m.astype(bool) for m in masks], np.ones(len(masks), np.float32))


# Columns:      0  1  2  3  4  5  6  7  8
LABELS = np.array([[1, 1, 1, 0, 2, 2, 0, 3, 0]], dtype=np.int32)
MASKS = drawn(
    np.array([[0, 1, 1, 1, 0, 0, 0, 0, 0]]),  # of 1: leaves column 0, adds column 3
    np.array([[0, 0, 0, 0, 1, 1, 1, 0, 0]]),  # of 2
    np.array([[0, 0, 0, 0, 0, 0, 0, 1, 1]]),  # of 3
)
SCORES = np.array([0.9, 0.5, 0.7])
ACCEPTED = np.array([True, False, True])


def test_truth_table_with_the_segmenters_masks() -> None:
    got = pseudo_labels(LABELS, MASKS, SCORES, ACCEPTED, source="segmenter")
    # Ids follow the score: instance 3 (.7) is painted first, instance 1 (.9) second.
    assert got.label_map.tolist() == [[0, 2, 2, 2, 0, 0, 0, 1, 1]]
    # Column 0: predicted, not in the accepted mask.  4, 5: rejected.  6: nobody's, so background.
    assert got.ignore.tolist() == [[True, False, False, False, True, True, False, False, False]]


@pytest.mark.parametrize(
    ("source", "labels", "ignored"),
    [
        ("prediction", [2, 2, 2, 0, 0, 0, 0, 1, 0], {4, 5}),
        ("intersection", [0, 2, 2, 0, 0, 0, 0, 1, 0], {0, 4, 5}),
    ],
)
def test_other_sources(source: str, labels: list[int], ignored: set[int]) -> None:
    got = pseudo_labels(LABELS, MASKS, SCORES, ACCEPTED, source=source)  # type: ignore[arg-type]
    assert got.label_map.tolist() == [labels]
    assert set(np.flatnonzero(got.ignore[0])) == ignored


def test_missed_foreground_is_ignored_where_nothing_is_painted() -> None:
    missed = np.zeros((1, 9), dtype=bool)
    missed[0, [3, 6]] = True
    got = pseudo_labels(
        LABELS, MASKS, SCORES, ACCEPTED, source="segmenter", missed_foreground=missed
    )
    assert got.ignore[0, 6] and not got.ignore[0, 3]


@pytest.mark.parametrize("scores", [[0.2, 0.8], [0.8, 0.2]])
def test_the_higher_score_wins_an_overlap(scores: list[float]) -> None:
    labels = np.array([[1, 1, 2, 2]], dtype=np.int32)
    masks = drawn(np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]]))
    got = pseudo_labels(labels, masks, np.array(scores), np.ones(2, bool), source="segmenter")
    first_wins = scores[0] > scores[1]
    assert got.label_map.tolist() == [[2, 2, 2, 1] if first_wins else [1, 2, 2, 2]]


def test_accepted_mask_over_a_rejected_instance_is_foreground() -> None:
    labels = np.array([[1, 1, 2, 2]], dtype=np.int32)
    masks = drawn(np.array([[1, 1, 1, 0]]), np.array([[0, 0, 1, 1]]))
    got = pseudo_labels(
        labels, masks, np.array([0.9, 0.1]), np.array([True, False]), source="segmenter"
    )
    assert got.label_map.tolist() == [[1, 1, 1, 0]]
    assert got.ignore.tolist() == [[False, False, False, True]]


def test_covered_mask_leaves_no_gap_in_the_ids() -> None:
    labels = np.array([[1, 2, 3, 3]], dtype=np.int32)
    masks = drawn(np.array([[1, 0, 0, 0]]), np.array([[1, 1, 0, 0]]), np.array([[0, 0, 1, 1]]))
    got = pseudo_labels(
        labels, masks, np.array([0.1, 0.5, 0.9]), np.ones(3, bool), source="segmenter"
    )
    assert got.label_map.tolist() == [[1, 1, 2, 2]]


def test_more_than_255_instances_keep_their_ids_and_edges() -> None:
    side = 20
    labels = (np.arange(side * side, dtype=np.int32) + 1).reshape(side, side).repeat(4, 0)
    labels = labels.repeat(4, 1)
    n = side * side
    got = pseudo_labels(
        labels, None, np.linspace(0, 1, n), np.ones(n, dtype=bool), source="prediction"
    )
    assert len(np.unique(got.label_map)) == n and got.label_map.min() == 1
    assert np.array_equal(got.label_map, labels)
    # 4x4 squares without gaps: the contour of each is its ring, its 2x2 core is not.
    core = np.zeros(labels.shape, dtype=bool)
    core[1::4, 1::4] = core[1::4, 2::4] = core[2::4, 1::4] = core[2::4, 2::4] = True
    inner = edge_target(got.label_map)[4:-4, 4:-4]
    assert np.array_equal(inner, ~core[4:-4, 4:-4])


def test_no_instance_at_all_is_background() -> None:
    empty = np.zeros((3, 4), dtype=np.int32)
    got = pseudo_labels(empty, drawn(), np.zeros(0), np.zeros(0, bool), source="segmenter")
    assert not got.label_map.any() and not got.ignore.any()


def test_lengths_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="3 instances"):
        pseudo_labels(LABELS, MASKS, SCORES[:2], ACCEPTED, source="segmenter")
    with pytest.raises(ValueError, match="needs the segmenter"):
        pseudo_labels(LABELS, None, SCORES, ACCEPTED, source="intersection")


def test_edge_is_the_inner_contour_and_the_contact_line() -> None:
    labels = np.zeros((5, 8), dtype=np.int32)
    labels[1:4, 1:4], labels[1:4, 4:7] = 1, 2
    got = edge_target(labels)
    assert got[1:4, 3].all() and got[1:4, 4].all()  # both sides of the contact
    assert not got[2, 2] and not got[2, 5]  # the interiors
    assert not got[labels == 0].any()
