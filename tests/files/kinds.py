"""What a kind of file is, and what its makers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from coin_ray.data.label_files import Binary

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)
IDS = np.zeros((20, 24), dtype=np.int32)
"""Three nuclei apart from each other, and no symmetry: whatever turns it changes it."""
IDS[2:7, 3:10] = 1
IDS[9:12, 14:23] = 2
IDS[11:18, 2:6] = 3
MASK = IDS > 0
ONE = np.where(IDS == 2, 1, 0)

Make = Callable[[Path], None]
"""Writes the pair below the folder."""


@dataclass(frozen=True)
class Kind:
    """``labels`` is what the truth reads as (ids up to their order), ``image`` the pixels (None:
    as RGB up to a lossy compression); or ``error``, a pattern of what is said instead.

    ``binary`` is the user's answer about masks, ``mpp`` what the image states, ``warning`` a
    pattern of what `data check` says beside its result. ``by``: who reads the bad file, ``image``
    or ``label``; `evaluate` reads no image.
    """

    name: str
    make: Make
    labels: np.ndarray | None = None
    image: np.ndarray | None = None
    error: str = ""
    by: str = "label"
    binary: Binary | None = None
    mpp: float | None = None
    warning: str = ""


KINDS: list[Kind] = []


def kind(name: str, make: Make, **right: Any) -> None:
    """One more kind, with its right reading."""
    if "error" not in right:
        right = {"labels": IDS, "image": RGB} | right
    assert name not in [k.name for k in KINDS], name
    KINDS.append(Kind(name, make, **right))


def place(folder: Path, part: str, suffix: str) -> Path:
    """The path of the pair's ``image`` or ``label``, its folder made."""
    path = folder / part / f"a{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def png(folder: Path, part: str, array: Any, mode: str | None = None, **options: Any) -> Path:
    path = place(folder, part, ".png")
    picture = array if isinstance(array, Pillow.Image) else Pillow.fromarray(array, mode)
    picture.save(path, **options)
    return path


def tif(folder: Path, part: str, array: Any, **options: Any) -> Path:
    path = place(folder, part, ".tif")
    tifffile.imwrite(path, array, **options)
    return path


def labelled(**options: Any) -> Callable[[Any], Make]:
    """Makers of a plain image beside a label file that ``write(folder)`` makes."""

    def decorated(write: Any) -> Make:
        def make(folder: Path) -> None:
            png(folder, "image", RGB)
            write(folder, **options)

        return make

    return decorated


def pictured(write: Callable[[Path], Any]) -> Make:
    """A plain label map beside an image that ``write(folder)`` makes."""

    def make(folder: Path) -> None:
        png(folder, "label", IDS.astype(np.uint16))
        write(folder)

    return make
