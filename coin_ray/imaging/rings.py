"""How an instance stands out from its surroundings: a map just inside against just outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import LabelMap, boundaries, count, means


def rings(label_map: LabelMap, width: float = 3.0) -> tuple[LabelMap, LabelMap]:
    """(inner, outer) label maps (H, W) int32 of the two rings of every instance, 0 elsewhere.

    Inner: its pixels less than ``width`` px from its boundary pixels, those included. Outer: the
    background at most ``width`` px from the nearest instance, given to that one. Pixels of a
    neighbour belong to no outer ring, so an instance walled in by others may have none.
    """
    from scipy.ndimage import distance_transform_edt

    if not label_map.any():
        return np.zeros_like(label_map), np.zeros_like(label_map)
    gap, nearest = distance_transform_edt(label_map == 0, return_indices=True)
    outer = np.where((gap > 0) & (gap <= width), label_map[tuple(nearest)], 0)
    depth = distance_transform_edt(~boundaries(label_map))
    inner = np.where(depth < width, label_map, 0)
    return inner, outer


def ring_contrast(
    values: NDArray[np.floating], label_map: LabelMap, *, width: float = 3.0
) -> NDArray[np.float32]:
    """Mean of ``values`` (..., H, W) in the inner ring less that in the outer, (..., N) float32.

    In the unit of ``values``; +inf for an instance without an outer ring (nothing to compare with).
    """
    inner, outer = rings(label_map, width)
    n = count(label_map)
    pixels = np.bincount(outer.ravel(), minlength=n + 1)[1:]
    contrast = [
        np.where(pixels > 0, means(v, inner, n) - means(v, outer, n), np.inf)
        for v in values.reshape(-1, *label_map.shape)
    ]
    return np.array(contrast, dtype=np.float32).reshape(*values.shape[:-2], n)
