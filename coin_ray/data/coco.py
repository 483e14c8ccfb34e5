"""Instances as COCO annotations with run-length encoded masks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.files import write_text
from coin_ray.labels import LabelMap


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
