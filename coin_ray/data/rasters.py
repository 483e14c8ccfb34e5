"""Picture and array files as they are stored, with one clear error for each that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coin_ray.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
MAX_PIXELS = 150_000_000
"""Larger pictures are refused before they are decoded: a few bytes can claim any size."""

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
    """``array`` as stored; ``kind``: rgb, rgba, grey, palette (indices), binary, array (npy)."""

    array: NDArray[Any]
    kind: str


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Whatever a decoder raises on broken bytes, as a UserError that names the file."""
    try:
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
    return UserError(
        "cannot decode this file",
        where=str(path),
        expected=f"a whole {path.suffix or 'picture'} file",
        found=f"{path.stat().st_size:,} bytes that end or break early ({error})",
        do="copy or download it again",
    )


def check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse a picture whose header claims more than MAX_PIXELS, or none at all."""
    pixels = int(np.prod([int(s) for s in shape], dtype=object))
    if pixels > MAX_PIXELS or min(shape, default=0) <= 0:
        raise UserError(
            "absurd dimensions",
            where=str(path),
            expected=f"1 to {MAX_PIXELS:,} pixels",
            found=" x ".join(f"{s}" for s in shape) + " (height x width)",
            do="cut a large image into tiles" if pixels > MAX_PIXELS else "check the file",
        )


def read_raster(path: Path) -> Raster:
    """Decode one png, jpg, tif or npy file.

    Raises:
        UserError: missing, truncated or corrupt file, unknown suffix, pickled objects, absurd size.
    """
    suffix = path.suffix.lower()
    with decoding(path):
        if suffix in (".tif", ".tiff"):
            return _read_tif(path)
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            check_size(path, array.shape[:2])
            return Raster(np.array(array), "array")
        if suffix in SUFFIXES:
            return _read_pil(path)
    raise UserError(
        "unknown kind of file",
        where=str(path),
        expected=", ".join(SUFFIXES),
        found=suffix or "no suffix",
        do="convert it first",
    )


def raster_shape(path: Path) -> tuple[int, int]:
    """(H, W) from the header, without decoding the pixels."""
    with decoding(path):
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            with tifffile.TiffFile(path) as tif:
                page = _first_page(tif)
                return int(page.imagelength), int(page.imagewidth)
        if path.suffix.lower() == ".npy":
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            if len(shape) < 2:
                raise UserError(
                    "no picture", where=str(path), expected="(H, W) or (H, W, 3)", found=f"{shape}"
                )
            return int(shape[0]), int(shape[1])
        from PIL import Image

        with Image.open(path) as picture:
            return picture.height, picture.width


def items_shape(path: Path) -> tuple[int, int]:
    """(H, W) of each item of an array (N, H, W, ...), from its header."""
    with decoding(path):
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        return int(shape[1]), int(shape[2])


def _read_pil(path: Path) -> Raster:
    from PIL import Image

    try:
        picture = Image.open(path)
    except Image.DecompressionBombError as error:
        raise UserError(
            "absurd dimensions",
            where=str(path),
            expected=f"1 to {MAX_PIXELS:,} pixels",
            found=str(error),
            do="cut a large image into tiles",
        ) from error
    with picture:
        check_size(path, (picture.height, picture.width))
        kind = KINDS.get(picture.mode, picture.mode)
        if kind in ("rgb", "rgba") and _png_depth(path) == 16:  # Pillow would cut it to 8 bits
            kind = f"16-bit {kind}"
        return Raster(np.array(picture), kind)


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(26)
    return head[24] if head.startswith(b"\x89PNG") else 8


def _read_tif(path: Path) -> Raster:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        page = _first_page(tif)
        check_size(path, (page.imagelength, page.imagewidth))
        # tifffile fills what it cannot find with zeros; a label map cut short must not pass
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if not ends or max(ends) > tif.filehandle.size or 0 in page.databytecounts:
            raise ValueError("the pixels end before the file's own table says")
        series = tif.series[0]
        sizes = zip(series.axes, series.shape, strict=True)
        kept = [(a, n) for a, n in sizes if n > 1 or a in "YX"]  # a stack of one is a picture
        axes = "".join(a for a, _ in kept)
        if len(axes) > 3 or (len(axes) == 3 and "S" not in axes):
            raise UserError(
                "a stack of pictures",
                where=str(path),
                expected="one picture (height, width, 3)",
                found=f"{series.shape} ({series.axes})",
                do="save the pages as files of their own",
            )
        array = series.asarray().reshape([n for _, n in kept])
        if axes.startswith("S"):
            array = np.moveaxis(array, 0, -1)
        photometric = page.photometric.name
        kind = "grey" if array.ndim == 2 else photometric.lower()
        if photometric == "PALETTE":
            kind = "palette"
        elif array.ndim == 3 and photometric in ("RGB", "YCBCR"):
            kind = {3: "rgb", 4: "rgba"}.get(array.shape[-1], f"{array.shape[-1]} channels")
        return Raster(array, kind)


def _first_page(tif: Any) -> Any:
    if not len(tif.pages):
        raise ValueError("no page found")
    return tif.pages[0]
