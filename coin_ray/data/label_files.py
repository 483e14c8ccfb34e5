"""Read label maps and masks: integer pictures, arrays, the colour code of the COIN repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.geojson import SUFFIXES as OUTLINES
from coin_ray.data.geojson import is_geojson, read_geojson
from coin_ray.data.rasters import SUFFIXES, Raster, read_raster
from coin_ray.errors import UserError
from coin_ray.imaging.settings import Instances
from coin_ray.labels import BoolArray, LabelMap, relabel

Binary = Literal["components", "watershed", "instances"]
"""What a file of two values is: a mask, whose nuclei are its connected components or what a
watershed makes of it, or a label map of one nucleus."""

LABEL_SUFFIXES = (*SUFFIXES, *OUTLINES)
EXACT = 2**24
"""Whole numbers up to here have a 32-bit float of their own."""


def read_label_map(
    path: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    binary: Binary | None = None,
    scale: float = 1.0,
) -> LabelMap:
    """(H, W) int32, ids contiguous in their stored order.

    Reads ids from grey and palette pictures, from arrays, from RGB in the code of the COIN
    repository (id = 256 B + G, R = 0), and outlines of GeoJSON into ``shape``. Two values in
    several regions are a binary mask, whatever they are: refused, since how to split it is the
    user's to say, unless ``binary`` does: 8-connected ``components``, COIN's ``watershed`` (pixel
    constants times ``scale`` = 0.25 / mpp), or ``instances``, one nucleus in several pieces after
    all.

    Raises:
        UserError: a size other than ``shape`` (H, W), fractions, negative ids, a colour picture
            that is no label map, ignored pixels, lossy compression, a binary mask, more than two
            values where ``binary`` says that it is one, an undecodable file.
    """
    if binary is not None and binary not in get_args(Binary):
        raise ValueError(f"binary {binary!r} is none of {', '.join(get_args(Binary))}")
    path = Path(path)
    if is_geojson(path):
        return _drawn(path, shape, binary)
    ids = raw_ids(path)
    check_shape(path, ids.shape, shape)
    if binary in ("components", "watershed"):
        return split_mask(_foreground(ids, path), binary, scale)
    if binary is None:
        _ask_if_binary(ids, path)
    return relabel(ids)


def _drawn(path: Path, shape: tuple[int, int] | None, binary: Binary | None) -> LabelMap:
    if binary is not None:
        raise UserError("outlines are no binary mask", where=str(path), do="leave out --binary")
    if shape is None:
        raise UserError("outlines have no size of their own", where=str(path))
    return read_geojson(path, shape)


def read_foreground(path: str | Path, shape: tuple[int, int] | None = None) -> BoolArray:
    """(H, W) bool: every pixel of a mask file that is not 0.

    Takes binary masks, label maps of any number type, and colour-coded ones (any channel not 0, so
    also ids written as 256 B + G); alpha is ignored where it hides background alone.

    Raises:
        UserError: a size other than ``shape`` (H, W), fractions, lossy compression, hidden
            foreground, an undecodable file.
    """
    path = Path(path)
    raster = label_raster(path)
    values = raster.array
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


def label_raster(path: Path) -> Raster:
    """A raster whose values are those that were saved: no loss, no alpha that hides any.

    Raises UserError also for a palette in which 0 is not the background.
    """
    raster = read_raster(path)
    if raster.lossy:
        raise UserError(
            f"a label file with lossy compression ({raster.lossy})",
            where=str(path),
            expected="the values as they were drawn: png, or tif without loss",
            found="values that the compression has changed, which would count as nuclei",
            do="export it again from where it was drawn; converting this file does not mend it",
        )
    if raster.kind.startswith("16-bit"):
        raise _refused(path, "no label map", "16 bits in one channel (grey)", raster.kind)
    if raster.kind in ("rgba", "grey with alpha"):
        hidden = raster.array[..., -1] == 0
        if (hidden[..., None] & (raster.array[..., :-1] != 0)).any() and not hidden.all():
            raise _refused(
                path,
                "a label file with hidden values",
                "no alpha channel",
                "values that are not 0 below transparent pixels",
            )
    if raster.palette is not None:
        _check_palette(raster.array, raster.palette, path)
    return raster


def raw_ids(path: Path) -> NDArray[Any]:
    """(H, W) integers of at least 0, the ids as the file holds them."""
    raster = label_raster(path)
    array, kind = raster.array, raster.kind
    if kind in ("rgba", "grey with alpha"):
        array = array[..., 0] if kind == "grey with alpha" else array[..., :3]
    if kind in ("rgb", "rgba"):
        array = _from_colours(array, path)
    if array.ndim != 2:
        raise _refused(path, "no label map", "one channel of ids", f"{kind}, {array.shape}")
    if array.dtype.kind == "f":
        array = _whole(array, path)
    if array.dtype.kind not in "bui":
        raise _refused(path, "no label map", "integer ids", f"values of {array.dtype}")
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        raise _refused(path, "negative ids", "0 = background, ids from 1", f"{array.min()}")
    return array.astype(np.uint8) if array.dtype == bool else array


def split_mask(
    foreground: BoolArray, how: Literal["components", "watershed"], scale: float = 1.0
) -> LabelMap:
    """The nuclei of a binary mask, as :func:`read_label_map` says."""
    if how == "components":
        return components(foreground)
    from coin_ray.imaging.instances import split_instances

    return split_instances(foreground, Instances(), scale=scale)


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
        turned = found == tuple(expected)[::-1]
        raise UserError(
            "label map and image lie across each other"
            if turned
            else "label map and image differ in size",
            where=str(path),
            expected=f"{expected[0]} x {expected[1]} (height x width), as the image",
            found=" x ".join(map(str, found)),
            do="turn one of them by 90 degrees; an orientation in EXIF or a tif is followed"
            if turned
            else "pair the image with its own label map, at the same resolution",
        )


def _from_colours(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """(H, W, 3) -> ids: grey saved as colour, a mask in one colour, else the COIN code."""
    if (array == array[..., :1]).all():
        return array[..., 0]
    drawn = array.any(axis=-1)
    if (array[drawn] == array[drawn][0]).all() and array[drawn][0][0]:
        return np.asarray(drawn)
    ids, ignore = decode_coin(array, path)
    if ignore.any():
        raise UserError(
            "a pseudo label map",
            where=str(path),
            expected="no ignored (white) pixels beside ids",
            found=f"{ignore.sum():,} of them",
            do="point to the label maps of the ground truth",
        )
    return ids


def _whole(array: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Ids that were saved as floats."""
    ids = np.rint(array)
    if not np.array_equal(ids, array) or np.abs(ids).max(initial=0) > EXACT:
        raise UserError(
            "a label map of fractions",
            where=str(path),
            expected="ids (whole numbers, 0 = background)",
            found=f"{array.dtype} values from {array.min():g} to {array.max():g}",
            do="threshold and split probabilities first; save ids, not ids divided by 255 or 65535",
        )
    return ids.astype(np.int64)


def _check_palette(indices: NDArray[Any], palette: NDArray[Any], path: Path) -> None:
    """Index 0 is the background, unless the colours say that another one is."""
    used = np.unique(indices)
    black = [int(i) for i in used if i < len(palette) and not palette[i].any()]
    if black and 0 not in black and len(palette) and palette[0].any():
        raise _refused(
            path,
            "a palette whose black is not its index 0",
            "index 0 = background",
            f"black at index {black[0]}, {tuple(palette[0].tolist())} at 0",
        )


def _two_values(ids: NDArray[Any]) -> tuple[int, int] | None:
    """The lower and the higher value if there are exactly two."""
    low, high = ids.min(), ids.max()
    two = low != high and ((ids == low) | (ids == high)).all()
    return (int(low), int(high)) if two else None


def _ask_if_binary(ids: NDArray[Any], path: Path) -> None:
    values = _two_values(ids)
    if values is None:
        return
    # What is not 0 is a region of one nucleus each, else the values are not ids.
    regions = max(int(components(ids == value).max()) for value in values if value)
    if regions > 1:
        _check_background(values, path)
        raise UserError(
            "a binary mask where instances are needed",
            where=str(path),
            expected="an id per nucleus",
            found=f"the values {values[0]} and {values[1]} alone, in {regions:,} regions",
            do="say how to split it: --binary components or --binary watershed (predictions of "
            "`evaluate`: --binary-predictions; in a study `binary:` beside the path of the data), "
            "or --binary instances if it is one nucleus in pieces",
        )


def _foreground(ids: NDArray[Any], path: Path) -> BoolArray:
    values = _two_values(ids)
    if values is not None:
        _check_background(values, path)
    elif ids.min() != ids.max():
        raise UserError(
            "no binary mask, although --binary (or `binary:` of the data) says so",
            where=str(path),
            expected="two values, one of them 0",
            found=f"{len(np.unique(ids)):,} values up to {ids.max()}",
            do="leave it out for label maps with an id per nucleus; threshold a mask of soft edges",
        )
    return ids > 0


def _check_background(values: tuple[int, int], path: Path) -> None:
    if values[0] != 0:
        raise UserError(
            "a mask without a background",
            where=str(path),
            expected="0 = background",
            found=f"the values {values[0]} and {values[1]} alone",
            do="write its background as 0",
        )


def _refused(path: Path, what: str, expected: str, found: str) -> UserError:
    return UserError(
        what, where=str(path), expected=expected, found=found, do="point to the label maps"
    )
