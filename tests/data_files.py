"""Small images and how they are written, for the tests of the data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

RNG = np.random.default_rng(0)


def rgb(height=20, width=24):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
