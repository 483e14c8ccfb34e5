"""An instance beside the promptable segmenter's mask of it: agreement, size, the prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, InstanceMasks, LabelMap, areas

EPSILON = 1e-5


def agreement(label_map: LabelMap, masks: InstanceMasks) -> NDArray[np.float32]:
    """COIN Eq. 6: C^i = |E^i and SAM^i| / (|E^i or SAM^i| + 1e-5), (N,) float32 in [0, 1).

    ``masks`` holds one mask per instance 1..N in order (an empty one scores 0). Only the masks'
    boxes are looked at, never N full images. ValueError if their number differs.
    """
    own = areas(label_map)
    if len(masks) != len(own):
        raise ValueError(f"{len(masks)} masks for {len(own)} instances")
    both = np.zeros(len(own))
    for i, (y0, x0, y1, x1) in enumerate(masks.boxes.tolist()):
        both[i] = np.count_nonzero(masks.crops[i] & (label_map[y0:y1, x0:x1] == i + 1))
    return (both / (own + masks.areas() - both + EPSILON)).astype(np.float32)


def area_ratios(label_map: LabelMap, masks: InstanceMasks) -> NDArray[np.float32]:
    """(N,) area of each mask over that of its instance, >= 0."""
    return (masks.areas() / np.maximum(areas(label_map), 1)).astype(np.float32)


def holds_points(masks: InstanceMasks, points_yx: NDArray[np.float64]) -> BoolArray:
    """(N,) True where a mask holds its own prompt point (N, 2), a pixel position (y, x)."""
    at = np.floor(points_yx).astype(np.int64) - masks.boxes[:, :2]
    found = np.zeros(len(masks), dtype=bool)
    for i, (crop, (y, x)) in enumerate(zip(masks.crops, at.tolist(), strict=True)):
        found[i] = 0 <= y < crop.shape[0] and 0 <= x < crop.shape[1] and crop[y, x]
    return found
