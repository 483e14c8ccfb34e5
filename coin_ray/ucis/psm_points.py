"""PSM's second pseudo labels: one point a nucleus, and the Voronoi cells between the points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.instances import disk_maximum, local_peaks
from coin_ray.labels import BoolArray

FloatMap = NDArray[np.float32]
BLUR = 2.3  # px, sigma of the 13 x 13 Gaussian of the public code


def nuclear_points(probability: FloatMap, distance: int, merge: float) -> NDArray[np.float64]:
    """(P, 2) points (y, x): peaks of the smoothed probability (H, W) that are at least .5.

    A peak exceeds all within ``distance`` px. From the highest down, a peak takes the others closer
    than ``merge`` px (city block) with it, and their mean is the point. Unlike the public code,
    peaks at the image border count, and an image without peaks gets no random points.
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(probability.astype(np.float32), BLUR, radius=6)
    peaks = np.argwhere(local_peaks(smooth, smooth >= 0.5, radius=distance, keep_border=True))
    peaks = peaks[np.argsort(-smooth[tuple(peaks.T)], kind="stable")]
    points = []
    while len(peaks):
        near = np.abs(peaks - peaks[0]).sum(axis=1) < max(merge, 1)  # itself at least
        points.append(peaks[near].mean(axis=0))
        peaks = peaks[~near]
    return np.array(points).reshape(-1, 2)


def voronoi_label(
    points: NDArray[np.float64], shape: tuple[int, int], radius: int
) -> tuple[BoolArray, BoolArray]:
    """Foreground and ignore, both (H, W) bool, from ``points`` (P, 2) as (y, x).

    Disks of ``radius`` px around the points are foreground, the 1-px borders between their Voronoi
    cells background, all else is ignored.
    """
    from scipy.ndimage import distance_transform_edt

    at = np.zeros(shape, dtype=bool)
    border = np.zeros(shape, dtype=bool)
    at[tuple(np.rint(points).astype(int).T)] = True
    if at.any():
        rows, columns = distance_transform_edt(~at, return_distances=False, return_indices=True)
        cell = rows * shape[1] + columns
        border[:-1] |= cell[:-1] != cell[1:]
        border[:, :-1] |= cell[:, :-1] != cell[:, 1:]
    foreground = disk_maximum(at, radius)
    return foreground, ~foreground & ~border
