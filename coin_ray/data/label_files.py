"""Read label maps and masks: integer pictures, arrays, the colour code of the COIN repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.rasters import read_raster
from coin_ray.errors import UserError
from coin_ray.labels import BoolArray, LabelMap, relabel


def read_label_map(
    path: str | Path, shape: tuple[int, int] | None = None, *, binary: bool = False
) -> LabelMap:
    """(H, W) int32, ids contiguous in their stored order.

    Reads ids from grey png and tif (8, 16, 32 bits) and npy, and from RGB png in the code of the
    COIN repository (id = 256 B + G, R = 0). A binary mask is refused, since touching nuclei would
    merge unseen, unless ``binary`` asks for its connected components (8-connected).

    Raises:
        UserError: a size other than ``shape`` (H, W), no integers, negative ids, a colour picture
            that is no label map, ignored pixels, a binary mask, an undecodable file.
    """
    path = Path(path)
    raster = read_raster(path)
    if raster.kind == "rgb":
        ids, ignore = decode_coin(raster.array, path)
        if ignore.any():
            raise _refused(
                path, "a pseudo label map", "no ignored (white) pixels", f"{ignore.sum():,} of them"
            )
    else:
        ids = _plain(raster.array, raster.kind, path)
    check_shape(path, ids.shape, shape)
    if _is_binary(ids, raster.kind):
        if not binary:
            raise UserError(
                "a binary mask where instances are needed",
                where=str(path),
                expected="an id per nucleus",
                found=f"values {sorted(np.unique(ids).tolist())}",
                do="give label maps, or ask for its connected components (--binary)",
            )
        return components(ids > 0)
    return relabel(ids)


def read_foreground(path: str | Path, shape: tuple[int, int] | None = None) -> BoolArray:
    """(H, W) bool: every pixel of a mask file that is not 0.

    Takes binary masks, label maps of any number type, and colour-coded ones (any channel not 0, so
    also ids written as 256 B + G); alpha is ignored.

    Raises:
        UserError: a size other than ``shape`` (H, W), fractions, an undecodable file.
    """
    path = Path(path)
    values = read_raster(path).array
    if values.ndim == 3:
        values = values[..., : values.shape[2] - (values.shape[2] in (2, 4))]
    elif values.ndim != 2:
        raise _refused(path, "no mask", "(H, W) or (H, W, channels)", f"{values.shape}")
    check_shape(path, values.shape[:2], shape)
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise UserError(
            "the mask holds fractions",
            where=str(path),
            expected="a binary mask or a label map (integers, 0 = background)",
            found=f"values from {values.min():g} to {values.max():g}",
            do="threshold the probabilities first",
        )
    return np.asarray(np.atleast_3d(values != 0).any(axis=2))


def components(foreground: BoolArray, *, connectivity: int = 8) -> LabelMap:
    """Connected components of a mask as a label map; ``connectivity`` 8 or 4."""
    from scipy.ndimage import label

    structure = np.ones((3, 3)) if connectivity == 8 else None
    return np.asarray(label(foreground, structure=structure)[0], dtype=np.int32)


def decode_coin(array: NDArray[Any], path: Path) -> tuple[NDArray[np.int32], BoolArray]:
    """(H, W, 3) uint8, RGB order -> raw ids (H, W), 0 to 65 535, and the ignored (white) pixels."""
    if array.dtype != np.uint8:
        raise _refused(path, "no COIN label map", "8 bits a channel", str(array.dtype))
    ignore = (array == 255).all(axis=-1)
    if ((array[..., 0] != 0) & ~ignore).any():
        raise _refused(
            path,
            "a colour picture where a label map is needed",
            "integer ids, or the code id = 256 B + G with R = 0",
            f"{int((array[..., 0] != 0).sum()):,} pixels with R > 0",
        )
    ids = array[..., 2].astype(np.int32) * 256 + array[..., 1]
    ids[ignore] = 0
    return ids, ignore


def check_shape(path: Path, found: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    """Refuse a label map whose size is not its image's."""
    if expected is not None and found != tuple(expected):
        raise UserError(
            "label map and image differ in size",
            where=str(path),
            expected=f"{expected[0]} x {expected[1]} (height x width), as the image",
            found=" x ".join(map(str, found)),
            do="pair the image with its own label map, at the same resolution",
        )


def _plain(array: NDArray[Any], kind: str, path: Path) -> NDArray[Any]:
    if array.ndim != 2:
        raise _refused(path, "no label map", "one channel of ids", f"{kind}, {array.shape}")
    if array.dtype == bool or np.issubdtype(array.dtype, np.unsignedinteger):
        return array
    if not np.issubdtype(array.dtype, np.integer):
        raise _refused(path, "no label map", "integer ids", f"values of {array.dtype}")
    if array.min(initial=0) < 0:
        raise _refused(path, "negative ids", "0 = background, ids from 1", f"{array.min()}")
    return array


def _is_binary(ids: NDArray[Any], kind: str) -> bool:
    """Masks by type (1 bit, bool, palette), or by their values 0 and 255 alone."""
    if kind in ("binary", "palette") or ids.dtype == bool:
        return True
    if ids.dtype != np.uint8 or ids.max(initial=0) != 255:
        return False
    return not np.isin(ids, (0, 255), invert=True).any()


def _refused(path: Path, what: str, expected: str, found: str) -> UserError:
    return UserError(
        what, where=str(path), expected=expected, found=found, do="point to the label maps"
    )
