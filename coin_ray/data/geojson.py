"""Instances as GeoJSON for QuPath: polygons along pixel edges, full resolution, origin top left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coin_ray.data.outlines import Ring, trace_instances
from coin_ray.files import write_text
from coin_ray.labels import LabelMap, areas

COLOR = [255, 200, 0]


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
