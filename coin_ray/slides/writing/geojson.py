"""Nuclei as detections that QuPath reads, compressed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from coin_ray.data.geojson import feature
from coin_ray.data.outlines import Ring, trace_instances
from coin_ray.slides.nuclei import Nuclei
from coin_ray.slides.writing import Frame, Parts, measured

LEVEL = 1
"""Of the compression: the fastest, as text of digits hardly gets smaller with a better one."""
NAMES = {
    "area_um2": "area um^2",
    "perimeter_um": "perimeter um",
    "major_axis_um": "major axis um",
    "minor_axis_um": "minor axis um",
    "solidity": "solidity",
    "hematoxylin": "hematoxylin OD mean",
    "score": "score",
}


def write_geojson(frame: Frame, parts: Parts, path: Path) -> None:
    """A FeatureCollection in full resolution, y down, the origin where the slide begins."""
    # Neither the time nor the name of a scratch file: the same nuclei make the same file.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        last = 0
        for part in parts():
            text = _features(frame, part, last + 1)
            file.write((("," if last and text else "") + text).encode())
            last += len(part)
        file.write(b"]}")


def _features(frame: Frame, part: Nuclei, first_id: int) -> str:
    table = measured(frame, part.table)
    columns = [[round(v, 3) for v in table[name].tolist()] for name in NAMES]
    rows = zip(outlines(frame, part), *columns, strict=True)
    return ",".join(
        json.dumps(
            feature(str(first_id + i), polygons, dict(zip(NAMES.values(), values, strict=True))),
            separators=(",", ":"),
        )
        for i, (polygons, *values) in enumerate(rows)
    )


def outlines(frame: Frame, part: Nuclei) -> list[list[list[Ring]]]:
    """The polygons of each nucleus, px of level 0."""
    corner = part.corner_yx[::-1]
    traced = trace_instances(part.label_map)
    factor: Any = round(frame.downsample) if frame.downsample.is_integer() else frame.downsample
    return [[[(r + corner) * factor for r in rings] for rings in one] for one in traced]
