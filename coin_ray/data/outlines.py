"""Outlines of masks along the pixel edges; filled again they are the mask exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, LabelMap, count

Ring = NDArray[Any]
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
    found: list[list[list[Ring]]] = [[] for _ in range(count(label_map))]
    if not found:
        return []
    corners, ends, pixels = _rings(label_map)
    own = label_map.ravel()[pixels]
    several = np.flatnonzero(np.bincount(own, minlength=len(found) + 1) > 1)
    rings = np.split(corners, ends[:-1])
    for ring, instance in zip(rings, own.tolist(), strict=True):
        found[instance - 1].append([ring])
    for instance in several.tolist():
        mine = np.flatnonzero(own == instance)
        found[instance - 1] = _polygons(label_map, instance, pixels[mine], [rings[i] for i in mine])
    return found


def draw(label_map: LabelMap, polygons: list[list[Ring]], label: int) -> NDArray[np.int32] | None:
    """Write an id where the middle of a pixel lies in an outer ring and in no hole of it.

    The ids (K,) that stood in these pixels; None if nothing of it can lie in the label map (H, W),
    which the polygons may reach out of.
    """
    from skimage.draw import polygon

    limit, covered = np.array(label_map.shape[::-1]), []
    for rings in polygons:
        low = np.clip(np.floor(rings[0].min(axis=0)), 0, limit).astype(int)
        high = np.clip(np.ceil(rings[0].max(axis=0)), 0, limit).astype(int)
        (x0, y0), (x1, y1) = low.tolist(), high.tolist()
        inside = np.zeros((y1 - y0, x1 - x0), dtype=bool)
        for ring in rings:
            x, y = (ring - (x0, y0) - 0.5).T
            inside[polygon(y, x, inside.shape)] ^= True
        if inside.size:
            covered.append(label_map[y0:y1, x0:x1][inside])
            label_map[y0:y1, x0:x1][inside] = label
    return np.concatenate(covered) if covered else None


def _polygons(
    label_map: LabelMap, instance: int, pixels: NDArray[np.int64], rings: list[Ring]
) -> list[list[Ring]]:
    """The rings of an instance by its 4-connected parts; ``pixels`` has one of each ring."""
    from scipy.ndimage import label

    every = np.concatenate(rings)
    (left, top), (right, bottom) = every.min(axis=0), every.max(axis=0)
    parts = label(label_map[top:bottom, left:right] == instance)[0]
    y, x = np.divmod(pixels, label_map.shape[1])
    polygons: dict[int, list[Ring]] = {}
    for ring, part in zip(rings, parts[y - top, x - left].tolist(), strict=True):
        polygon = polygons.setdefault(part, [])
        polygon.insert(0 if _is_outer(ring) else len(polygon), ring)
    return list(polygons.values())


def _is_outer(ring: Ring) -> bool:
    x, y = ring.T
    return bool((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0)


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
    steps = np.repeat(np.arange(len(edges)), [len(part) for part in edges])
    ring = np.concatenate(rings)
    lengths = np.bincount(ring)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    walk = np.empty(len(ring), dtype=np.int64)
    walk[begins[ring] + steps] = np.concatenate(edges)
    ring = np.repeat(np.arange(len(lengths)), lengths)
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
    height, width = label_map.shape
    on_side = []
    for dy, dx in STEPS[3:] + STEPS[:3]:  # out of the pixel: above it, on its right, ...
        other = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        y, x = np.nonzero((label_map != other) & (label_map > 0))
        on_side.append((y + 1) * wide + x + 1)
    pixel = np.concatenate(on_side)
    side = np.repeat(np.arange(4), [len(part) for part in on_side])
    ahead, beside, own = offsets[side], offsets[side - 1], ids[pixel]
    # Right before straight before left: where two pixels touch by a corner, stay on one.
    right = ids[pixel + ahead] != own
    straight = ids[pixel + ahead + beside] != own
    turn = np.where(right, 1, np.where(straight, 0, 3))
    to = pixel + np.where(right, 0, np.where(straight, ahead, ahead + beside))
    number = np.empty(4 * len(ids), dtype=np.int32)
    number[side * len(ids) + pixel] = np.arange(len(pixel), dtype=np.int32)
    following = number[(side + turn) % 4 * len(ids) + to]
    y, x = np.divmod(pixel, wide)
    return side, (y - 1) * label_map.shape[1] + x - 1, turn, following


def _first_edges(following: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first edge of each ring, ascending."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(following)
    edges = csr_array((np.ones(n, bool), following, np.arange(n + 1)), shape=(n, n))
    rings, ring = connected_components(edges, directed=False)
    first = np.empty(rings, dtype=np.int64)
    first[ring[::-1]] = np.arange(n)[::-1]  # what is written last stays
    return np.sort(first)
