"""OME-Zarr (0.4 and 0.5) as a slide."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from coin_ray.data.rasters import decoding
from coin_ray.data.resolution import UNITS
from coin_ray.errors import UserError
from coin_ray.slides.reading import INSTALL, Image8, Slide


def zarr_slide(path: Path) -> Slide:
    """The first multiscale image of a group. UserError if it is none of 8-bit RGB."""
    try:
        import zarr
    except ImportError as error:
        raise UserError(
            "zarr is not installed, which reads OME-Zarr", where=str(path), do=INSTALL
        ) from error
    with decoding(path):
        group = zarr.open_group(path, mode="r")
        attributes: Any = dict(group.attrs)
        image = attributes.get("ome", attributes)["multiscales"][0]
        axes = [axis["name"] for axis in image["axes"]]
        arrays: list[Any] = [group[level["path"]] for level in image["datasets"]]
        at = {name: axes.index(name) for name in ("c", "y", "x")}
        shapes = tuple((a.shape[at["y"]], a.shape[at["x"]]) for a in arrays)
        channels, other = arrays[0].shape[at["c"]], set(axes) - set(at)
    lengths = {name: arrays[0].shape[axes.index(name)] for name in other}
    if channels != 3 or arrays[0].dtype != np.uint8 or any(n > 1 for n in lengths.values()):
        raise UserError(
            "not an RGB slide",
            where=str(path),
            expected="3 channels of uint8, one plane",
            found=f"{arrays[0].shape} ({''.join(axes)}), {arrays[0].dtype}",
        )

    def region(level: int, y: int, x: int, h: int, w: int) -> Image8:
        where: list[Any] = [0] * len(axes)
        where[at["c"]], where[at["y"]] = slice(None), slice(y, y + h)
        where[at["x"]] = slice(x, x + w)
        with decoding(path):
            found = np.asarray(arrays[level][tuple(where)])
        order = sorted(at, key=lambda name: at[name])
        return np.ascontiguousarray(found.transpose([order.index(n) for n in ("y", "x", "c")]))

    return Slide(path, shapes, _mpp(image, axes), region, "ome-zarr")


def _mpp(image: dict[str, Any], axes: list[str]) -> float:
    """um/px of the first level; NaN where no unit or no scale says it."""
    x = axes.index("x")
    unit = image["axes"][x].get("unit", "")
    steps = image["datasets"][0].get("coordinateTransformations", [])
    factors = [step["scale"][x] for step in steps if step.get("type") == "scale"]
    names = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4}
    known = names.get(unit, UNITS.get(unit, math.nan))
    return float(factors[0]) * known if factors else math.nan
