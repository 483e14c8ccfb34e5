"""Nuclei as COCO annotations with run-length encoded masks."""

from __future__ import annotations

import json
from pathlib import Path

from coin_ray.data.coco import objects
from coin_ray.slides.writing import Frame, Parts


def write_coco(frame: Frame, parts: Parts, path: Path) -> None:
    """One image, the level that was segmented, and an annotation a nucleus, with its score."""
    height, width = frame.shape
    image = {"id": 1, "file_name": frame.name, "height": height, "width": width}
    head = {"images": [image], "categories": [{"id": 1, "name": "nucleus"}]}
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ',"annotations":[')
        last = 0
        for part in parts():
            found = objects(
                part.label_map,
                image_id=1,
                first_id=last + 1,
                corner_yx=part.corner_yx,
                size=frame.shape,
            )
            rows = zip(found, part.table["score"].tolist(), strict=True)
            text = ",".join(json.dumps({**row, "score": round(score, 4)}) for row, score in rows)
            file.write(("," if last and text else "") + text)
            last += len(part)
        file.write("]}")
