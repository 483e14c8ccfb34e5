"""Nuclei as detections that QuPath reads, compressed."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    """A FeatureCollection in full resolution, y down, the origin where the slide begins.

    Each part is a member of its own of the gzip file, which readers join."""
    from imagecodecs import gzip_encode

    with path.open("wb") as file:
        file.write(gzip_encode(b'{"type":"FeatureCollection","features":[', LEVEL))
        last = 0
        for part in parts():
            if len(part):
                text = ("," if last else "") + _features(frame, part, last + 1)
                file.write(gzip_encode(text.encode(), LEVEL))
            last += len(part)
        file.write(gzip_encode(b"]}", LEVEL))


def _features(frame: Frame, part: Nuclei, first_id: int) -> str:
    """The text of the features of a part, without an object for each of its numbers."""
    table = measured(frame, part.table)
    columns = [table[name].tolist() for name in NAMES]
    one, many = _template(1), _template(2)
    found = []
    polygons = zip(_coordinates(frame, part), *columns, strict=True)
    for name, (texts, *values) in enumerate(polygons, start=first_id):
        if len(texts) == 1:
            found.append(one % (texts[0], name, *values))
        else:
            found.append(many % (f"[{','.join(texts)}]", name, *values))
    return ",".join(found)


def _template(polygons: int) -> str:
    """A feature as JSON with places for its coordinates, its name and its measurements."""
    empty = feature("%d", [[]] * polygons, dict.fromkeys(NAMES.values(), 0.0))
    empty["geometry"]["coordinates"] = empty["properties"]["measurements"] = "%s"
    text = json.dumps(empty, separators=(",", ":"))
    values = ",".join(f"{json.dumps(name)}:%.3f" for name in NAMES.values())
    return text.replace('"%s"', "%s", 1).replace('"%s"', f"{{{values}}}")


def _coordinates(frame: Frame, part: Nuclei) -> Iterator[list[str]]:
    """The polygons of each nucleus as JSON."""
    factor = _factor(frame)
    (top, left), (height, width) = part.corner_yx, part.label_map.shape
    x_of = [f"[{(left + x) * factor}," for x in range(width + 1)]
    y_of = [f"{(top + y) * factor}]" for y in range(height + 1)]
    for polygons in trace_instances(part.label_map):
        found = []
        for rings in polygons:
            texts = []
            for ring in rings:
                x, y = ring.T.tolist()
                texts.append(",".join([x_of[i] + y_of[j] for i, j in zip(x, y, strict=True)]))
            found.append(f"[[{'],['.join(texts)}]]")
        yield found


def _factor(frame: Frame) -> Any:
    """Whole where it can be, so that coordinates are."""
    return round(frame.downsample) if frame.downsample.is_integer() else frame.downsample


def outlines(frame: Frame, part: Nuclei) -> list[list[list[Ring]]]:
    """The polygons of each nucleus, px of level 0."""
    corner = part.corner_yx[::-1]
    traced = trace_instances(part.label_map)
    factor = _factor(frame)
    return [[[(r + corner) * factor for r in rings] for rings in one] for one in traced]
