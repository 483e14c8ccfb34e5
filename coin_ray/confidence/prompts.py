"""What a promptable segmenter is told of each instance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import InstanceMasks, LabelMap, boundaries, boxes, centroids, first_pixels


@dataclass(frozen=True)
class Prompts:
    """N instances to draw: from a point inside each, from its box, or from its mask and the point.

    ``points_yx`` (N, 2) pixel positions. ``boxes_yxyx`` (N, 4), half-open, stand in the place of
    the points; ``masks`` (N) beside them, and so do ``negatives_yx`` (N, K, 2), points outside of
    each, those that there are first and NaN for the rest.
    """

    points_yx: NDArray[np.float64]
    boxes_yxyx: NDArray[np.int64] | None = None
    masks: InstanceMasks | None = None
    negatives_yx: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.points_yx)

    @property
    def ambiguous(self) -> bool:
        """True where a prompt is a lone point, which a part, an object and a group may be meant
        by: SAM then draws three masks, and one of what says more (Kirillov et al., 2023), which
        one more point does."""
        lone = self.boxes_yxyx is None and self.masks is None
        return lone and not self.negatives().any()

    def negatives(self) -> NDArray[np.int64]:
        """(N,) how many points outside of it each has."""
        if self.negatives_yx is None:
            return np.zeros(len(self), dtype=np.int64)
        return np.isfinite(self.negatives_yx).all(axis=2).sum(axis=1)

    def take(self, which: NDArray[np.integer]) -> Prompts:
        """The prompts at the indices ``which``, in that order."""
        boxes_yxyx = None if self.boxes_yxyx is None else self.boxes_yxyx[which]
        masks = None if self.masks is None else self.masks.take(which)
        outside = None if self.negatives_yx is None else self.negatives_yx[which]
        return Prompts(self.points_yx[which], boxes_yxyx, masks, outside)

    def within(self, corner: tuple[int, int], shape: tuple[int, int]) -> Prompts:
        """The same in a window of an image: it begins at ``corner`` (y, x) and has ``shape``; of
        boxes, masks and points outside what lies in it."""
        found = replace(self, points_yx=self.points_yx - np.array(corner))
        if self.boxes_yxyx is not None:
            found = replace(found, boxes_yxyx=_clipped(self.boxes_yxyx, corner, shape))
        if self.masks is not None:
            old, new = self.masks.boxes, _clipped(self.masks.boxes, corner, shape)
            start = new + np.tile(corner, 2) - np.tile(old[:, :2], 2)
            crops = [
                crop[y0:y1, x0:x1]
                for crop, (y0, x0, y1, x1) in zip(self.masks.crops, start.tolist(), strict=True)
            ]
            found = replace(found, masks=InstanceMasks(new, crops, self.masks.predicted_iou))
        if self.negatives_yx is not None:
            moved = self.negatives_yx - np.array(corner)
            inside = ((moved >= 0) & (moved < np.array(shape))).all(axis=2)
            first = np.argsort(~inside, axis=1, kind="stable")[..., None]
            moved = np.where(inside[..., None], moved, np.nan)
            found = replace(found, negatives_yx=np.take_along_axis(moved, first, axis=1))
        return found


def _clipped(
    boxes_yxyx: NDArray[np.int64], corner: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.int64]:
    return np.clip(boxes_yxyx - np.tile(corner, 2), 0, np.tile(shape, 2))


def make_prompts(label_map: LabelMap, kind: str) -> Prompts:
    """The prompts of the instances 1..N, in that order: ``centroid``, ``innermost`` (points),
    ``box`` or ``mask`` (see :func:`prompt_points` and :class:`Prompts`)."""
    points = prompt_points(label_map, kind)
    if kind == "box":
        return Prompts(points, boxes_yxyx=boxes(label_map))
    if kind == "mask":
        return Prompts(points, masks=InstanceMasks.from_label_map(label_map))
    return Prompts(points)


def with_negatives(prompts: Prompts, label_map: LabelMap, count: int, radius: float) -> Prompts:
    """The prompts of the instances 1..N with up to ``count`` points outside of each: the innermost
    pixels of the nearest others, no farther than ``radius`` px from its own, the nearest first and
    of equally near ones the first in raster order, so that ids do not matter."""
    from scipy.spatial import cKDTree

    centres = prompt_points(label_map, "innermost")
    found = np.full((len(centres), count, 2), np.nan)
    near = cKDTree(centres).query_ball_point(centres, radius) if len(centres) else []
    for i, others in enumerate(near):
        others = centres[[j for j in others if j != i]]
        distance = ((others - centres[i]) ** 2).sum(axis=1)
        nearest = others[np.lexsort((others[:, 1], others[:, 0], distance))][:count]
        found[i, : len(nearest)] = nearest
    return replace(prompts, negatives_yx=found)


def prompt_points(label_map: LabelMap, kind: str) -> NDArray[np.float64]:
    """(N, 2) pixel positions (y, x), whole numbers, in the order of the ids 1..N.

    ``centroid``: mean position rounded down, as the public COIN code does; on a concave instance it
    may lie outside. ``innermost``, and for ``box`` and ``mask``: the instance's pixel farthest from
    its boundary, of equally far ones the nearest to the centroid, then the first in raster order.
    """
    middle = centroids(label_map)
    if kind == "centroid":
        return np.floor(middle)
    from scipy.ndimage import distance_transform_edt

    edge = boundaries(label_map)
    # One instance that fills the image has no boundary but the image's.
    depth = distance_transform_edt(~edge) if edge.any() else _border_depth(label_map.shape)
    y, x = np.indices(label_map.shape)
    middle_y, middle_x = np.vstack([middle, np.zeros(2)])[label_map - 1].transpose(2, 0, 1)
    off_centre = (y - middle_y) ** 2 + (x - middle_x) ** 2
    at = np.unravel_index(first_pixels(label_map, -depth, off_centre), label_map.shape)
    return np.stack(at, axis=1).astype(np.float64)


def _border_depth(shape: tuple[int, ...]) -> NDArray[np.float64]:
    y, x = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in shape)
    return np.minimum(y[:, None], x[None, :]).astype(np.float64)
