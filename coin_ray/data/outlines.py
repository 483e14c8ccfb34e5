"""Outlines of masks along the pixel edges; filled again they are the mask exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, LabelMap, count

Ring = NDArray[np.int64]
"""(K, 2) corners (x, y), first = last; the pixel (y, x) covers [x, x + 1] x [y, y + 1]."""

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""(dy, dx) of right, down, left, up: the edge above a pixel, on its right, below, on its left."""
STARTS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
"""(x, y) of the corner of a pixel where each of these begins."""


def trace(mask: BoolArray) -> list[list[Ring]]:
    """Polygons of a (H, W) mask; see :func:`trace_instances`."""
    return trace_instances(mask.astype(np.int32))[0] if mask.any() else []


def trace_instances(label_map: LabelMap) -> list[list[list[Ring]]]:
    """The polygons of each instance 1..N: each an outer ring and the rings of its holes.

    One polygon for each 4-connected part: pixels that touch by a corner only are apart, so no ring
    crosses itself. Outer rings run clockwise on the screen (y down), holes the other way; corners
    in the middle of a straight line are left out. An id without pixels has none.
    """
    from skimage.measure import label

    found: list[dict[int, list[Ring]]] = [{} for _ in range(count(label_map))]
    if not found:
        return []
    corners, ends, pixels = _rings(label_map)
    x, y = corners.T
    cross = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0)
    cross[ends - 1] = 0  # from one ring to the next
    outer = np.add.reduceat(cross, np.append(0, ends[:-1])) > 0
    own = label_map.ravel()[pixels].tolist()
    parts = label(label_map, connectivity=1).ravel()[pixels].tolist()
    rings = np.split(corners, ends[:-1])
    for ring, instance, part, is_outer in zip(rings, own, parts, outer.tolist(), strict=True):
        polygon = found[instance - 1].setdefault(part, [])
        polygon.insert(0 if is_outer else len(polygon), ring)
    return [list(polygons.values()) for polygons in found]


def _rings(
    label_map: LabelMap,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Closed walks along the edges, the instance on the right, in reading order: corners (K, 2) of
    all rings in a row, where each ring ends in them, and a flat pixel of each."""
    width = label_map.shape[1]
    side, pixel, turn, following = _edges(label_map)
    start = _first_edges(following)
    current, active = start, np.arange(len(start))
    edges, rings = [], []
    while len(active):  # all rings at once, a step each
        edges.append(current)
        rings.append(active)
        current = following[current]
        on = current != start[active]
        current, active = current[on], active[on]
    ring = np.concatenate(rings)
    order = np.argsort(ring, kind="stable")
    walk, ring = np.concatenate(edges)[order], ring[order]
    ends = np.cumsum(np.bincount(ring))
    begins = np.append(0, ends[:-1])
    turned = turn[walk] != 0
    corner = np.roll(turned, 1)
    corner[begins] = turned[ends - 1]
    y, x = np.divmod(pixel[walk[corner]], width)
    corners = np.stack([x, y], axis=1) + STARTS[side[walk[corner]]]
    ends = np.cumsum(np.bincount(ring[corner]))
    closed = np.insert(corners, ends, corners[np.append(0, ends[:-1])], axis=0)
    return closed, ends + np.arange(1, len(ends) + 1), pixel[start]


def _edges(label_map: LabelMap) -> tuple[NDArray[np.int64], ...]:
    """The edges (E,) between an instance and what is not of it: on which side of which flat pixel,
    how a walk along it turns (1 right, 0 not, 3 left), and which edge it goes on with."""
    padded = np.pad(label_map, 1)
    wide = padded.shape[1]
    ids = padded.ravel()
    offsets = np.array([dy * wide + dx for dy, dx in STEPS])
    inside = np.flatnonzero(ids)
    own = ids[inside]
    on_side = [inside[ids[inside + out] != own] for out in offsets[[3, 0, 1, 2]]]
    pixel = np.concatenate(on_side)
    side = np.repeat(np.arange(4), [len(part) for part in on_side])
    ahead, beside, own = offsets[side], offsets[side - 1], ids[pixel]
    # Right before straight before left: where two pixels touch by a corner, stay on one.
    right = ids[pixel + ahead] != own
    straight = ids[pixel + ahead + beside] != own
    turn = np.where(right, 1, np.where(straight, 0, 3))
    to = pixel + np.where(right, 0, np.where(straight, ahead, ahead + beside))
    number = side * len(ids) + pixel  # ascending
    following = np.searchsorted(number, (side + turn) % 4 * len(ids) + to)
    y, x = np.divmod(pixel, wide)
    return side, (y - 1) * label_map.shape[1] + x - 1, turn, following


def _first_edges(following: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first edge of each ring, ascending."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(following)
    edges = csr_array((np.ones(n, bool), following, np.arange(n + 1)), shape=(n, n))
    ring = connected_components(edges, directed=False)[1]
    return np.sort(np.unique(ring, return_index=True)[1])
