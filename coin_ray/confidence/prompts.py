"""One point prompt per instance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import LabelMap, boundaries, centroids, first_pixels


def prompt_points(label_map: LabelMap, kind: str) -> NDArray[np.float64]:
    """(N, 2) pixel positions (y, x), whole numbers, in the order of the ids 1..N.

    ``centroid``: mean position rounded down, as the public COIN code does; on a concave instance it
    may lie outside. ``innermost``: the instance's pixel farthest from its boundary, of equally far
    ones the nearest to the centroid, then the first in raster order.
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
