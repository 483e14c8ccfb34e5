"""Microns per pixel: what the file says, what the user says, and the factor for pixel constants."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.data.rasters import decoding
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.data.sample import Sample

REFERENCE_MPP = 0.25
"""40x; pixel constants of the method are stated at this resolution."""
SAME = 0.05
PLAUSIBLE = (0.05, 4.0)
"""Outside of it a file's resolution is a printer's (72 or 300 dpi), not a microscope's."""


class MissingMpp(UserWarning):
    """The resolution of some images is unknown."""


def pixel_scale(mpp: float | None) -> float:
    """Factor 0.25 / mpp for lengths stated at 0.25 um/px; 1 if unknown or within 5 % of it."""
    if mpp is None or abs(mpp / REFERENCE_MPP - 1) <= SAME:
        return 1.0
    return REFERENCE_MPP / mpp


def check_mpp(mpp: float | None) -> None:
    """Refuse a resolution that no microscope has."""
    if mpp is not None and not PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]:
        raise UserError(
            "an impossible resolution",
            where="--mpp",
            expected=f"{PLAUSIBLE[0]} to {PLAUSIBLE[1]} um per pixel (0.25 is 40x, 0.5 is 20x)",
            found=f"{mpp}",
        )


def file_mpp(path: Path) -> float | None:
    """um/px from a tif's resolution tags or a png's pHYs chunk; None if absent or implausible.

    Also None for a file that cannot be decoded: reading its pixels says so, and finding images must
    not stop at the first broken one.
    """
    suffix = path.suffix.lower()
    found = None
    try:
        with decoding(path):
            if suffix in (".tif", ".tiff"):
                found = _tif_mpp(path)
            elif suffix == ".png":
                found = _png_mpp(path)
    except UserError:
        return None
    return found if found is not None and PLAUSIBLE[0] <= found <= PLAUSIBLE[1] else None


def _png_mpp(path: Path) -> float | None:
    from PIL import Image

    with Image.open(path) as picture:
        dpi = picture.info.get("dpi")
    return 25_400 / dpi[0] if dpi and dpi[0] > 0 else None


def _tif_mpp(path: Path) -> float | None:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        if not len(tif.pages):
            return None
        tags = tif.pages[0].tags
        if "XResolution" not in tags or "ResolutionUnit" not in tags:
            return None
        above, below = tags["XResolution"].value
        unit = {2: 25_400.0, 3: 10_000.0}.get(int(tags["ResolutionUnit"].value))
        return unit * below / above if unit and above else None


def with_mpp(samples: Sequence[Sample], mpp: float | None) -> list[Sample]:
    """Samples that carry their resolution: ``mpp`` where given, else what is known of each.

    One warning if ``mpp`` contradicts what is known, one if some remain unknown; both name --mpp.
    """
    check_mpp(mpp)
    known = [s.image.mpp for s in samples]
    if mpp is not None:
        other = {round(k, 4) for k in known if k is not None and abs(k / mpp - 1) > SAME}
        if other:
            warnings.warn(
                f"--mpp {mpp:g} replaces the {', '.join(map(str, sorted(other)))} um/px that the "
                f"data set or its files state",
                stacklevel=2,
            )
        return [replace(s, image=replace(s.image, mpp=mpp)) for s in samples]
    missing = [s.name for s, k in zip(samples, known, strict=True) if k is None]
    if missing:
        warnings.warn(
            f"resolution unknown for {len(missing)} of {len(samples)} images (first: "
            f"{missing[0]}): taken as {REFERENCE_MPP} um/px (40x); say it with --mpp",
            MissingMpp,
            stacklevel=2,
        )
    return list(samples)
