"""A mask split into the nuclei that the ground truth has there: a ceiling for ways to split."""

from __future__ import annotations

import numpy as np

from coin_ray.labels import BoolArray, LabelMap, relabel


def split_as(truth: LabelMap, foreground: BoolArray) -> LabelMap:
    """Label map (H, W) int32 of ``foreground`` (H, W) bool, its pieces divided among the nuclei of
    ``truth`` (H, W) that they touch: a pixel is of the nearest one, by the way within the piece.

    A piece that touches none stays one instance. The foreground itself is not changed.
    """
    from scipy.ndimage import label
    from skimage.segmentation import watershed

    flat = np.zeros(truth.shape, dtype=np.uint8)
    found = watershed(flat, np.where(foreground, truth, 0), mask=foreground)
    left, _ = label(foreground & (found == 0))
    return relabel(np.where(left > 0, left + int(truth.max(initial=0)), found))
