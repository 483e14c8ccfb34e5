"""Pseudo labels against their truth table, their memory, and the edge targets against drawings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import literal
from coin_ray.distillation.canny import canny_target
from coin_ray.distillation.targets import Memory, edge_target, pseudo_labels
from coin_ray.labels import InstanceMasks, relabel


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


def random_case(seed: int) -> tuple[np.ndarray, InstanceMasks, np.ndarray, np.ndarray]:
    """Instances, a mask of each (shifted, so that masks overlap), scores with ties, accepted."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :24]
    labels = np.zeros((24, 24), dtype=np.int32)
    for i, (y0, x0, r) in enumerate(rng.uniform((0, 0, 2), (24, 24, 6), (6, 3)), start=1):
        labels[(y - y0) ** 2 + (x - x0) ** 2 < r * r] = i
    labels = relabel(labels)
    n = int(labels.max())
    full = [np.roll(labels == i + 1, rng.integers(-3, 4, 2), (0, 1)) for i in range(n)]
    scores = np.round(rng.random(n), 1).astype(np.float32)
    return labels, drawn(*full), scores, rng.random(n) < 0.6


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), source=st.sampled_from(["segmenter", "intersection"]))
def test_pseudo_labels_pixel_by_pixel(seed: int, source: str) -> None:
    """Every pixel: the accepted mask of highest score on it, else ignored if predicted."""
    labels, masks, scores, accepted = random_case(seed)
    got = pseudo_labels(labels, masks, scores, accepted, source=source)  # type: ignore[arg-type]
    order = [i for i in np.argsort(scores, kind="stable") if accepted[i]]
    owner = np.full(labels.shape, -1)
    for i in order:
        own = masks.crops[i] & ((labels == i + 1) if source == "intersection" else True)
        owner[own] = i
    assert np.array_equal(got.label_map > 0, owner >= 0)
    assert np.array_equal(got.ignore, (labels > 0) & (owner < 0))
    pairs = set(zip(owner[owner >= 0].tolist(), got.label_map[owner >= 0].tolist(), strict=True))
    assert len(pairs) == len({i for i, _ in pairs}) == got.label_map.max()
    ranks = [order.index(i) for i, _ in sorted(pairs, key=lambda p: p[1])]
    assert ranks == sorted(ranks)  # ids follow the score


NOTHING = np.zeros((1, 9), dtype=np.int32)


def test_memory_by_hand() -> None:
    first = pseudo_labels(
        LABELS, MASKS, SCORES, ACCEPTED, source="segmenter", memory=Memory()
    ).memory
    assert first is not None and first.scores.tolist() == pytest.approx([0.9, 0.7])
    # The student predicts nothing any more: what was accepted stays.
    kept = pseudo_labels(
        NOTHING, drawn(), np.zeros(0), np.zeros(0, bool), source="segmenter", memory=first
    )
    assert kept.label_map.tolist() == [[0, 2, 2, 2, 0, 0, 0, 1, 1]]
    assert not kept.ignore.any()
    # A mask of the same nucleus (IoU 2/3 > .5) replaces it if it scores higher, and only then; one
    # beside it (IoU 1/4) joins in.
    same = np.array([[0, 1, 1, 0, 0, 0, 0, 0, 0]])
    beside = np.array([[0, 0, 0, 1, 1, 0, 0, 0, 0]])
    for mask, score, painted, scores in [
        (same, 0.95, [0, 2, 2, 0, 0, 0, 0, 1, 1], [0.7, 0.95]),
        (same, 0.9, [0, 2, 2, 2, 0, 0, 0, 1, 1], [0.9, 0.7]),
        (same, 0.1, [0, 2, 2, 2, 0, 0, 0, 1, 1], [0.9, 0.7]),
        (beside, 0.1, [0, 3, 3, 3, 1, 0, 0, 2, 2], [0.9, 0.7, 0.1]),
    ]:
        got = pseudo_labels(
            mask.astype(np.int32), drawn(mask), np.array([score]), np.ones(1, bool),
            source="segmenter", memory=first,
        )  # fmt: skip
        assert got.label_map.tolist() == [painted]
        assert got.memory is not None and got.memory.scores.tolist() == pytest.approx(scores)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), other=st.integers(0, 10**6))
def test_the_same_masks_again_change_nothing(seed: int, other: int) -> None:
    labels, masks, scores, accepted = random_case(seed)
    memory = Memory()
    for case in (random_case(other), (labels, masks, scores, accepted)):
        memory = memory.updated(case[1].take(np.flatnonzero(case[3])), case[2][case[3]])
    again = memory.updated(masks.take(np.flatnonzero(accepted)), scores[accepted])
    assert np.array_equal(again.masks.boxes, memory.masks.boxes)
    assert np.array_equal(again.scores, memory.scores)
    stored = Memory.from_arrays(memory.to_arrays() | {"label_map": labels})
    assert np.array_equal(stored.scores, memory.scores)
    for a, b in zip(stored.masks.crops, memory.masks.crops, strict=True):
        assert np.array_equal(a, b)


def test_canny_line_runs_half_inside_and_half_outside() -> None:
    """A square by hand: of two equally strong rows the upper one, of two columns the left one."""
    labels = np.zeros((12, 12), dtype=np.int32)
    labels[3:9, 3:9] = 1
    found = canny_target(labels)
    assert found[2, 4:8].all() and not found[3, 4:8].any()  # above: just outside
    assert found[8, 4:8].all() and not found[9, 4:8].any()  # below: just inside
    assert found[4:8, 2].all() and found[4:8, 8].all()
    assert not found[4:8, 4:8].any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_canny_is_the_union_of_a_literal_canny_per_instance(seed: int) -> None:
    labels = random_case(seed)[0]
    expected = np.zeros(labels.shape, dtype=bool)
    for i in range(1, labels.max() + 1):
        expected |= literal.canny((labels == i).astype(np.uint8) * 255, 100, 200)
    assert np.array_equal(canny_target(labels), expected)


def test_canny_keeps_ids_above_255_apart_and_has_none_without_instances() -> None:
    side = 20
    labels = (np.arange(side * side, dtype=np.int32) + 1).reshape(side, side).repeat(6, 0)
    labels = labels.repeat(6, 1)
    assert canny_target(labels)[5::6].mean() > 0.9  # a line between any two rows of squares
    assert not canny_target(np.zeros((5, 5), np.int32)).any()
    assert not canny_target(np.ones((5, 5), np.int32)).any()  # the image's end is no edge
