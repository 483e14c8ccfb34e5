"""What the writers of COCO and GeoJSON have written, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from coin_ray.data.outlines import Ring
from coin_ray.labels import BoolArray, LabelMap


def decode(counts: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Inverse of :func:`coin_ray.data.coco.encode`: the (H, W) mask."""
    runs: list[int] = []
    number, shift = 0, 0
    for character in counts:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"{character!r} is no part of a run length")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number, shift = 0, 0
    height, width = size
    if shift or min(runs, default=0) < 0 or sum(runs) > height * width:
        raise ValueError("the runs do not fit the image")
    flat = np.zeros(height * width, dtype=bool)
    at = np.cumsum(runs)
    for start, stop in zip(at[:-1:2].tolist(), at[1::2].tolist(), strict=False):
        flat[start:stop] = True
    return flat.reshape(width, height).T


def read_coco(path: Path) -> dict[str, LabelMap]:
    """Label maps by file name; ids in the order of the file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    maps = {
        image["id"]: np.zeros((image["height"], image["width"]), dtype=np.int32)
        for image in content["images"]
    }
    drawn = dict.fromkeys(maps, 0)
    for row in content["annotations"]:
        label_map = maps[row["image_id"]]
        drawn[row["image_id"]] += 1
        label_map[decode(row["segmentation"]["counts"], label_map.shape)] = drawn[row["image_id"]]
    return {names[i]: label_map for i, label_map in maps.items()}


def read_geojson(path: Path, shape: tuple[int, int]) -> LabelMap:
    """Polygons of a FeatureCollection as a (H, W) label map, ids in the order of the file."""
    out = np.zeros(shape, dtype=np.int32)
    for index, feature in enumerate(json.loads(path.read_text(encoding="utf-8"))["features"]):
        geometry = feature["geometry"]
        many = {"Polygon": False, "MultiPolygon": True}[geometry["type"]]
        coordinates = geometry["coordinates"] if many else [geometry["coordinates"]]
        polygons = [[np.asarray(ring, dtype=float) for ring in rings] for rings in coordinates]
        out[fill(polygons, shape)] = index + 1
    return out


def fill(polygons: list[list[Ring]], shape: tuple[int, int]) -> BoolArray:
    """The (H, W) mask of polygons: pixels whose centre is in an outer ring and in no hole of it."""
    mask = np.zeros(shape, dtype=bool)
    limit = np.array(shape[::-1])
    for rings in polygons:
        low = np.clip(rings[0].min(axis=0), 0, limit)
        high = np.clip(np.ceil(rings[0].max(axis=0)).astype(int), 0, limit)
        (x0, y0), (x1, y1) = low.astype(int).tolist(), high.tolist()
        part = np.zeros((y1 - y0, x1 - x0), dtype=bool)
        for ring in rings:
            x, y = (ring[:-1] - (x0, y0) - 0.5).T
            part[polygon(y, x, part.shape)] ^= True
        mask[y0:y1, x0:x1] |= part
    return mask
