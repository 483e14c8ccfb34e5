"""A slide in tiles that overlap, and the nuclei of the tiles as those of the slide.

Each nucleus is found in every tile that sees it whole and kept by the one whose core its centre
lies in. Tiles begin on the grid of the small segmenter's windows, so that a nucleus is drawn in the
same window whichever tile sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from coin_ray.labels import BoolArray, LabelMap, areas, centroids, keep_instances
from coin_ray.slides.nuclei import Nuclei

GRID, WINDOW = 192, 256
"""Stride and side of the small segmenter's windows, px."""
BEFORE, AFTER = GRID, WINDOW
"""Halo above and left of a core, below and right of it; with it a tile ends where a window does."""
SIDE = 10 * GRID
LEAST = 0.5
"""Share of a nucleus that has to be left when what another tile drew before is taken off."""

Box = tuple[int, int, int, int]
"""yxyx, half-open."""


@dataclass(frozen=True)
class Tile:
    """A square of a level: its ``core``, and what is ``seen`` with it."""

    core: Box
    seen: Box

    @property
    def name(self) -> str:
        return f"{self.core[0]}_{self.core[1]}"


def plan_tiles(shape: tuple[int, int], side: int = SIDE) -> list[Tile]:
    """Tiles whose cores of ``side`` px (a multiple of GRID) cover (H, W), in raster order; one
    tile for what is hardly larger."""
    if side < GRID or side % GRID:
        raise ValueError(f"tiles of {side} px do not fit the grid of {GRID} px")
    height, width = shape
    if max(shape) <= side + BEFORE + AFTER:
        return [Tile((0, 0, height, width), (0, 0, height, width))]
    tiles = []
    for y in range(0, height, side):
        for x in range(0, width, side):
            bottom, right = min(y + side, height), min(x + side, width)
            seen = (
                *(max(0, y - BEFORE), max(0, x - BEFORE)),
                *(min(bottom + AFTER, height), min(right + AFTER, width)),
            )
            tiles.append(Tile((y, x, bottom, right), seen))
    return tiles


def on_tissue(tiles: list[Tile], tissue: BoolArray, shape: tuple[int, int]) -> list[Tile]:
    """The tiles with tissue in their core; ``tissue`` is a mask of the level of ``shape`` (H, W),
    at whatever size."""
    factors = [small / large for small, large in zip(tissue.shape, shape, strict=True)]

    def within(tile: Tile) -> bool:
        (y0, x0), (y1, x1) = tile.core[:2], tile.core[2:]
        rows = slice(int(y0 * factors[0]), int(np.ceil(y1 * factors[0])))
        return bool(tissue[rows, int(x0 * factors[1]) : int(np.ceil(x1 * factors[1]))].any())

    return [tile for tile in tiles if within(tile)]


def owned(tile: Tile, label_map: LabelMap) -> tuple[LabelMap, BoolArray]:
    """Of what was found in ``tile.seen`` the nuclei whose centre lies in the core, renumbered, and
    which (N,) those are."""
    y, x = (centroids(label_map) + tile.seen[:2]).T
    y0, x0, y1, x1 = tile.core
    keep = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    return keep_instances(label_map, keep), keep


def merged(found: Iterable[Nuclei]) -> Iterator[Nuclei]:
    """The nuclei of tiles in raster order, without a pixel that belongs to two.

    Where tiles differ about a nucleus on a seam (a network that sees the whole tile), the earlier
    one is right: the later loses the pixels, and is no nucleus any more if it loses half of them.
    """
    recent: list[tuple[Nuclei, BoolArray]] = []
    for nuclei in found:
        (top, left), (height, width) = nuclei.corner_yx, nuclei.label_map.shape
        recent = [(n, m) for n, m in recent if n.corner_yx[0] + len(m) > top - AFTER - GRID]
        taken = np.zeros(nuclei.label_map.shape, dtype=bool)
        for other, mask in recent:
            y, x = other.corner_yx[0] - top, other.corner_yx[1] - left
            rows = slice(max(y, 0), max(min(y + mask.shape[0], height), 0))
            columns = slice(max(x, 0), max(min(x + mask.shape[1], width), 0))
            if rows.start < rows.stop and columns.start < columns.stop:
                taken[rows, columns] |= mask[
                    rows.start - y : rows.stop - y, columns.start - x : columns.stop - x
                ]
        kept = _without(nuclei, taken) if (taken & (nuclei.label_map > 0)).any() else nuclei
        recent.append((kept, kept.label_map > 0))
        yield kept


def _without(nuclei: Nuclei, taken: BoolArray) -> Nuclei:
    before = areas(nuclei.label_map)
    left = np.where(taken, 0, nuclei.label_map)
    area = np.bincount(left.ravel(), minlength=len(before) + 1)[1:]
    keep = area > LEAST * before
    rest = keep_instances(left, keep)
    table = {name: values[keep] for name, values in nuclei.table.items()}
    y, x = (centroids(rest) + nuclei.corner_yx).T
    return replace(nuclei, label_map=rest, table=table | {"y": y, "x": x, "area": area[keep]})
