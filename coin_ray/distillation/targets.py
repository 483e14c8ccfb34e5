"""Pseudo labels of one image: what the student is told and what it is not (COIN Eqs. 9, 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, InstanceMasks, LabelMap, boundaries, boxes, count, relabel

Source = Literal["segmenter", "prediction", "intersection"]


@dataclass(frozen=True)
class PseudoLabels:
    """Targets of one image.

    ``label_map`` (H, W) int32, 0 = background, ids 1..N = painted accepted instances;
    ``ignore`` (H, W) bool, pixels without a target, never True on a painted instance.
    """

    label_map: LabelMap
    ignore: BoolArray


def pseudo_labels(
    label_map: LabelMap,
    masks: InstanceMasks | None,
    scores: NDArray[np.floating],
    accepted: BoolArray,
    *,
    source: Source,
    missed_foreground: BoolArray | None = None,
) -> PseudoLabels:
    """Accepted instances painted, rejected ones ignored, all else background (COIN Eq. 9).

    ``label_map`` (H, W) int32 holds the predicted instances 1..N, ``masks`` the N masks of the
    promptable segmenter (unused, may be None, with source ``prediction``), ``scores`` and
    ``accepted`` have length N.  Every pixel of a predicted instance starts as ignore; then the
    accepted instances are painted in ascending score, so that the more consistent one wins an
    overlap: the segmenter's mask as it is (pixels outside the instance become foreground too), the
    predicted instance itself, or the intersection of both.  ``missed_foreground`` (H, W) bool marks
    background that should not be taught as such (Step-1 foreground the student lost): ignored
    wherever nothing is painted.  ValueError when the lengths disagree.
    """
    n = count(label_map)
    if len(scores) != n or len(accepted) != n or (masks is not None and len(masks) != n):
        found = (len(scores), len(accepted), None if masks is None else len(masks))
        raise ValueError(f"{n} instances, but scores, accepted, masks have lengths {found}")
    if source != "prediction" and masks is None:
        raise ValueError(f"source {source!r} needs the segmenter's masks")
    painted = np.zeros_like(label_map)
    own = boxes(label_map)
    order = np.argsort(scores, kind="stable")
    for new_id, i in enumerate(order[np.asarray(accepted, dtype=bool)[order]].tolist(), start=1):
        if source == "prediction":
            y0, x0, y1, x1 = own[i].tolist()
            region = label_map[y0:y1, x0:x1] == i + 1
        else:
            assert masks is not None
            y0, x0, y1, x1 = masks.boxes[i].tolist()
            region = masks.crops[i]
            if source == "intersection":
                region = region & (label_map[y0:y1, x0:x1] == i + 1)
        painted[y0:y1, x0:x1][region] = new_id
    ignore = label_map > 0
    if missed_foreground is not None:
        ignore |= missed_foreground
    # A mask that later ones covered completely has left a gap in the ids.
    return PseudoLabels(relabel(painted), ignore & (painted == 0))


def edge_target(label_map: LabelMap) -> BoolArray:
    """(H, W) True on instance pixels that touch another id or background (COIN Eq. 10).

    One pixel wide against background, two where instances touch, with ids above 255 kept apart: the
    union of the instances' contours in one pass, in place of one edge detector run per instance.
    """
    return boundaries(label_map)
