"""Microns per pixel: what the file says, what the user says, and the factor for pixel constants."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.data.rasters import decoding
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.data.sample import Sample

REFERENCE_MPP = 0.25
"""40x; pixel constants of the method are stated at this resolution."""
SAME = 0.05
PLAUSIBLE = (0.05, 4.0)
"""Outside of it a file's resolution is a printer's (72 or 300 dpi), not a microscope's."""

UNITS = {
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer"), 1.0),
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
}
"""Micrometres of the units of OME and ImageJ."""


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
    """What :func:`stated_mpp` gives, if it is a microscope's."""
    found = stated_mpp(path)
    return found if found is not None and PLAUSIBLE[0] <= found <= PLAUSIBLE[1] else None


def stated_mpp(path: Path) -> float | None:
    """um/px that a picture states, a printer's too; None if it states none or no square pixels.

    Of a tif, the first of: OME's PhysicalSizeX, Aperio's MPP, ImageJ's unit, the resolution tags.
    Of a png or jpg its dots per inch.

    Also None for a file that cannot be decoded: reading its pixels says so, and finding images must
    not stop at the first broken one.
    """
    suffix = path.suffix.lower()
    try:
        with decoding(path):
            if suffix in (".tif", ".tiff", ".btf", ".tf8"):
                return _tif_mpp(path)
            return _dpi_mpp(path) if suffix in (".png", ".jpg", ".jpeg") else None
    except UserError:
        return None


def _dpi_mpp(path: Path) -> float | None:
    from PIL import Image

    with Image.open(path) as picture:
        x, y = picture.info.get("dpi") or (0, 0)
    return _square(25_400 / x, 25_400 / y) if x > 0 and y > 0 else None


def _tif_mpp(path: Path) -> float | None:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        if not len(tif.pages):
            return None
        tags, text = tif.pages[0].tags, tif.pages[0].description
        if tif.is_ome:
            stated = _ome_mpp(text)
        elif text.startswith("Aperio"):
            found = re.search(r"\bMPP\s*=\s*([0-9.]+)", text)
            stated = float(found[1]) if found else None
        else:
            stated = None
        if stated is not None:
            return stated
        if "XResolution" not in tags:
            return None
        micrometres = _imagej_unit(tif.imagej_metadata) if tif.is_imagej else None
        if micrometres is None:
            unit = tags.get("ResolutionUnit")
            micrometres = {2: 25_400.0, 3: 10_000.0}.get(int(unit.value) if unit else 2)
        if micrometres is None:
            return None
        x = tags["XResolution"].value
        y = tags["YResolution"].value if "YResolution" in tags else x
        if not x[0] or not y[0]:
            return None
        return _square(micrometres * x[1] / x[0], micrometres * y[1] / y[0])


def _ome_mpp(xml: str) -> float | None:
    """Of the first image."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    sizes = []
    for axis in "XY":
        size = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', pixels[0]) if pixels else None
        if pixels is None or size is None:
            return None
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', pixels[0])
        named = html.unescape(unit[1]) if unit else "um"  # as ASCII it is &#181;m
        sizes.append(float(size[1]) * UNITS.get(named, 0.0))
    return _square(*sizes)


def _imagej_unit(metadata: dict[str, Any] | None) -> float | None:
    unit = str((metadata or {}).get("unit", "")).replace("\\u00B5", "u")
    return UNITS.get(unit)


def _square(x: float, y: float) -> float | None:
    """The size of a pixel, if it is square within the tolerance."""
    return x if y and abs(x / y - 1) <= SAME else None


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
