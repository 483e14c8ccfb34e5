"""Open a whole slide or a tile: its levels, its resolution, and regions of it as RGB."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.images import read_image
from coin_ray.data.rasters import SUFFIXES, decoding
from coin_ray.data.resolution import (
    PLAUSIBLE,
    REFERENCE_MPP,
    SAME,
    MissingMpp,
    check_mpp,
    stated_mpp,
)
from coin_ray.errors import UserError

Image8 = NDArray[np.uint8]
Region = Callable[[int, int, int, int, int], Image8]
"""``(level, y, x, height, width)``, all px of that level and within it -> (height, width, 3)."""

OPENSLIDE = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm")
TIFF = (".tif", ".tiff", ".btf", ".tf8")
UNREADABLE = 128
SMALLEST = 64
"""Side of what is looked at on its own in a region that cannot be read whole."""
INSTALL = 'pip install "coin-ray[slides]"'


class OtherMpp(UserWarning):
    """A slide states another resolution than its user."""


@dataclass(frozen=True)
class Slide:
    """A slide that is open. ``shapes`` (H, W) of its levels, the finest first; ``mpp`` um per pixel
    of level 0; ``origin_yx`` where level 0 begins in the file's own coordinates, px of level 0;
    ``kind`` is the format. Outside of what was scanned a region is white."""

    path: Path
    shapes: tuple[tuple[int, int], ...]
    mpp: float
    region: Region
    kind: str
    origin_yx: tuple[int, int] = (0, 0)

    def downsample(self, level: int) -> float:
        """Px of level 0 that a px of ``level`` is wide."""
        return self.shapes[0][1] / self.shapes[level][1]

    def matching_level(self, mpp: float = REFERENCE_MPP) -> int:
        """The level whose resolution is nearest to ``mpp``, the finer one of two."""
        off = [abs(math.log(self.mpp * self.downsample(i) / mpp)) for i in range(len(self.shapes))]
        return min(range(len(off)), key=lambda i: (round(off[i], 6), i))

    def thumbnail(self, side: int = 2048) -> Image8:
        """The whole slide, its longer side at most ``side`` px; never all of a large level at
        once."""
        fitting = [i for i, shape in enumerate(self.shapes) if max(shape) >= side]
        level = fitting[-1] if fitting else 0
        height, width = self.shapes[level]
        step = max(1, math.ceil(max(height, width) / side))
        block = step * max(1, 2048 // step)
        out = np.zeros((-(-height // step), -(-width // step), 3), dtype=np.uint8)
        for y in range(0, height, block):
            for x in range(0, width, block):
                small = self._shrunk(level, (y, x), block, step)
                out[y // step : y // step + len(small), x // step : x // step + small.shape[1]] = (
                    small
                )
        return out

    def _shrunk(self, level: int, at: tuple[int, int], block: int, step: int) -> Image8:
        """A block by the mean of ``step`` x ``step`` px."""
        size = [min(block, n - o) for n, o in zip(self.shapes[level], at, strict=True)]
        pixels = self._readable(level, *at, *size)
        rows, columns = (np.arange(0, n, step) for n in size)
        sums = np.add.reduceat(pixels.astype(np.uint32), rows, axis=0)
        sums = np.add.reduceat(sums, columns, axis=1)
        counts = np.outer(
            *(np.diff([*edges, n]) for edges, n in ((rows, size[0]), (columns, size[1])))
        )
        return np.rint(sums / counts[..., None]).astype(np.uint8)

    def _readable(self, level: int, y: int, x: int, h: int, w: int) -> Image8:
        """A region, grey where it cannot be read: not background, so that its tile is told of."""
        try:
            return self.region(level, y, x, h, w)
        except UserError:
            out = np.full((h, w, 3), UNREADABLE, dtype=np.uint8)
            half = max(h, w) // 2
            if half >= SMALLEST:
                for i in range(0, h, half):
                    for j in range(0, w, half):
                        size = (min(half, h - i), min(half, w - j))
                        out[i : i + half, j : j + half] = self._readable(level, y + i, x + j, *size)
            return out


def open_slide(path: Path, mpp: float | None = None) -> Slide:
    """The slide or tile at ``path``: SVS, NDPI, MRXS, SCN, DICOM, (pyramidal) TIFF, OME-TIFF,
    OME-Zarr, png, jpg, npy. ``mpp`` wins over what the file states.

    Raises:
        UserError: no such file, no slide, a reader that is not installed, a slide without a
            plausible resolution (a tile without one is taken as 0.25 um/px, with a warning).
    """
    check_mpp(mpp)
    slide = _open(path)
    stated = slide.mpp
    plausible = PLAUSIBLE[0] <= stated <= PLAUSIBLE[1]
    if mpp is not None:
        if plausible and abs(stated / mpp - 1) > SAME:
            warnings.warn(
                f"{path.name}: --mpp {mpp:g} replaces the {stated:.4g} um/px that the file states",
                OtherMpp,
                stacklevel=2,
            )
        return replace(slide, mpp=mpp)
    if plausible:
        return slide
    if slide.kind == "picture":
        warnings.warn(
            f"{path.name}: resolution unknown, taken as {REFERENCE_MPP} um/px (40x); say it with "
            "--mpp",
            MissingMpp,
            stacklevel=2,
        )
        return replace(slide, mpp=REFERENCE_MPP)
    raise UserError(
        "a slide without a plausible resolution",
        where=str(path),
        expected=f"{PLAUSIBLE[0]} to {PLAUSIBLE[1]} um per pixel (0.25 is 40x, 0.5 is 20x)",
        found=f"{stated:g} um/px" if math.isfinite(stated) else "none of square pixels",
        do="say it with --mpp",
    )


def _open(path: Path) -> Slide:
    suffix = path.suffix.lower()
    if not path.exists():
        raise UserError("no such file", where=str(path), do="check the path")
    if path.is_dir():
        if (path / ".zattrs").exists() or (path / "zarr.json").exists():
            from coin_ray.slides.zarr import zarr_slide

            return zarr_slide(path)
        files = sorted(path.glob("*.dcm"))
        if files:
            return _dicom(files[0])
    elif suffix == ".dcm":
        return _dicom(path)
    elif suffix in OPENSLIDE:
        return _openslide(path)
    elif suffix in TIFF:
        from coin_ray.slides.tiff import tiff_slide

        return _openslide(path) if _scanner(path) else tiff_slide(path)
    elif suffix in SUFFIXES:
        return picture(path)
    raise UserError(
        "no slide and no picture",
        where=str(path),
        expected=", ".join((*OPENSLIDE, *TIFF, ".zarr", *SUFFIXES)),
        do="give the file that the scanner wrote, a folder of DICOM files, or an OME-Zarr",
    )


def picture(path: Path) -> Slide:
    """A picture as a slide of one level, read whole and as studies read it."""
    image, stated = read_image(path), stated_mpp(path)
    return Slide(
        path,
        (image.shape[:2],),
        math.nan if stated is None else stated,
        lambda level, y, x, h, w: image[y : y + h, x : x + w],
        "picture",
    )


def _scanner(path: Path) -> bool:
    """Whether a TIFF is one of a scanner that openslide knows better than its tags tell."""
    try:
        import openslide
    except ImportError:
        return False
    return openslide.OpenSlide.detect_format(str(path)) not in (None, "generic-tiff")


def _dicom(path: Path) -> Slide:
    """By openslide, and by wsidicom what openslide refuses."""
    try:
        return _openslide(path)
    except UserError as refused:
        try:
            from wsidicom import WsiDicom
        except ImportError:
            raise refused from None
        with decoding(path):
            from coin_ray.slides.dicom import wsidicom_slide

            return wsidicom_slide(path, WsiDicom.open(path.parent))


def _openslide(path: Path) -> Slide:
    try:
        import openslide
    except ImportError as error:
        raise UserError(
            "openslide is not installed, which reads this kind of slide",
            where=str(path),
            do=INSTALL,
        ) from error
    with decoding(path):
        handle = openslide.OpenSlide(str(path))
    found = handle.properties
    bounds = [found.get(f"openslide.bounds-{n}") for n in ("y", "x", "height", "width")]
    width, height = handle.dimensions
    # As QuPath does: what was scanned begins at the bounds, not at the corner of the stage.
    y0, x0, rows, columns = (
        int(b or n) for b, n in zip(bounds, (0, 0, height, width), strict=True)
    )
    factors = handle.level_downsamples
    shapes = tuple((math.ceil(rows / f), math.ceil(columns / f)) for f in factors)
    sizes = [found.get(f"openslide.mpp-{axis}") for axis in "xy"]
    mpp = float(sizes[0]) if sizes[0] else math.nan
    if sizes[1] and not abs(mpp / float(sizes[1]) - 1) <= SAME:
        mpp = math.nan
    held = [handle]

    def region(level: int, y: int, x: int, h: int, w: int) -> Image8:
        factor = factors[level]
        at = (x0 + round(x * factor), y0 + round(y * factor))
        try:
            picture = np.asarray(held[0].read_region(at, level, (w, h)))
        except openslide.OpenSlideError as error:
            held[0] = openslide.OpenSlide(str(path))  # the old handle refuses from here on
            raise _damaged(path, level, (y, x), error) from error
        alpha = picture[..., 3:].astype(np.uint16)
        # openslide's colours are not yet mixed with its transparency, which is all or nothing
        return np.where(alpha > 0, picture[..., :3], np.uint8(255))

    return Slide(path, shapes, mpp, region, str(found.get("openslide.vendor")), (y0, x0))


def _damaged(path: Path, level: int, at: tuple[int, int], error: Exception) -> UserError:
    return UserError(
        "a region of the slide cannot be read",
        where=str(path),
        found=f"level {level}, y {at[0]}, x {at[1]}: {error}",
        do="copy the slide again",
    )
