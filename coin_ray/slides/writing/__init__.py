"""The nuclei of a slide in the formats that other programs open, a part of the slide at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from coin_ray.slides.nuclei import Nuclei, Table

FORMATS = {
    "labels": ".labels.ome.tif",
    "geojson": ".geojson.gz",
    "table": ".parquet",
    "coco": ".coco.json",
    "zarr": ".labels.zarr",
    "zarr-0.4": ".labels-0.4.zarr",
    "spatialdata": ".spatialdata.zarr",
}
"""Format -> how the name of its file ends, or of its folder."""
FOLDERS = {"zarr": "zarr.json", "zarr-0.4": ".zattrs", "spatialdata": "zarr.json"}
"""The formats that are folders -> a file that each has."""
Parts = Callable[[], Iterable[Nuclei]]
"""The nuclei of a slide in raster order of its tiles, from the beginning at each call."""


@dataclass(frozen=True)
class Frame:
    """Where the nuclei lie: the slide's ``name`` and um/px ``mpp`` of level 0, the ``shape`` (H, W)
    of the level that was segmented, whose px are ``downsample`` px of level 0 wide, and for each
    part of the nuclei the first row ``tops`` of it. ``most`` is a number of nuclei that there are
    not more of."""

    name: str
    mpp: float
    shape: tuple[int, int]
    downsample: float
    tops: tuple[int, ...]
    most: int

    @property
    def um(self) -> float:
        """um that a px of the level is wide."""
        return self.mpp * self.downsample


def measured(frame: Frame, table: Table) -> Table:
    """A part's table in the units that its users read: px of level 0, um, um^2.

    The middle of the first pixel is at half a pixel, as outlines have it."""
    y, x = (table["y"] + 0.5) * frame.downsample, (table["x"] + 0.5) * frame.downsample
    lengths = {
        f"{name}_um": (table[name] * frame.um).astype(np.float32)
        for name in ("perimeter", "major_axis", "minor_axis")
    }
    return {
        "x_px": x,
        "y_px": y,
        "x_um": x * frame.mpp,
        "y_um": y * frame.mpp,
        "area_um2": (table["area"] * frame.um**2).astype(np.float32),
        **lengths,
        **{name: table[name] for name in ("solidity", "hematoxylin", "score")},
    }


def writers(frame: Frame, parts: Parts) -> Mapping[str, Callable[[Path], None]]:
    """Format -> what writes its file or folder."""
    from coin_ray.slides.writing.coco import write_coco
    from coin_ray.slides.writing.geojson import write_geojson
    from coin_ray.slides.writing.label_map import write_label_map
    from coin_ray.slides.writing.spatialdata import write_shapes
    from coin_ray.slides.writing.table import write_table
    from coin_ray.slides.writing.zarr import write_zarr

    return {
        "labels": partial(write_label_map, frame, parts),
        "geojson": partial(write_geojson, frame, parts),
        "table": partial(write_table, frame, parts),
        "coco": partial(write_coco, frame, parts),
        "zarr": partial(write_zarr, frame, parts, "0.5"),
        "zarr-0.4": partial(write_zarr, frame, parts, "0.4"),
        "spatialdata": partial(write_shapes, frame, parts),
    }
