"""The nuclei of a tile: where they lie, what is measured of each, and the file they are kept in."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.files import whole
from coin_ray.labels import LabelMap, centroids, count, means

Table = dict[str, NDArray[Any]]
COLUMNS = (
    *("y", "x", "area", "perimeter", "major_axis", "minor_axis", "solidity", "hematoxylin"),
    "score",
)
"""Centre, lengths and areas in px of the level that was segmented; mean hematoxylin as natural-log
OD; the score in [0, 1]."""


@dataclass(frozen=True)
class Nuclei:
    """Nuclei 1..N of a part of a level. ``label_map`` (h, w) lies with its corner at ``corner_yx``;
    ``table`` has each of COLUMNS as (N,), with ``y`` and ``x`` in the level."""

    corner_yx: tuple[int, int]
    label_map: LabelMap
    table: Table

    def __len__(self) -> int:
        return len(self.table["y"])


def measure(
    image: NDArray[np.uint8], label_map: LabelMap, corner_yx: tuple[int, int], score: NDArray[Any]
) -> Nuclei:
    """What is measured of the instances of ``label_map`` in their image (H, W, 3), cropped to
    them."""
    from skimage.measure import regionprops_table

    from coin_ray.imaging.stain import hematoxylin_od

    n = count(label_map)
    if n == 0:
        table = {name: np.zeros(0, dtype=np.float32) for name in COLUMNS}
        return Nuclei(corner_yx, np.zeros((0, 0), dtype=np.int32), table)
    shape = regionprops_table(
        label_map,
        properties=("area", "perimeter", "axis_major_length", "axis_minor_length", "solidity"),
    )
    y, x = (centroids(label_map) + corner_yx).T
    columns_of = map(np.nan_to_num, shape.values())  # of a line of pixels not all are defined
    values = (y, x, *columns_of, means(hematoxylin_od(image), label_map, n), score)
    rows, columns = (np.flatnonzero(label_map.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return Nuclei(
        (corner_yx[0] + top, corner_yx[1] + left),
        np.ascontiguousarray(label_map[top : rows[-1] + 1, left : columns[-1] + 1]),
        {
            k: np.asarray(v, np.float64 if k in "yx" else np.float32)
            for k, v in zip(COLUMNS, values, strict=True)
        },
    )


def save(path: Path, nuclei: Nuclei) -> None:
    """Write them whole."""
    with whole(path) as part:
        np.savez_compressed(
            part,
            corner=np.array(nuclei.corner_yx),
            label_map=nuclei.label_map,
            **nuclei.table,  # type: ignore[arg-type]
        )


def load(path: Path) -> Nuclei | None:
    """Inverse of :func:`save`; None for a file that is not there, or that is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            corner = file["corner"]
            table = {name: file[name] for name in COLUMNS}
            return Nuclei((int(corner[0]), int(corner[1])), file["label_map"], table)
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
