"""Nuclei as a table: GeoParquet, a row a nucleus."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from coin_ray.data.outlines import Ring
from coin_ray.slides.nuclei import Nuclei
from coin_ray.slides.writing import Frame, Parts, measured
from coin_ray.slides.writing.geojson import outlines

GROUP = 50_000
"""Rows that are written at a time."""
GEO = {
    "version": "1.0.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": ["Polygon", "MultiPolygon"],
            "crs": None,
        }
    },
}


def write_table(frame: Frame, parts: Parts, path: Path) -> None:
    """``id``, centroid in px of level 0 and in um, area, perimeter, axes, solidity, mean
    hematoxylin (OD), score, and the outline in px of level 0 as ``geometry``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = [(name, pa.float64()) for name in ("x_px", "y_px", "x_um", "y_um")]
    numbers += [
        (name, pa.float32())
        for name in ("area_um2", "perimeter_um", "major_axis_um", "minor_axis_um")
    ]
    numbers += [(name, pa.float32()) for name in ("solidity", "hematoxylin", "score")]
    schema = pa.schema(
        [("id", pa.int64()), *numbers, ("geometry", pa.binary())],
        metadata={"geo": json.dumps(GEO), "coin-ray": json.dumps({"mpp": frame.mpp})},
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        last, rows = 0, []
        for part in parts():
            rows.append(pa.table(_columns(frame, part, last + 1), schema=schema))
            last += len(part)
            if sum(map(len, rows)) >= GROUP:
                writer.write_table(pa.concat_tables(rows), GROUP)
                rows = []
        if rows:
            writer.write_table(pa.concat_tables(rows), GROUP)


def _columns(frame: Frame, part: Nuclei, first_id: int) -> dict[str, Any]:
    ids = np.arange(first_id, first_id + len(part))
    geometry = [_wkb(polygons) for polygons in outlines(frame, part)]
    return {"id": ids, **measured(frame, part.table), "geometry": geometry}


def _wkb(polygons: list[list[Ring]]) -> bytes:
    """Well-known binary, little-endian, of a polygon or of several."""
    pieces = []
    for rings in polygons:
        pieces.append(struct.pack("<BII", 1, 3, len(rings)))
        for ring in rings:
            pieces += [struct.pack("<I", len(ring)), ring.astype("<f8").tobytes()]
    if len(polygons) == 1:
        return b"".join(pieces)
    return struct.pack("<BII", 1, 6, len(polygons)) + b"".join(pieces)
