"""Instances as COCO annotations: written with run-length encoded masks, read in any form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.outlines import draw
from coin_ray.data.rasters import SUFFIXES
from coin_ray.data.signatures import OF_TIF
from coin_ray.errors import UserError
from coin_ray.files import write_text
from coin_ray.labels import LabelMap, relabel


def encode(pixels: NDArray[np.int64], size: int) -> str:
    """Sorted column-major pixel numbers of a mask of ``size`` pixels -> COCO's compressed run
    lengths.

    Runs alternate from background and reach to the last pixel (COCO's own decoder leaves what they
    do not reach as the memory was); from the fourth on a run is stored as its difference to the one
    two before. Each number becomes 5-bit groups, lowest first, sign-extended, as ASCII from "0".
    """
    first = np.flatnonzero(np.diff(pixels, prepend=-2) != 1)
    last = np.append(first[1:], len(pixels)) - 1
    ends = np.stack([pixels[first], pixels[last] + 1], axis=1).ravel()
    if not len(ends) or ends[-1] != size:
        ends = np.append(ends, size)
    runs = np.diff(ends, prepend=0)
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    out = []
    for number in numbers.tolist():
        while True:
            group, number = number & 31, number >> 5
            more = number != (-1 if group & 16 else 0)
            out.append(chr(48 + (group | (32 if more else 0))))
            if not more:
                break
    return "".join(out)


def objects(
    label_map: LabelMap,
    *,
    image_id: int,
    first_id: int = 1,
    corner_yx: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """One annotation an instance, in the order of the ids; of a part of an image of ``size`` (H, W)
    that begins at ``corner_yx``."""
    height, (full_height, full_width) = len(label_map), size or label_map.shape
    columns = label_map.T.ravel()
    pixels = np.flatnonzero(columns)
    order = np.argsort(columns[pixels], kind="stable")
    ids, starts = np.unique(columns[pixels][order], return_index=True)
    runs = np.split(pixels[order], starts)[1:]
    out = []
    for k, (label, run) in enumerate(zip(ids, runs, strict=True)):
        x, y = np.divmod(run, height)
        x, y = x + corner_yx[1], y + corner_yx[0]
        x0, y0 = int(x.min()), int(y.min())
        out.append(
            {
                "id": first_id + k,
                "image_id": image_id,
                "category_id": 1,
                "label": int(label),
                "segmentation": {
                    "size": [full_height, full_width],
                    "counts": encode(x * full_height + y, full_height * full_width),
                },
                "area": len(run),
                "bbox": [x0, y0, int(x.max()) + 1 - x0, int(y.max()) + 1 - y0],
                "iscrowd": 0,
            }
        )
    return out


def write_coco(path: Path, items: Iterable[tuple[str, LabelMap]]) -> None:
    """All (file name, label map) pairs in one file, category 1 = nucleus."""
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for image_id, (name, label_map) in enumerate(items, start=1):
        height, width = label_map.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        rows += objects(label_map, image_id=image_id, first_id=len(rows) + 1)
    categories = [{"id": 1, "name": "nucleus"}]
    content = {"images": images, "annotations": rows, "categories": categories}
    write_text(path, json.dumps(content))


def decode(counts: str) -> list[int]:
    """The run lengths that :func:`encode` wrote."""
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        group = ord(character) - 48
        number |= (group & 31) << shift
        shift += 5
        if not group & 32:
            number -= (group & 16 and 1) << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs


def read_coco(
    path: Path, content: Mapping[str, Any], name: str, shape: tuple[int, int]
) -> LabelMap:
    """The annotations of one image, (H, W) int32, ids from 1; where they overlap, the one of higher
    ``score`` counts, or the later one. UserError for masks of another size or form."""
    images = [one for one in content["images"] if one["file_name"] == name]
    out = np.zeros(shape, dtype=np.int32)
    try:
        ids = {one["id"] for one in images}
        for one in images:  # polygons state no size of their own
            stated = (one.get("height") or shape[0], one.get("width") or shape[1])
            if stated != tuple(shape):
                raise ValueError(f"an image of {stated[0]} x {stated[1]}")
        own = [one for one in content["annotations"] if one["image_id"] in ids]
        own.sort(key=lambda one: one.get("score", 0.0))
        for label, one in enumerate(own, start=1):
            _draw(out, one["segmentation"], label)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            "an annotation that is no mask of its image",
            where=f"{path}, image {name}",
            expected=f"polygons, or run lengths of {shape[0]} x {shape[1]} (height x width)",
            found=str(error) or type(error).__name__,
        ) from error
    return relabel(out)


def names_in(path: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """Name without its suffix -> name of the images of a file. UserError for two of one stem, and
    for entries without name or id."""
    found: dict[str, str] = {}
    images = content["images"]
    if not isinstance(images, list) or not all(
        isinstance(one, dict) and isinstance(one.get("file_name"), str) and "id" in one
        for one in images
    ):
        raise UserError(
            "images without a name or an id",
            where=str(path),
            expected="images: a list of objects with file_name and id",
        )
    for name in [one["file_name"] for one in images]:
        other = found.setdefault(_stem(Path(name)), name)
        if other != name:
            raise UserError(
                "two images of one name",
                where=str(path),
                found=f"{other} and {name}",
                do="give a file for each of their folders",
            )
    return found


def _stem(name: Path) -> str:
    """A name may have no suffix, and dots of its own, as those of TCGA's slides have."""
    known = (*SUFFIXES, *OF_TIF, ".bmp", ".webp", ".gif")
    return name.stem if name.suffix.lower() in known else name.name


def _draw(label_map: LabelMap, segmentation: Any, label: int) -> None:
    if isinstance(segmentation, list):
        corners = [np.reshape(np.asarray(ring, dtype=float), (-1, 2)) for ring in segmentation]
        draw(label_map, [[ring] for ring in corners], label)
        return
    counts, (height, width) = segmentation["counts"], label_map.shape
    runs = decode(counts) if isinstance(counts, str) else counts
    if tuple(segmentation["size"]) != (height, width) or sum(runs) > label_map.size:
        raise ValueError(f"run lengths of {' x '.join(map(str, segmentation['size']))}")
    x, y = np.divmod(np.flatnonzero(np.repeat(np.arange(len(runs)) % 2, runs)), height)
    label_map[y, x] = label
