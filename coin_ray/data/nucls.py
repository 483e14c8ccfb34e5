"""NuCLS tables: outlines of nuclei and the field of view that was annotated."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.aperio import draw_outlines
from coin_ray.data.images import Image8, read_image
from coin_ray.data.rasters import raster_shape
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap

COLUMNS = ("type", "coords_x", "coords_y")
FIELDS = "all_fov_locations"
"""The stem of the table of fields of view, beside the tables of outlines."""
TYPES = ("polyline", "rectangle", "point")
CLASS_COLUMNS = ("raw_classification", "group")
"""The class, by its name in the current and in the first release."""


class Box(NamedTuple):
    """bbox_yxyx, half-open."""

    y0: int
    x0: int
    y1: int
    x1: int


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a csv file; UserError if it is none or has not these columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel marks its UTF-8
            table = csv.DictReader(file)
            found = list(table.fieldnames or ())
            if any(column not in found for column in columns):
                raise _no_table(path, columns, found)
            return [{k: v or "" for k, v in row.items() if k} for row in table]
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError("no csv table", where=str(path), found=str(error)) from error


def read_polygons(path: Path) -> list[NDArray[np.float64]]:
    """(K, 2) float (y, x) outlines of the rows of type polyline.

    Rectangles are only boxes around nuclei and are left out, as is the row of the field of view.
    """
    polygons = []
    for number, row in enumerate(read_rows(path, COLUMNS), start=2):
        if row["type"] not in TYPES:
            raise UserError(
                "an outline of an unknown type",
                where=f"{path}, line {number}",
                expected=f"type {', '.join(TYPES)}",
                found=row["type"] or "nothing",
            )
        if row["type"] != "polyline" or _is_field(row):
            continue
        try:
            x, y = (
                np.array([float(v) for v in row[c].split(",") if v.strip()])
                for c in ("coords_x", "coords_y")
            )
            polygons.append(np.stack([y, x], axis=1))
        except (KeyError, ValueError) as error:
            raise UserError(
                "an outline that cannot be read",
                where=f"{path}, line {number}",
                expected="coords_x and coords_y, as many numbers each",
                found=str(error),
            ) from error
    return polygons


def field_of_view(path: Path, image: Path) -> Box:
    """The annotated part: a row of the csv, else of all_fov_locations.csv, else the whole image."""
    rows = [r for r in read_rows(path, COLUMNS) if _is_field(r)]
    if not rows:
        tables = [f for f in path.parent.iterdir() if f.name.lower() == f"{FIELDS}.csv"]
        every = (r for t in tables for r in read_rows(t, ("fovname",)))
        rows = [r for r in every if r["fovname"] == path.stem]
    height, width = raster_shape(image)
    if not rows:
        return Box(0, 0, height, width)
    try:
        y0, x0, y1, x1 = (int(float(rows[0][c])) for c in ("ymin", "xmin", "ymax", "xmax"))
    except (KeyError, ValueError) as error:
        raise UserError("a field of view without its box", where=str(path)) from error
    box = Box(max(y0, 0), max(x0, 0), min(y1, height), min(x1, width))
    if box.y0 >= box.y1 or box.x0 >= box.x1:
        raise UserError(
            "a field of view outside the image",
            where=str(path),
            expected=f"inside {height} x {width}",
            found=f"y {y0} to {y1}, x {x0} to {x1}",
        )
    return box


def read_field(image: Path, table: Path) -> Image8:
    """The image cut to its field of view."""
    box = field_of_view(table, image)
    return np.ascontiguousarray(read_image(image)[box.y0 : box.y1, box.x0 : box.x1])


def field_size(image: Path, table: Path) -> tuple[int, int]:
    """(H, W) of the field of view."""
    box = field_of_view(table, image)
    return box.y1 - box.y0, box.x1 - box.x0


def read_truth(table: Path, image: Path, shape: tuple[int, int]) -> LabelMap:
    """The outlines inside the field of view, drawn into its ``shape`` (H, W)."""
    box = field_of_view(table, image)
    return draw_outlines([p - (box.y0, box.x0) for p in read_polygons(table)], shape)


def _no_table(path: Path, columns: tuple[str, ...], found: list[str]) -> UserError:
    parted = next((s for s in (";", "\t", "|") if len(found) == 1 and s in found[0]), None)
    if parted is not None:
        what, do = f"a table parted by {parted!r}", "save it with commas, as the owners ship it"
    else:
        what, do = "a table without the columns of NuCLS", "take the csv files of the owners"
    return UserError(
        what,
        where=str(path),
        expected=f"columns {', '.join(columns)}, parted by commas",
        found=", ".join(found)[:100] or "an empty file",
        do=do,
    )


def _is_field(row: dict[str, str]) -> bool:
    return any(row.get(c, "").lower().startswith("fov") for c in CLASS_COLUMNS)
