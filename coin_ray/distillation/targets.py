"""Pseudo labels of one image: what the student is told and what it is not (COIN Eqs. 9, 10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, InstanceMasks, LabelMap, boundaries, count

Source = Literal["segmenter", "prediction", "intersection"]
SAME_NUCLEUS = 0.5  # IoU above which two masks are of one nucleus


def _no_masks() -> InstanceMasks:
    return InstanceMasks.from_label_map(np.zeros((1, 1), dtype=np.int32))


@dataclass(frozen=True)
class Memory:
    """The masks that labels were painted from, and their ``scores`` (M,); empty at first."""

    masks: InstanceMasks = field(default_factory=_no_masks)
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def updated(self, masks: InstanceMasks, scores: NDArray[np.floating]) -> Memory:
        """With newly accepted ``masks`` and their ``scores``.

        Of masks of one nucleus (IoU > 0.5) the one of the highest score stays, of equal scores the
        remembered one. So the same masks accepted again change nothing.
        """
        everything = InstanceMasks.join([self.masks, masks])
        all_scores = np.concatenate([self.scores, scores]).astype(np.float32)
        kept = np.sort(everything.distinct(all_scores, SAME_NUCLEUS))
        return Memory(everything.take(kept), all_scores[kept])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for the store."""
        return {**self.masks.to_arrays(), "scores": self.scores}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Memory:
        """Inverse of :meth:`to_arrays`; other arrays among them are left alone."""
        return cls(InstanceMasks.from_arrays(arrays), arrays["scores"])


@dataclass(frozen=True)
class PseudoLabels:
    """Targets of one image.

    ``label_map`` (H, W) int32, 0 = background, ids 1..N = painted accepted instances;
    ``ignore`` (H, W) bool, pixels without a target, never True on a painted instance;
    ``memory`` for the next refresh, None without one.
    """

    label_map: LabelMap
    ignore: BoolArray
    memory: Memory | None = None


def pseudo_labels(
    label_map: LabelMap,
    masks: InstanceMasks | None,
    scores: NDArray[np.floating],
    accepted: BoolArray,
    *,
    source: Source,
    missed_foreground: BoolArray | None = None,
    memory: Memory | None = None,
) -> PseudoLabels:
    """Accepted instances painted, rejected ones ignored, all else background (COIN Eq. 9).

    ``label_map`` (H, W) int32 holds the predicted instances 1..N, ``masks`` the N masks of the
    promptable segmenter (unused, may be None, with source ``prediction``), ``scores`` and
    ``accepted`` have length N.  Every pixel of a predicted instance starts as ignore; then the
    accepted instances are painted in ascending score, so that the more consistent one wins an
    overlap: the segmenter's mask as it is (pixels outside the instance become foreground too), the
    predicted instance itself, or the intersection of both.  ``missed_foreground`` (H, W) bool marks
    background that should not be taught as such (Step-1 foreground the student lost): ignored
    wherever nothing is painted.  With a ``memory`` the masks of earlier refreshes are painted too,
    each unless a better one of the same nucleus was accepted since (:meth:`Memory.updated`).
    ValueError when the lengths disagree.
    """
    n = count(label_map)
    if len(scores) != n or len(accepted) != n or (masks is not None and len(masks) != n):
        found = (len(scores), len(accepted), None if masks is None else len(masks))
        raise ValueError(f"{n} instances, but scores, accepted, masks have lengths {found}")
    chosen = np.flatnonzero(accepted)
    paint = drawn_masks(label_map, masks, source).take(chosen)
    by_score = np.asarray(scores)[chosen]
    if memory is not None:
        memory = memory.updated(paint, by_score)
        paint, by_score = memory.masks, memory.scores
    painted = paint.paint(label_map.shape, by_score)
    ignore = label_map > 0
    if missed_foreground is not None:
        ignore |= missed_foreground
    return PseudoLabels(painted, ignore & (painted == 0), memory)


def drawn_masks(label_map: LabelMap, masks: InstanceMasks | None, source: Source) -> InstanceMasks:
    """The mask that stands for each instance."""
    if source == "prediction":
        return InstanceMasks.from_label_map(label_map)
    if masks is None:
        raise ValueError(f"source {source!r} needs the segmenter's masks")
    if source == "segmenter":
        return masks
    crops = [
        crop & (label_map[y0:y1, x0:x1] == i + 1)
        for i, (crop, (y0, x0, y1, x1)) in enumerate(
            zip(masks.crops, masks.boxes.tolist(), strict=True)
        )
    ]
    return InstanceMasks(masks.boxes, crops, masks.predicted_iou)


def edge_target(label_map: LabelMap) -> BoolArray:
    """(H, W) True on instance pixels that touch another id or background (COIN Eq. 10).

    One pixel wide against background, two where instances touch, with ids above 255 kept apart: the
    union of the instances' contours in one pass, in place of one edge detector run per instance.
    """
    return boundaries(label_map)
