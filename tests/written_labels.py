"""What the writer of COCO has written, read back by COCO's own tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import LabelMap


def decode(counts: str, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Inverse of :func:`coin_ray.data.coco.encode`: the (H, W) mask."""
    from pycocotools import mask

    found: NDArray[np.uint8] = mask.decode({"size": list(size), "counts": counts.encode()})
    return found.astype(bool)


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
