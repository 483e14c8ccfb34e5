"""Mining: nuclei that no instance covers, drawn by a segmenter that is asked in many places.

Lengths in px at 0.25 um/px; ``scale`` = 0.25 / mpp adapts them, and its square areas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.settings import Mine
from coin_ray.imaging.stain import Standard
from coin_ray.labels import (
    BoolArray,
    InstanceMasks,
    LabelMap,
    areas,
    count,
    keep_instances,
    relabel,
)

Points = NDArray[np.float64]
LEAST_EVIDENCE = -1.0
"""Standard deviations of the image: a peak of the stain below it is tissue."""
LEAST_PROBABILITY = 0.05
"""A peak of the student's probability below it is what the student says of anything."""
AT_ONCE = 256
"""Prompts of one request: a mask of SAM may be the whole tile until it is thrown away."""


@dataclass(frozen=True)
class Candidates:
    """Masks (M) of some of N prompts: ``points_yx`` (N, 2), ``asked`` (M,) whose mask it is. The
    others drew nothing, or what has not the area of a nucleus."""

    masks: InstanceMasks
    points_yx: Points
    asked: NDArray[np.int64]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for the store."""
        return {**self.masks.to_arrays(), "points_yx": self.points_yx, "asked": self.asked}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Candidates:
        """Inverse of :meth:`to_arrays`."""
        return cls(InstanceMasks.from_arrays(arrays), arrays["points_yx"], arrays["asked"])

    @classmethod
    def join(cls, parts: list[Candidates]) -> Candidates:
        """Those of all ``parts``, none included; a point of several is one of the first."""
        points = np.concatenate([np.zeros((0, 2)), *(part.points_yx for part in parts)])
        _, first, same = np.unique(points, axis=0, return_index=True, return_inverse=True)
        starts = np.cumsum([0, *(len(part.points_yx) for part in parts)])
        moved = [part.asked + start for part, start in zip(parts, starts, strict=False)]
        at = np.concatenate([np.zeros(0, np.int64), *moved])
        kept = np.flatnonzero(first[same.ravel()[at]] == at)
        masks = InstanceMasks.join([_NONE, *(part.masks for part in parts)]).take(kept)
        firsts = np.sort(first)
        return cls(masks, points[firsts], np.searchsorted(firsts, at[kept]))


_NONE = InstanceMasks(np.zeros((0, 4), np.int64), [], np.zeros(0, np.float32))


def grid_points(shape: tuple[int, int], step: int, *, scale: float) -> Points:
    """(N, 2) yx of a grid of ``step`` px over an image of ``shape`` (H, W), from half a step on:
    the same in tiles of an image that begin at multiples of a step."""
    every = max(1, round(step * scale))
    axes = [np.arange(every // 2, n, every) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float64)


def peaks(
    values: NDArray[np.floating], where: BoolArray, least: float, step: int, *, scale: float
) -> Points:
    """(N, 2) yx of the pixels of ``where`` (H, W) whose value is above ``least`` and that of no
    other within ``step`` px; of a plateau one pixel a 4-connected piece, the first."""
    from scipy.ndimage import label

    from coin_ray.imaging.instances import disk_maximum

    height = np.where(where & (values > least), values, -np.inf).astype(np.float32)
    found = np.isfinite(height) & (height == disk_maximum(height, max(1, round(step * scale))))
    pieces = label(found)[0].ravel()
    _, first = np.unique(pieces, return_index=True)
    at = np.sort(first[pieces[first] > 0])
    return np.stack(np.unravel_index(at, values.shape), axis=1).astype(np.float64)


def stain_points(
    image: NDArray[np.uint8],
    sigmas: dict[str, float],
    step: int,
    *,
    scale: float,
    standard: Standard | None = None,
) -> Points:
    """(N, 2) yx of the peaks of the stain evidence of an image (H, W, 3), ``sigmas`` and
    ``standard`` as of ``imaging.stain.evidence_maps``."""
    from coin_ray.imaging.stain import evidence_maps

    found = evidence_maps(image, **sigmas, scale=scale, standard=standard).evidence
    everywhere = np.ones(found.shape, dtype=bool)
    return peaks(found, everywhere, LEAST_EVIDENCE, step, scale=scale)


def ask(
    points_yx: Points, draw: Callable[[Prompts], InstanceMasks], mine: Mine, *, scale: float
) -> Candidates:
    """The masks that the segmenter ``draw``s of points (N, 2), those of the area of a nucleus."""
    parts, asked = [_NONE], [np.zeros(0, np.int64)]
    low, high = mine.min_area * scale**2, mine.max_area * scale**2
    for start in range(0, len(points_yx), AT_ONCE):
        masks = draw(Prompts(points_yx[start : start + AT_ONCE]))
        size = masks.areas()
        kept = np.flatnonzero((size >= max(1, low)) & (size <= high))
        parts.append(masks.take(kept))
        asked.append(start + kept)
    return Candidates(InstanceMasks.join(parts), points_yx, np.concatenate(asked))


def mined(
    candidates: Candidates, covered: BoolArray, mine: Mine, *, scale: float
) -> tuple[LabelMap, NDArray[np.float32]]:
    """The masks that are nuclei outside ``covered`` (H, W), as a label map (H, W) in which no pixel
    of ``covered`` has an id, and the predicted IoU of each, (N,).

    Their prompt is free, and so is a share of ``min_free`` and at least ``min_area`` px of them;
    the segmenter expects an IoU of ``min_iou`` of itself, and the other prompts that lie in them
    drew the same (``min_agreement``). Of masks that share more than ``max_contained`` of the
    smaller one the surest stays, and it lies on top where they share less.
    """
    masks, points = candidates.masks, candidates.points_yx.astype(np.int64)
    y, x = points[candidates.asked].T
    least = max(1, mine.min_area * scale**2)
    at = np.flatnonzero((masks.predicted_iou >= mine.min_iou) & ~covered[y, x])
    free = np.array([int((~_under(masks, i, covered)).sum()) for i in at.tolist()], dtype=np.int64)
    at = at[(free >= mine.min_free * masks.take(at).areas()) & (free >= least)]
    if mine.min_agreement > 0:
        at = at[agreement(candidates, at) >= mine.min_agreement]
    found = masks.take(at)
    kept = found.distinct(found.predicted_iou, 1.0, max_contained=mine.max_contained)
    found = found.take(kept[::-1])  # in ascending predicted IoU
    painted = np.where(covered, 0, found.layers(covered.shape, found.predicted_iou))
    seen = np.bincount(painted.ravel(), minlength=len(found) + 1)[1:] >= least
    return keep_instances(painted.astype(np.int32), seen), found.predicted_iou[seen]


def _under(masks: InstanceMasks, i: int, values: NDArray[Any]) -> NDArray[Any]:
    """``values`` (H, W) in mask ``i``, (area,)."""
    y0, x0, y1, x1 = masks.boxes[i].tolist()
    found: NDArray[Any] = values[y0:y1, x0:x1][masks.crops[i]]
    return found


def agreement(candidates: Candidates, which: NDArray[np.integer]) -> NDArray[np.float64]:
    """Mean IoU of each mask of ``which`` (K,) with those of the other prompts that lie in it, (K,)
    in [0, 1]: 0 of a prompt without a mask, 1 where there is no other prompt."""
    masks, points = candidates.masks, candidates.points_yx.astype(np.int64)
    drawn = np.full(len(points), -1)
    drawn[candidates.asked] = np.arange(len(masks))
    size, found = masks.areas(), np.ones(len(which))
    for k, i in enumerate(which.tolist()):
        y0, x0, y1, x1 = masks.boxes[i].tolist()
        near = np.flatnonzero(((points >= (y0, x0)) & (points < (y1, x1))).all(axis=1))
        near = near[near != candidates.asked[i]]
        near = near[masks.crops[i][points[near, 0] - y0, points[near, 1] - x0]]
        others = drawn[near]
        if not len(others):
            continue
        others = others[others >= 0]
        others = others[masks.near(i, others)]
        shared = np.array([masks.shared(i, j) for j in others.tolist()], dtype=np.int64)
        found[k] = (shared / (size[i] + size[others] - shared)).sum() / len(near)
    return found


def still_free(found: LabelMap, covered: BoolArray, mine: Mine, *, scale: float) -> LabelMap:
    """The mined instances ``found`` (H, W) of which ``covered`` (H, W) leaves a share of
    ``min_free`` and at least ``min_area`` px: of the others only slivers would be seen."""
    size = areas(found)
    left = np.bincount(found[~covered], minlength=len(size) + 1)[1:]
    least = max(1, mine.min_area * scale**2)
    return keep_instances(found, (left >= mine.min_free * size) & (left >= least))


def completed(label_map: LabelMap, found: LabelMap) -> LabelMap:
    """``label_map`` (H, W) with the mined instances ``found`` (H, W) in its background: what it has
    keeps its ids and every pixel, the new ones come after them."""
    new = np.where(label_map > 0, 0, found)
    return np.where(new > 0, relabel(new) + count(label_map), label_map).astype(np.int32)
