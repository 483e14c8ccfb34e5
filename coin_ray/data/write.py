"""Write label maps and overlays; a file is complete or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.images import Image8
from coin_ray.errors import UserError
from coin_ray.files import whole
from coin_ray.labels import BoolArray, LabelMap, boundaries

LARGEST = 65_535
"""Of 16 bits, and of the COIN code."""


def write_image(path: Path, image: Image8, *, mpp: float | None = None) -> None:
    """(H, W, 3) uint8 as png, or as tif (zlib) by the suffix, with its resolution if known."""
    with whole(path) as part:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            stated: dict[str, Any] = {}
            if mpp is not None:
                stated = {"resolution": (10_000 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
            tifffile.imwrite(
                part, image, compression="zlib", photometric="rgb", metadata=None, **stated
            )
        else:
            _save_png(part, image, mpp)


def write_label_map(path: Path, label_map: LabelMap) -> None:
    """(H, W) ids as a compressed tif, 16 bits where they fit and 32 where they do not."""
    import tifffile

    wide = label_map.max(initial=0) > LARGEST
    ids = label_map.astype(np.uint32 if wide else np.uint16)
    with whole(path) as part:
        tifffile.imwrite(part, ids, compression="zlib", photometric="minisblack", metadata=None)


def write_coin_png(path: Path, label_map: LabelMap, ignore: BoolArray | None = None) -> None:
    """(H, W) ids as RGB png in the code of the COIN repository; ignored pixels become white.

    Raises:
        UserError: more than 65 535 instances, which the code cannot hold.
    """
    if label_map.max(initial=0) > LARGEST:
        raise UserError(
            "too many instances for the COIN code",
            where=str(path),
            expected=f"ids up to {LARGEST:,}",
            found=f"{label_map.max():,}",
            do="write a label tif",
        )
    code = np.zeros((*label_map.shape, 3), dtype=np.uint8)
    code[..., 1], code[..., 2] = label_map % 256, label_map // 256
    if ignore is not None:
        code[ignore] = 255
    with whole(path) as part:
        _save_png(part, code)


def overlay(
    image: Image8, label_map: LabelMap, *, color: tuple[int, int, int] = (255, 255, 0)
) -> Image8:
    """(H, W, 3) the image with the inner edge of every instance in ``color`` (RGB)."""
    out = image.copy()
    out[boundaries(label_map)] = color
    return out


def write_overlay(path: Path, image: Image8, label_map: LabelMap) -> None:
    """The :func:`overlay` as png."""
    write_image(path, overlay(image, label_map))


def _save_png(path: Path, array: NDArray[np.uint8], mpp: float | None = None) -> None:
    from PIL import Image

    stated = {"dpi": (25_400 / mpp,) * 2} if mpp is not None else {}
    Image.fromarray(array).save(path, format="PNG", **stated)
