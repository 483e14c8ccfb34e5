"""Outlines of masks along the pixel edges; filled again they are the mask exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray

Ring = NDArray[np.int64]
"""(K, 2) corners (x, y), first = last; the pixel (y, x) covers [x, x + 1] x [y, y + 1]."""

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Right, down, left, up: the edge above a pixel of the mask, on its right, below, on its left."""


def trace(mask: BoolArray) -> list[list[Ring]]:
    """Polygons of a (H, W) mask: each an outer ring and the rings of its holes.

    One polygon for each 4-connected part: pixels that touch by a corner only are apart, so no ring
    crosses itself. Outer rings run clockwise on the screen (y down), holes the other way; corners
    in the middle of a straight line are left out.
    """
    from scipy.ndimage import label

    part, count = label(mask)
    polygons: list[list[Ring]] = [[] for _ in range(count)]
    for ring, (y, x) in _rings(mask):
        rings = polygons[part[y, x] - 1]
        rings.insert(0 if _area(ring) > 0 else len(rings), ring)
    return polygons


def _rings(mask: BoolArray) -> list[tuple[Ring, tuple[int, int]]]:
    """Closed walks along the edges, mask on the right, each with a pixel (y, x) of it."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    height, width = mask.shape
    starts = np.zeros((4, height + 1, width + 1), dtype=bool)  # edges by step and first corner
    starts[0, :-1, :-1] = inside & ~padded[:-2, 1:-1]
    starts[1, :-1, 1:] = inside & ~padded[1:-1, 2:]
    starts[2, 1:, 1:] = inside & ~padded[2:, 1:-1]
    starts[3, 1:, :-1] = inside & ~padded[1:-1, :-2]
    edges = set(zip(*(a.tolist() for a in np.nonzero(starts)), strict=True))
    rings = []
    for step, y, x in sorted(edges):  # begins with the edges above pixels: every ring has one
        if (step, y, x) not in edges:
            continue
        pixel, walk, towards = (y, x), [], None
        while (step, y, x) in edges:
            edges.remove((step, y, x))
            if step != towards:
                walk.append((x, y))
            towards = step
            x, y = x + STEPS[step][0], y + STEPS[step][1]
            # right before straight before left: where two pixels touch by a corner, stay on one
            turns = ((step + turn) % 4 for turn in (1, 0, 3))
            step = next((s for s in turns if (s, y, x) in edges), step)
        rings.append((np.array([*walk, walk[0]], dtype=np.int64), pixel))
    return rings


def _area(ring: Ring) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2
