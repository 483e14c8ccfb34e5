"""Instances as COCO annotations with run-length encoded masks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.write import whole_file
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap


def encode(pixels: NDArray[np.int64]) -> str:
    """Sorted column-major pixel numbers of a mask -> COCO's compressed run lengths.

    Runs alternate from background; from the fourth on a run is stored as its difference to the one
    two before. Each number becomes 5-bit groups, lowest first, sign-extended, as ASCII from "0".
    """
    first = np.flatnonzero(np.diff(pixels, prepend=-2) != 1)
    last = np.append(first[1:], len(pixels)) - 1
    ends = np.stack([pixels[first], pixels[last] + 1], axis=1).ravel()
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


def decode(counts: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Inverse of :func:`encode`: the (H, W) mask. ValueError if the runs leave the image."""
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


def objects(label_map: LabelMap, *, image_id: int, first_id: int = 1) -> list[dict[str, Any]]:
    """One annotation an instance, in the order of the ids."""
    height, width = label_map.shape
    columns = label_map.T.ravel()
    pixels = np.flatnonzero(columns)
    order = np.argsort(columns[pixels], kind="stable")
    ids, starts = np.unique(columns[pixels][order], return_index=True)
    runs = np.split(pixels[order], starts)[1:]
    out = []
    for k, (label, run) in enumerate(zip(ids, runs, strict=True)):
        x, y = np.divmod(run, height)
        x0, y0 = int(x.min()), int(y.min())
        out.append(
            {
                "id": first_id + k,
                "image_id": image_id,
                "category_id": 1,
                "label": int(label),
                "segmentation": {"size": [height, width], "counts": encode(run)},
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
    with whole_file(path) as part:
        part.write_text(
            json.dumps({"images": images, "annotations": rows, "categories": categories}),
            encoding="utf-8",
        )


def read_coco(path: Path) -> dict[str, LabelMap]:
    """Label maps by file name; ids in the order of the file, a later one on top of an earlier.

    Raises:
        UserError: no such annotations, or runs that do not fit their image.
    """
    try:
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
            mask = decode(row["segmentation"]["counts"], label_map.shape)
            label_map[mask] = drawn[row["image_id"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "no COCO annotations with compressed run lengths",
            where=str(path),
            expected="images, annotations with segmentation.counts as text",
            found=f"{type(error).__name__}: {error}",
        ) from error
    return {names[i]: label_map for i, label_map in maps.items()}
