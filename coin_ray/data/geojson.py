"""Instances as GeoJSON of QuPath: polygons along pixel edges, full resolution, origin top left; and
what a person corrected there, read back."""

from __future__ import annotations

import gzip
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from coin_ray.data.outlines import Ring, draw, trace_instances
from coin_ray.data.rasters import decoding
from coin_ray.errors import UserError
from coin_ray.files import write_text
from coin_ray.labels import LabelMap, areas, count, relabel

SUFFIXES = (".geojson", ".geojson.gz")
COLOR = [255, 200, 0]


class Hidden(UserWarning):
    """Some outlines of a file are not to be seen in the label map."""


def feature(
    name: str, polygons: list[list[Ring]], measurements: dict[str, float]
) -> dict[str, Any]:
    """One detection of QuPath; several polygons if it is in pieces."""
    coordinates = [[ring.tolist() for ring in rings] for rings in polygons]
    single = len(polygons) == 1
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": coordinates[0] if single else coordinates,
        },
        "properties": {
            "objectType": "detection",
            "name": name,
            "classification": {"name": "nucleus", "color": COLOR},
            "measurements": measurements,
        },
    }


def features(label_map: LabelMap, *, mpp: float | None = None) -> list[dict[str, Any]]:
    """One :func:`feature` an instance, in the order of the ids.

    The id is the name of the detection; its area in px, and in um^2 where ``mpp`` is known, are
    measurements.
    """
    out = []
    sizes = areas(label_map).tolist()
    for index, (polygons, size) in enumerate(zip(trace_instances(label_map), sizes, strict=True)):
        area = float(size)
        measured = {"area px": area} | ({"area um^2": area * mpp**2} if mpp else {})
        if polygons:
            out.append(feature(str(index + 1), polygons, measured))
    return out


def write_geojson(path: Path, label_map: LabelMap, *, mpp: float | None = None) -> None:
    """A FeatureCollection of :func:`features`."""
    collection = {"type": "FeatureCollection", "features": features(label_map, mpp=mpp)}
    write_text(path, json.dumps(collection, separators=(",", ":")))


def is_geojson(path: Path) -> bool:
    """By its name."""
    return path.name.lower().endswith(SUFFIXES)


def read_geojson(path: Path, shape: tuple[int, int]) -> LabelMap:
    """The polygons of a file drawn into an image of ``shape`` (H, W), in px of it; ids contiguous,
    in the order of the file. What comes later lies on top; of a cell its nucleus counts.

    Warns of outlines that leave no pixel.

    Raises:
        UserError: no GeoJSON, other coordinates than px, other shapes than polygons, one that lies
            outside the image, one that holds several others, most of them without a pixel.
    """
    out = np.zeros(shape, dtype=np.int32)
    outside, number = 0, 0
    held: Counter[int] = Counter()
    left: Counter[int] = Counter()  # px that an outline still has
    for number, row in enumerate(_features(path), start=1):
        under = draw(out, _polygons(row, path, number), number)
        if under is None:
            outside += 1
            continue
        ids, sizes = np.unique(under[under != number], return_counts=True)
        below = dict(zip(ids.tolist(), sizes.tolist(), strict=True))
        covered = [other for other, size in below.items() if other and size == left[other]]
        if covered:
            held[number] += len(covered)
        elif len(below) == 1:
            held.update(below.keys())
        left.subtract(below)
        left[number] = sum(below.values())
    if outside:
        raise UserError(
            f"{outside} of {number} outlines lie outside the image",
            where=str(path),
            expected=f"px of the image, x up to {shape[1]} and y up to {shape[0]}",
            do="pair the image with its own outlines, at full resolution and with its origin",
        )
    _check_held(held, path)
    label_map = relabel(out)
    _check_left(number, count(label_map), path)
    return label_map


def _check_held(held: Counter[int], path: Path) -> None:
    """Refuse what is drawn around nuclei: it would be one nucleus of all that lies between them."""
    del held[0]  # the background
    regions = [number for number, nuclei in held.items() if nuclei > 1]
    if regions:
        raise UserError(
            "an outline around others is no nucleus",
            where=str(path),
            expected="nuclei alone",
            found=f"outline {regions[0]} holds {held[regions[0]]} others"
            + (f"; and {len(regions) - 1} more of the kind" if regions[1:] else ""),
            do="remove the region, or the nucleus that was drawn anew, and export the rest",
        )


def _check_left(drawn: int, left: int, path: Path) -> None:
    said = f"{drawn - left} of {drawn} outlines leave no pixel, being too small or below others"
    if 2 * left < drawn:
        raise UserError(
            said,
            where=str(path),
            expected="px of the image, each nucleus once",
            do="export in px at full resolution, neither in um nor as fractions of the image",
        )
    if left < drawn:
        warnings.warn(f"{path}: {said}", Hidden, stacklevel=3)


def _features(path: Path) -> list[Any]:
    """A collection, a list as QuPath also writes it, or one feature."""
    with decoding(path):
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        found = json.loads(content)
    if isinstance(found, dict) and found.get("crs"):
        raise UserError(
            "outlines in coordinates of a map",
            where=str(path),
            expected="px of the image",
            found=f"crs {json.dumps(found['crs'])[:100]}",
            do="export in px; if they are, remove `crs` from the file",
        )
    rows = found.get("features", [found]) if isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _refused(path, type(found).__name__)
    return rows


def _polygons(row: dict[str, Any], path: Path, number: int) -> list[list[Ring]]:
    geometry: Any = row.get("nucleusGeometry") or row.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise _refused(path, f"outline {number}: {kind or 'no geometry'}")
    given = geometry.get("coordinates")
    several = given if kind == "MultiPolygon" else [given]
    try:
        polygons = [[np.array(ring, dtype=float)[:, :2] for ring in rings] for rings in several]
    except (ValueError, TypeError, IndexError) as error:
        raise _refused(
            path, f"outline {number}: coordinates that are no rings of x and y"
        ) from error
    rings = [ring for polygon in polygons for ring in polygon]
    if any(ring.ndim != 2 or ring.shape[1] != 2 for ring in rings):
        raise _refused(path, f"outline {number}: coordinates that are no rings of x and y")
    if not polygons or not all(polygons) or any(len(np.unique(r, axis=0)) < 3 for r in rings):
        raise _refused(path, f"outline {number}: a ring without corners, or of less than three")
    if not all(np.isfinite(ring).all() for ring in rings):
        raise _refused(path, f"outline {number}: a corner that is no number")
    return polygons


def _refused(path: Path, found: str) -> UserError:
    return UserError(
        "no outlines of nuclei",
        where=str(path),
        expected="GeoJSON: a FeatureCollection of Polygon and MultiPolygon",
        found=found,
        do="export the objects from QuPath as GeoJSON, nuclei alone",
    )
