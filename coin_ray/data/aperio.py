"""Outlines in the XML of Aperio ImageScope, and their drawing as a label map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.resolution import PLAUSIBLE
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap, relabel

Overlap = Literal["last", "first", "smallest"]
Polygon = NDArray[np.float64]

RECTANGLES, ELLIPSES = ("1", "rectangle"), ("2", "ellipse")
"""``Type`` of a region by ImageScope's number and by HALO's name; else it is an outline."""
ARC = 64
"""Vertices of an ellipse."""

ROOTS = {
    "asap_annotations": "an annotation file of ASAP",
    "annotations": "an annotation file of CVAT",
    "annotation": "an annotation file of Pascal VOC",
    "html": "a web page",
    "ome": "the metadata of an OME file",
    "ndpviewstate": "an annotation file of NDP.view",
    "omero": "an export of OMERO",
}
"""What other files of this suffix are, by their root element in lower case."""


SHAPES = re.compile(
    rb"NegativeROA\s*=\s*[\"'](?:1|true)|<V\s|"
    rb"<Region\b[^>]*\sType\s*=\s*[\"'](?:[12]|rectangle|ellipse)[\"']",
    re.IGNORECASE,
)
HEAD = 4096
"""Bytes that hold the root element."""


class Outlines(NamedTuple):
    """``polygons`` and ``holes`` in them: (K, 2) float (y, x) vertices each; ``mpp`` as the file
    states it, or None."""

    polygons: list[Polygon]
    mpp: float | None
    holes: Sequence[Polygon] = ()


@dataclass
class _Region:
    kind: str
    is_hole: bool
    vertices: list[tuple[float, float]] = field(default_factory=list)


def read_outlines(path: Path) -> Outlines:
    """Every ``Region`` of every ``Annotation``, in the order of the file; those of NegativeROA are
    holes. Rectangles and ellipses may be stored as two corners of their box.

    The file is parsed as it streams in. A document type declaration is refused: annotations need
    none, and entities declared there can expand to any size or name other files.

    Raises:
        UserError: truncated or malformed XML, a DTD, annotations of another program, a vertex
            without numbers.
    """
    regions: list[_Region] = []
    mpp: list[float] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if not mpp:
            _check_root(path, name)
            mpp.append(float(attributes.get("MicronsPerPixel") or 0))
        elif name == "Region":
            is_hole = attributes.get("NegativeROA", "0").lower() in ("1", "true")
            regions.append(_Region(attributes.get("Type", "0").lower(), is_hole))
        elif name in ("Vertex", "V") and regions:
            regions[-1].vertices.append((float(attributes["Y"]), float(attributes["X"])))

    def refuse(name: str, *_: object) -> None:
        if name.lower() in ROOTS:
            _check_root(path, name)
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
    shapes = [(_shape(region), region.is_hole) for region in regions]
    if any(not np.isfinite(shape).all() for shape, _ in shapes):
        raise UserError("a vertex that is no number", where=str(path), found="NaN or infinity")
    return Outlines(
        [shape for shape, is_hole in shapes if not is_hole],
        mpp[0] if mpp[0] > 0 else None,
        [shape for shape, is_hole in shapes if is_hole],
    )


def stated_mpp(path: Path) -> float | None:
    """um/px as the root element states it, read without the rest; None if it does not."""
    stated: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda _, attributes: stated.append(
        attributes.get("MicronsPerPixel", "")
    )
    try:
        with path.open("rb") as file:
            parser.Parse(file.read(HEAD), False)
        mpp = float(stated[0])
    except (expat.ExpatError, IndexError, ValueError):
        return None  # reading all of it says what is wrong
    return mpp if PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1] else None


def has_shapes(path: Path) -> bool:
    """Whether a file may hold more than outlines: a hole, or a region of another type."""
    return SHAPES.search(path.read_bytes()) is not None


def draw_outlines(
    polygons: Sequence[Polygon],
    shape: tuple[int, int],
    *,
    overlap: Overlap = "last",
    holes: Sequence[Polygon] = (),
) -> LabelMap:
    """Polygons as a (H, W) label map, ids from 1 in drawing order, without gaps.

    A pixel belongs to a polygon if its index point (y, x) lies inside (``skimage.draw.polygon`` on
    the unrounded vertices; parts outside the image are cut off). Polygons of fewer than three
    vertices or without a pixel are left out. Where polygons overlap, the ``last`` wins, as in the
    owners' own script, or the ``first``, or the ``smallest`` (drawn on top of what surrounds it).
    A hole is cut out of every polygon that holds more than half of it and is larger.
    """
    from skimage.draw import polygon

    drawn = [polygon(p[:, 0], p[:, 1], shape) for p in polygons if len(p) >= 3]
    for hole in holes:
        if len(hole) >= 3:
            mask = np.zeros(shape, dtype=bool)
            mask[polygon(hole[:, 0], hole[:, 1], shape)] = True
            drawn = [_without(pixels, mask) for pixels in drawn]
    if overlap == "first":
        drawn.reverse()
    elif overlap == "smallest":
        drawn.sort(key=lambda pixels: -len(pixels[0]))
    out = np.zeros(shape, dtype=np.int32)
    for i, (y, x) in enumerate(drawn):
        out[y, x] = i + 1
    return relabel(out)


def read_truth(path: Path, shape: tuple[int, int]) -> LabelMap:
    """The outlines of a file drawn into an image of ``shape`` (H, W), the smallest on top."""
    found = read_outlines(path)
    return draw_outlines(found.polygons, shape, overlap="smallest", holes=found.holes)


def _shape(region: _Region) -> Polygon:
    """The outline of a region, whether stored as such or as corners of a box."""
    points = np.array(region.vertices, dtype=np.float64).reshape(-1, 2)
    is_box = region.kind in RECTANGLES and len(points) == 2
    is_ellipse = region.kind in ELLIPSES and 2 <= len(points) <= 4
    if not (is_box or is_ellipse):
        return points
    (y0, x0), (y1, x1) = points.min(axis=0), points.max(axis=0)
    if is_box:
        return np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])
    angle = np.linspace(0, 2 * np.pi, ARC, endpoint=False)
    y = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angle)
    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angle)
    return np.stack([y, x], axis=1)


def _without(
    pixels: tuple[NDArray[np.int64], NDArray[np.int64]], hole: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    y, x = pixels
    inside, size = hole[y, x], np.count_nonzero(hole)
    if 2 * np.count_nonzero(inside) <= size or len(y) <= size:
        return pixels
    return y[~inside], x[~inside]


def _check_root(path: Path, name: str) -> None:
    local = name.rsplit(":", 1)[-1]
    if local == "Annotations":
        return
    raise UserError(
        "not outlines of Aperio ImageScope but "
        + ROOTS.get(local.lower(), "another kind of XML file"),
        where=str(path),
        expected="the root element Annotations, with Annotation/Regions/Region/Vertices",
        found=f"the root element {local}",
        do="export outlines as Aperio XML, or label maps into a folder label/; without labels, "
        "move this file away",
    )
