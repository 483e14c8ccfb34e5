"""Which parts of a slide are tissue; the rest is not looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.stain import optical_density
from coin_ray.labels import BoolArray

FAINT = 0.06
"""Optical density (natural log, mean of the channels) over the glass that is tissue already."""
DARKEST_GLASS = 220
"""Glass is never taken to be darker, so that a picture without glass is tissue everywhere."""


def tissue_mask(thumbnail: NDArray[np.uint8]) -> BoolArray:
    """(H, W) bool of a (H, W, 3) thumbnail: darker than the glass around it, and what is beside it.

    A pixel too many costs time, a pixel too few nuclei, so the edge is drawn wide.
    """
    from scipy.ndimage import binary_dilation, uniform_filter

    glass = np.maximum(np.percentile(thumbnail.reshape(-1, 3), 99, axis=0), DARKEST_GLASS)
    empty = np.rint(glass).astype(np.uint8)[None, None]
    over = (optical_density(thumbnail) - optical_density(empty)).mean(axis=2)
    mask = uniform_filter(over, 3, mode="nearest") > FAINT
    return np.asarray(binary_dilation(mask, np.ones((3, 3)), iterations=2))
