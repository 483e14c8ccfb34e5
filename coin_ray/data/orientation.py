"""Which way up a picture is: the orientation that its file states, and turning by it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATED = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 270 degrees",
    8: "turned by 270 degrees",
}
"""What the values of tag 274 of EXIF and TIFF say of the stored pixels; 1 is upright."""

ORIENTATION = 274


def turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, ...) as stored -> upright, a view; (W, H, ...) from orientation 5 on."""
    if orientation == 2:
        array = array[:, ::-1]
    elif orientation in (3, 7):
        array = array[::-1, ::-1]
    elif orientation in (4, 6):
        array = array[::-1]
    if orientation >= 5:
        array = np.swapaxes(array, 0, 1)
    return array[::-1] if orientation == 8 else array


def tif_orientation(page: Any) -> int:
    """1 to 8; 1 where the page of a tif states none."""
    tag = page.tags.get(ORIENTATION)
    return _known(tag.value if tag is not None else 1)


def picture_orientation(path: Path, picture: Any) -> int:
    """1 to 8 of an open Pillow picture, from EXIF or XMP, without decoding it."""
    from PIL import Image

    # A PNG's own getexif decodes the pixels to see what comes behind them.
    found = Image.Image.getexif(picture).get(ORIENTATION)
    if found is None and picture.format == "PNG":
        late = _late_exif(path)
        if late is not None:
            exif = Image.Exif()
            exif.load(late)
            found = exif.get(ORIENTATION)
    return _known(found)


def _late_exif(path: Path) -> bytes | None:
    """The ``eXIf`` chunk of a PNG, which may stand behind the pixels."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(length)
            file.seek(length + 4, 1)
    return None


def _known(value: Any) -> int:
    return value if isinstance(value, int) and value in STATED else 1
