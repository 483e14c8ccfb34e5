"""DICOM whole slides that openslide refuses, by wsidicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coin_ray.data.rasters import decoding
from coin_ray.slides.reading import Image8, Slide


def wsidicom_slide(path: Path, opened: Any) -> Slide:
    """An open ``wsidicom.WsiDicom`` as a slide."""
    levels = sorted(opened.levels, key=lambda level: level.level)
    shapes = tuple((level.size.height, level.size.width) for level in levels)
    numbers = [level.level for level in levels]

    def region(level: int, y: int, x: int, h: int, w: int) -> Image8:
        with decoding(path):
            return np.asarray(opened.read_region((x, y), numbers[level], (w, h)).convert("RGB"))

    return Slide(path, shapes, float(levels[0].mpp.width), region, "dicom")
