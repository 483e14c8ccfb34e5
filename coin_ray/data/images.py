"""Read an image: 8-bit RGB, whatever the container."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.rasters import Raster, read_raster
from coin_ray.errors import UserError

Image8 = NDArray[np.uint8]


def read_image(path: str | Path) -> Image8:
    """(H, W, 3) uint8 RGB from png, jpg, tif or npy, upright as its EXIF or tif tag states.

    An alpha channel that hides nothing (255 everywhere; TNBC ships such files) is dropped.

    Raises:
        UserError: grey, palette, four-channel, YCbCr, 16-bit or float pictures, transparent pixels,
            tiles that a sparse tif leaves out, files that cannot be decoded; each names the file.
    """
    path = Path(path)
    raster = read_raster(path)
    array, kind = raster.array, _kind(raster)
    if raster.absent:
        raise _refused(
            path,
            raster,
            f"a sparse tif without {raster.absent:,} of its tiles",
            "save it whole; what is absent would be taken for black tissue",
        )
    if kind == "rgba" and array.dtype == np.uint8:
        if array[..., 3].min(initial=255) < 255:
            hidden = int((array[..., 3] < 255).sum())
            raise _refused(
                path,
                raster,
                f"an alpha channel with {hidden:,} transparent pixels",
                "flatten it onto the background it should have and save as RGB",
            )
        array, kind = array[..., :3], "rgb"
    if kind != "rgb" or array.dtype != np.uint8:
        raise _refused(path, raster, kind, _advice(kind))
    return np.ascontiguousarray(array)


def _kind(raster: Raster) -> str:
    if raster.kind != "array":
        return raster.kind
    shape = raster.array.shape
    if len(shape) == 2:
        return "grey"
    names = {1: "grey", 3: "rgb", 4: "rgba"}
    return names.get(shape[-1], f"{shape[-1]} channels") if len(shape) == 3 else "no picture"


def _refused(path: Path, raster: Raster, kind: str, do: str) -> UserError:
    return UserError(
        "not an RGB image",
        where=str(path),
        expected="(height, width, 3), 8 bits a channel",
        found=f"{kind}, {raster.array.shape} {raster.array.dtype}",
        do=do,
    )


def _advice(kind: str) -> str:
    if kind == "palette":
        return "save it as 8-bit RGB if it is the H&E image; a mask has no stain to read"
    if kind in ("grey", "binary", "grey with alpha"):
        return "give the H&E image itself; a mask or a grey picture has no stain to read"
    if kind in ("rgb", "rgba") or kind.startswith("16-bit"):
        return "rescale it to 8 bits (0..255) first, with the limits that suit your scanner"
    return "save it as 8-bit RGB"
