"""Outlines in the XML of Aperio ImageScope, and their drawing as a label map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from coin_ray.errors import UserError
from coin_ray.labels import LabelMap, relabel

Overlap = Literal["last", "first", "smallest"]


class Outlines(NamedTuple):
    """``polygons``: (K, 2) float (y, x) vertices each; ``mpp`` as the file states it, or None."""

    polygons: list[NDArray[np.float64]]
    mpp: float | None


def read_outlines(path: Path) -> Outlines:
    """Every ``Region`` of every ``Annotation``, in the order of the file.

    The file is parsed as it streams in. A document type declaration is refused: annotations need
    none, and entities declared there can expand to any size or name other files.

    Raises:
        UserError: truncated or malformed XML, a DTD, a vertex without numbers.
    """
    polygons: list[list[tuple[float, float]]] = []
    mpp: list[float] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "Region":
            polygons.append([])
        elif name == "Vertex" and polygons:
            polygons[-1].append((float(attributes["Y"]), float(attributes["X"])))
        elif name == "Annotations" and attributes.get("MicronsPerPixel"):
            mpp.append(float(attributes["MicronsPerPixel"]))

    def refuse(*_: object) -> None:
        raise UserError(
            "XML with a document type declaration",
            where=str(path),
            expected="plain annotations",
            found="a DTD, which can declare entities that expand without bound",
            do="export the annotations again; do not trust this file",
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path)) from error
    except (expat.ExpatError, KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            "cannot read these annotations",
            where=str(path),
            expected="Aperio XML: Annotations/Annotation/Regions/Region/Vertices/Vertex[X, Y]",
            found=f"{path.stat().st_size:,} bytes; {error}",
            do="copy or download it again",
        ) from error
    arrays = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in polygons]
    if any(not np.isfinite(a).all() for a in arrays):
        raise UserError("a vertex that is no number", where=str(path), found="NaN or infinity")
    return Outlines(arrays, mpp[0] if mpp and mpp[0] > 0 else None)


def draw_outlines(
    polygons: Sequence[NDArray[np.float64]],
    shape: tuple[int, int],
    *,
    overlap: Overlap = "last",
) -> LabelMap:
    """Polygons as a (H, W) label map, ids from 1 in drawing order, without gaps.

    A pixel belongs to a polygon if its index point (y, x) lies inside (``skimage.draw.polygon`` on
    the unrounded vertices; parts outside the image are cut off). Polygons of fewer than three
    vertices or without a pixel are left out. Where polygons overlap, the ``last`` wins, as in the
    owners' own script, or the ``first``, or the ``smallest`` (drawn on top of what surrounds it).
    """
    from skimage.draw import polygon

    drawn = [polygon(p[:, 0], p[:, 1], shape) for p in polygons if len(p) >= 3]
    if overlap == "first":
        drawn.reverse()
    elif overlap == "smallest":
        drawn.sort(key=lambda pixels: -len(pixels[0]))
    out = np.zeros(shape, dtype=np.int32)
    for i, (y, x) in enumerate(drawn):
        out[y, x] = i + 1
    return relabel(out)
