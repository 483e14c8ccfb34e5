"""Canny's edges (Canny 1986) of every instance of a label map: the paper's edge target (Eq. 10)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, LabelMap, boxes

FLAT, STEEP = np.tan(np.pi / 8), np.tan(3 * np.pi / 8)


def canny_target(label_map: LabelMap) -> BoolArray:
    """(H, W) True on the edges of any instance 1..N of a (H, W) label map.

    Those that Canny finds in each instance's own mask with a 3x3 Sobel gradient, the strength
    |dx| + |dy| and no blur. In a mask every gradient is stronger than both thresholds of the public
    code (100 and 200 of 255), so that thinning alone decides: a line of one pixel, half of it just
    inside the mask and half just outside, and none where the image ends.
    """
    edge = np.zeros(label_map.shape, dtype=bool)
    height, width = label_map.shape
    for i, (y0, x0, y1, x1) in enumerate(boxes(label_map).tolist(), start=1):
        around = np.s_[max(0, y0 - 2) : min(height, y1 + 2), max(0, x0 - 2) : min(width, x1 + 2)]
        edge[around] |= _thin(label_map[around] == i)
    return edge


def _thin(mask: BoolArray) -> BoolArray:
    """The pixels whose gradient no neighbour across the edge exceeds; of two equal ones the second
    in reading order goes."""
    dx, dy = _sobel(mask, axis=1), _sobel(mask, axis=0)
    strength = np.abs(dx) + np.abs(dy)
    padded = np.pad(strength, 1)
    height, width = mask.shape

    def beside(y: int, x: int) -> NDArray[np.int32]:
        return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    across = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    along = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    falling = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    diagonal = np.where((dx < 0) == (dy < 0), falling, rising)
    steep = np.where(np.abs(dy) > STEEP * np.abs(dx), along, diagonal)
    return np.where(np.abs(dy) < FLAT * np.abs(dx), across, steep) & (strength > 0)


def _sobel(mask: BoolArray, axis: int) -> NDArray[np.int32]:
    from scipy.ndimage import sobel

    return sobel(mask.astype(np.int32), axis=axis, mode="nearest")
