"""Pyramidal TIFF and OME-TIFF by tifffile, a region at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from coin_ray.data.rasters import SUFFIXES, check_size, decoding, is_ycbcr, stack
from coin_ray.data.resolution import stated_mpp
from coin_ray.errors import UserError
from coin_ray.slides.reading import Image8, Slide, picture

SMALL = 2**26
"""Px of a picture that is read whole."""
ALPHA = (1, 2)
"""ExtraSamples of TIFF 6.0: associated and unassociated alpha."""
SQUARE = 0.02
"""Relative difference of two aspect ratios that are one."""


def tiff_slide(path: Path) -> Slide:
    """The slide of a TIFF: its levels by SubIFDs, or pages of the same aspect that get smaller.

    A picture that is not tiled is a slide of one level, of kind "picture". UserError for what is
    not 8-bit RGB."""
    import tifffile

    with decoding(path):
        tif = tifffile.TiffFile(path)
        pages = _levels(tif)
    first = pages[0]
    small = first.imagelength * first.imagewidth <= SMALL
    if small and len(pages) == 1 and not first.is_tiled and path.suffix.lower() in SUFFIXES:
        return picture(path)
    series = tif.series[0]
    planes = [n for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXS"]
    if math.prod(planes) > 1:
        raise stack(path, f"{series.shape} ({series.axes})")
    for page in pages:
        _check(path, page)
    shapes = tuple((int(p.imagelength), int(p.imagewidth)) for p in pages)
    stated = stated_mpp(path)

    def region(level: int, y: int, x: int, h: int, w: int) -> Image8:
        with decoding(path):
            return _region(tif.filehandle, pages[level], (y, x), (h, w))

    kind = "tiff" if first.is_tiled else "picture"
    return Slide(path, shapes, math.nan if stated is None else stated, region, kind)


def _levels(tif: Any) -> list[Any]:
    series = tif.series[0]
    if len(series.levels) > 1:
        return [level.keyframe for level in series.levels]
    first = series.keyframe
    found, aspect = [first], first.imagewidth / first.imagelength
    for page in tif.pages[1:]:
        page = page.aspage()
        smaller = page.imagewidth < found[-1].imagewidth
        if smaller and abs(page.imagewidth / page.imagelength / aspect - 1) < SQUARE:
            found.append(page)
    return found


def _check(path: Path, page: Any) -> None:
    """UserError for other colours than 8-bit RGB, and for pieces that do not fit in memory."""
    if (
        page.photometric.name not in ("RGB", "YCBCR")
        or is_ycbcr(page)
        or page.samplesperpixel not in (3, 4)
        or page.bitspersample != 8
        or page.planarconfig != 1
    ):
        raise UserError(
            "not an RGB slide",
            where=str(path),
            expected="8 bits a channel, red, green and blue together",
            found=f"{page.photometric.name.lower()}, {page.samplesperpixel} channels of "
            f"{page.bitspersample} bits",
            do="export it as RGB",
        )
    check_size(path, _piece(page))


def _piece(page: Any) -> tuple[int, int]:
    """(H, W) of a tile, or of a strip."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _shown(piece: Image8, page: Any) -> Image8:
    """RGB of decoded pixels; white where they are transparent, which is outside of what was
    scanned. A fourth channel that is not said to be alpha is left out."""
    if piece.shape[-1] == 4 and page.extrasamples and int(page.extrasamples[0]) in ALPHA:
        return np.where(piece[..., 3:] > 0, piece[..., :3], np.uint8(255))
    return piece[..., :3]


def _region(handle: Any, page: Any, at: tuple[int, int], size: tuple[int, int]) -> Image8:
    (y, x), (h, w) = at, size
    height, width = _piece(page)
    columns = -(-int(page.imagewidth) // width)
    out = np.full((h, w, 3), 255, dtype=np.uint8)
    for row in range(y // height, -(-(y + h) // height)):
        for column in range(x // width, -(-(x + w) // width)):
            index = row * columns + column
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            if not count:
                continue  # left out of a sparse file: not scanned
            handle.seek(offset)
            data = handle.read(count)
            if len(data) < count:
                raise ValueError("the pixels end before the file's own table says")
            piece = page.decode(data, index, jpegtables=page.jpegtables)[0]
            if piece is None:
                continue
            piece = _shown(piece[0], page)
            top, left = row * height - y, column * width - x
            rows = slice(max(top, 0), min(top + piece.shape[0], h))
            cols = slice(max(left, 0), min(left + piece.shape[1], w))
            out[rows, cols] = piece[
                rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
            ]
    return out
