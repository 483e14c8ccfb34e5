"""Picture and array files as they are stored, with one clear error for each that cannot be read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.lossy import stream_loss, tif_loss
from coin_ray.data.orientation import STATED, picture_orientation, tif_orientation, turned
from coin_ray.data.signatures import PICTURES, TIF, first_bytes, other_kind
from coin_ray.errors import UserError
from coin_ray.files import at_hand

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
MAX_PIXELS = 150_000_000
MAX_SAMPLES = 64
"""What claims more is refused before it is decoded: a few bytes can claim any size."""

KINDS = {
    "1": "binary",
    "L": "grey",
    "LA": "grey with alpha",
    "I": "grey",
    "I;16": "grey",
    "F": "grey",
    "P": "palette",
    "RGB": "rgb",
    "RGBA": "rgba",
}


class Raster(NamedTuple):
    """A picture upright, else as stored.

    ``kind``: rgb, rgba, grey, palette (indices), binary, array (npy), or the name of another one.
    ``palette`` (N, 3) are the colours of the indices, ``lossy`` names a compression that changed
    the values, ``absent`` counts the tiles or strips that a sparse tif leaves out (read as 0).
    """

    array: NDArray[Any]
    kind: str
    palette: NDArray[Any] | None = None
    lossy: str = ""
    absent: int = 0


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """A file that is there, of a bucket too. Whatever a decoder raises on broken bytes, as a
    UserError that names the file."""
    try:
        at_hand(path)
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            "no such file", where=str(path), do="check the path; names are case-sensitive"
        ) from error
    except OSError as error:
        if error.errno is not None:  # the disk, not the content: permission, is a folder, I/O
            raise UserError(f"cannot read it: {error.strerror}", where=str(path)) from error
        raise _broken(path, error) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on broken input; the cause is kept
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> UserError:
    other = other_kind(path)
    if other is not None:
        return UserError(
            f"this is {other.name}",
            where=str(path),
            expected=f"a {path.suffix or 'picture'} file",
            do=other.do,
        )
    other_way = "; if other programs open it, save it as png with one of them"
    return UserError(
        "cannot decode this file",
        where=str(path),
        expected=f"a whole {path.suffix or 'picture'} file",
        found=f"{path.stat().st_size:,} bytes; the decoder says: {error}",
        do="copy or download it again" + other_way * (path.suffix.lower() in SUFFIXES),
    )


def check_size(path: Path, shape: tuple[int, ...], samples: int = 1) -> None:
    """Refuse a picture whose header claims more than MAX_PIXELS, none at all, or more than
    MAX_SAMPLES values in each."""
    pixels = math.prod(int(s) for s in shape)
    if pixels > MAX_PIXELS or min(shape, default=0) <= 0:
        found = " x ".join(f"{s}" for s in shape) + " (height x width)"
        raise _absurd(path, found, _TILES if pixels > MAX_PIXELS else "check the file")
    if samples > MAX_SAMPLES:
        do = "save it as RGB, or copy it again if that is what it was"
        raise _absurd(path, f"{samples:,}", do, f"at most {MAX_SAMPLES} samples a pixel")


_TILES = "cut a large image into tiles"


def _absurd(
    path: Path, found: str, do: str, expected: str = f"1 to {MAX_PIXELS:,} pixels"
) -> UserError:
    return UserError("absurd dimensions", where=str(path), expected=expected, found=found, do=do)


def read_raster(path: Path) -> Raster:
    """Decode one png, jpg, tif or npy file.

    Raises:
        UserError: missing, truncated or corrupt file, unknown suffix, pickled objects, absurd size.
    """
    suffix = path.suffix.lower()
    with decoding(path):
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            check_size(path, array.shape[:2])
            return Raster(np.array(array), "array")
        if suffix in SUFFIXES:
            return _read_tif(path) if _is_tif(path) else _read_pil(path)
    raise UserError(
        "unknown kind of file",
        where=str(path),
        expected=", ".join(SUFFIXES),
        found=suffix or "no suffix",
        do="convert it first",
    )


def raster_shape(path: Path) -> tuple[int, int]:
    """(H, W) of the upright picture from the header, without decoding the pixels."""
    with decoding(path):
        if path.suffix.lower() == ".npy":
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            if len(shape) < 2:
                raise UserError(
                    "no picture", where=str(path), expected="(H, W) or (H, W, 3)", found=f"{shape}"
                )
            check_size(path, shape[:2])
            return int(shape[0]), int(shape[1])
        height, width, orientation, _ = _header(path)
        return (width, height) if orientation >= 5 else (height, width)


def stated_orientation(path: Path) -> str:
    """How a picture file says that its stored pixels are turned; empty for an upright one."""
    if not _is_picture(path):
        return ""
    with decoding(path):
        return STATED.get(_header(path)[2], "")


def reading(path: Path) -> str:
    """What a picture file says that changes how its bytes are read; empty for most.

    It belongs to the identity of the content: earlier versions did not look at it. Empty too for a
    file that cannot be decoded; reading its pixels says so.
    """
    if not _is_picture(path):
        return ""
    try:
        with decoding(path):
            _, _, orientation, samples = _header(path)
    except UserError:
        return ""
    turn = f"orientation {orientation}" if orientation != 1 else ""
    return ", ".join(t for t in (turn, samples) if t)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.suffix.lower() != ".npy"


def _is_tif(path: Path) -> bool:
    """By the first bytes, and by the suffix where they tell nothing."""
    head = first_bytes(path, 8)
    if head.startswith(TIF):
        return True
    return path.suffix.lower() in (".tif", ".tiff") and not head.startswith(PICTURES)


def _header(path: Path) -> tuple[int, int, int, str]:
    """Height and width as stored, orientation, and how samples differ from grey or RGB."""
    if _is_tif(path):
        with _open_tif(path) as (_, page):
            samples = page.photometric.name.lower() if _white_is_zero(page) else ""
            samples = "ycbcr" if is_ycbcr(page) else samples
            return int(page.imagelength), int(page.imagewidth), tif_orientation(page), samples
    with _open_pil(path) as picture:
        check_size(path, (picture.height, picture.width))
        return picture.height, picture.width, picture_orientation(path, picture), ""


def items_shape(path: Path) -> tuple[int, int]:
    """(H, W) of each item of an array (N, H, W, ...), from its header."""
    with decoding(path):
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        return int(shape[1]), int(shape[2])


def _open_pil(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except Image.DecompressionBombError as error:
        raise _absurd(path, str(error), _TILES) from error


def _read_pil(path: Path) -> Raster:
    with _open_pil(path) as picture:
        check_size(path, (picture.height, picture.width))
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format != "MPO":  # a camera's preview is no second picture
            raise stack(path, f"{frames} frames")
        kind = KINDS.get(picture.mode, picture.mode)
        if kind in ("rgb", "rgba", "grey with alpha") and _png_depth(path) == 16:
            kind = f"16-bit {kind}"  # Pillow would cut it to 8 bits
        palette = None
        if kind == "palette":
            palette = np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        array = np.array(picture)
        if picture.mode == "RGB" and "transparency" in picture.info:
            array, kind = np.array(picture.convert("RGBA")), "rgba"
        array = turned(array, picture_orientation(path, picture))
        return Raster(array, kind, palette, _pil_loss(path, picture.format))


def _pil_loss(path: Path, container: str | None) -> str:
    if container in ("JPEG", "MPO"):
        return "JPEG"
    return stream_loss(path.read_bytes()) if container in ("JPEG2000", "WEBP") else ""


def _png_depth(path: Path) -> int:
    head = first_bytes(path, 26)
    return head[24] if head.startswith(b"\x89PNG") else 8


def _read_tif(path: Path) -> Raster:
    with _open_tif(path) as (tif, page):
        # tifffile fills what it cannot find with zeros; a label map cut short must not pass
        pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        absent = sum(offset == count == 0 for offset, count in pieces)
        cut = any(o + n > tif.filehandle.size or (not n and o) for o, n in pieces)
        if cut or absent == len(pieces):
            raise ValueError("the pixels end before the file's own table says")
        series = tif.series[0]
        sizes = zip(series.axes, series.shape, strict=True)
        kept = [(a, n) for a, n in sizes if n > 1 or a in "YX"]  # a stack of one is a picture
        axes = "".join(a for a, _ in kept)
        if len(axes) > 3 or (len(axes) == 3 and "S" not in axes):
            raise stack(path, f"{series.shape} ({series.axes})")
        array = series.asarray().reshape([n for _, n in kept])
        if axes.startswith("S"):
            array = np.moveaxis(array, 0, -1)
        if _white_is_zero(page):
            if array.dtype != bool:
                raise UserError(
                    "white is stored as 0 (MinIsWhite), so background and ids may be swapped",
                    where=str(path),
                    expected="0 = black = background (MinIsBlack)",
                    do="save it without the inverted colours (ImageJ: Image > Lookup Tables > "
                    "Invert LUT, and look at the values)",
                )
            array = ~array
        kind = "grey" if array.ndim == 2 else page.photometric.name.lower()
        palette = None
        if page.photometric.name == "PALETTE" and page.colormap is not None:
            kind, palette = "palette", (page.colormap.T >> 8).astype(np.uint8)
        elif array.ndim == 3 and page.photometric.name in ("RGB", "YCBCR"):
            kind = {3: "rgb", 4: "rgba"}.get(array.shape[-1], f"{array.shape[-1]} channels")
            kind = "ycbcr" if is_ycbcr(page) else kind
        upright = turned(array, tif_orientation(page))
        return Raster(upright, kind, palette, tif_loss(tif, page), absent)


def _white_is_zero(page: Any) -> bool:
    return bool(page.photometric.name == "MINISWHITE")


def is_ycbcr(page: Any) -> bool:
    """Whether decoding leaves YCbCr: only JPEG's own decoder turns it into RGB."""
    if int(page.compression) == 33003:  # Aperio's JPEG 2000, which leaves it to the reader
        return True
    jpeg = int(page.compression) in (6, 7, 33007, 34892)
    return bool(page.photometric.name == "YCBCR") and (not jpeg or bool(page.extrasamples))


def stack(path: Path, found: str) -> UserError:
    return UserError(
        "a stack of pictures",
        where=str(path),
        expected="one picture (height, width, 3)",
        found=found,
        do="save the pages as files of their own",
    )


@contextmanager
def _open_tif(path: Path) -> Iterator[tuple[Any, Any]]:
    """A tif and its first page."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        if not len(tif.pages):
            raise ValueError("no page found")
        page = tif.pages[0]
        check_size(path, (page.imagelength, page.imagewidth), page.samplesperpixel)
        yield tif, page
