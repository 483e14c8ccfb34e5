"""Settings of what is read beside images and ground truth."""

from __future__ import annotations

from pydantic import Field

from coin_ray.data.label_files import Binary
from coin_ray.section import Section


class Predictions(Section):
    """Label maps that another program made, measured in place of ours."""

    path: str | None = Field(
        None,
        description="folder of label maps (tif, png, npy) or GeoJSON named as the images, or a "
        "COCO file; nothing else of the cell is computed",
    )
    binary: Binary | None = Field(None, description="how files of two values are split")
