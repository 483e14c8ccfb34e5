"""One point prompt per instance."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import LabelMap, boundaries, centroids


def prompt_points(
    label_map: LabelMap, kind: Literal["centroid", "innermost"] = "centroid"
) -> NDArray[np.float64]:
    """(N, 2) pixel positions (y, x), whole numbers, in the order of the ids 1..N.

    ``centroid``: mean position rounded down, as the public COIN code does; on a concave instance it
    may lie outside. ``innermost``: the instance's pixel farthest from its boundary, of equally far
    ones the nearest to the centroid, then the first in raster order.
    """
    middle = centroids(label_map)
    if kind == "centroid":
        return np.floor(middle)
    if kind != "innermost":
        raise ValueError(f"prompt {kind!r} is neither 'centroid' nor 'innermost'")
    if not len(middle):
        return middle
    from scipy.ndimage import distance_transform_edt

    edge = boundaries(label_map)
    # One instance that fills the image has no boundary but the image's.
    depth = distance_transform_edt(~edge) if edge.any() else _border_depth(label_map.shape)
    at = np.flatnonzero(label_map)
    ids = label_map.ravel()[at]
    points = np.stack(np.unravel_index(at, label_map.shape), axis=1).astype(np.float64)
    off_centre = ((points - middle[ids - 1]) ** 2).sum(axis=1)
    order = np.lexsort((at, off_centre, -depth.ravel()[at], ids))
    first = np.unique(ids[order], return_index=True)[1]
    return points[order][first]


def _border_depth(shape: tuple[int, ...]) -> NDArray[np.float64]:
    y, x = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in shape)
    return np.minimum(y[:, None], x[None, :]).astype(np.float64)
