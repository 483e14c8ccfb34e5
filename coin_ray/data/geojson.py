"""Instances as GeoJSON for QuPath: polygons along pixel edges, full resolution, origin top left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from coin_ray.data.outlines import trace
from coin_ray.files import write_text
from coin_ray.labels import LabelMap, boxes

COLOR = [255, 200, 0]


def features(label_map: LabelMap, *, mpp: float | None = None) -> list[dict[str, Any]]:
    """One Feature an instance, in the order of the ids; several polygons if it is in pieces.

    The id is the name of the detection; its area in px, and in um^2 where ``mpp`` is known, are
    measurements.
    """
    out = []
    for index, (y0, x0, y1, x1) in enumerate(boxes(label_map).tolist()):
        mask, corner = label_map[y0:y1, x0:x1] == index + 1, np.array([x0, y0])
        polygons = [[(ring + corner).tolist() for ring in rings] for rings in trace(mask)]
        if not polygons:
            continue
        area = float(mask.sum())
        single = len(polygons) == 1
        out.append(
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon" if single else "MultiPolygon",
                    "coordinates": polygons[0] if single else polygons,
                },
                "properties": {
                    "objectType": "detection",
                    "name": str(index + 1),
                    "classification": {"name": "nucleus", "color": COLOR},
                    "measurements": {"area px": area}
                    | ({"area um^2": area * mpp**2} if mpp else {}),
                },
            }
        )
    return out


def write_geojson(path: Path, label_map: LabelMap, *, mpp: float | None = None) -> None:
    """A FeatureCollection of :func:`features`."""
    collection = {"type": "FeatureCollection", "features": features(label_map, mpp=mpp)}
    write_text(path, json.dumps(collection, separators=(",", ":")))
