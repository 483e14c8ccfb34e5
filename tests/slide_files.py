"""Slides as other programs write them, of a picture that the tests have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from coin_ray.data.synthetic import generate_tile

Image8 = NDArray[np.uint8]


def tissue(height: int, width: int, *, seed: int = 3) -> Image8:
    """(height, width, 3): tissue everywhere, one stain."""
    size = max(height, width)
    return generate_tile(seed, size, diameter=22, crowding=0.5)[0][:height, :width]


def halved(image: Image8) -> Image8:
    h, w = (n // 2 * 2 for n in image.shape[:2])
    small = image[:h, :w].reshape(h // 2, 2, w // 2, 2, 3).mean(axis=(1, 3))
    return np.rint(small).astype(np.uint8)


def write_ome_tiff(path: Path, image: Image8, mpp: float | None = 0.25, levels: int = 3) -> None:
    metadata = {"axes": "YXS"}
    if mpp is not None:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}  # type: ignore[dict-item]
    with tifffile.TiffWriter(path, ome=True) as tif:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
        tif.write(image, subifds=levels - 1, metadata=metadata, **options)
        for _ in range(levels - 1):
            image = halved(image)
            tif.write(image, subfiletype=1, metadata=None, **options)


def write_pyramid(path: Path, image: Image8, mpp: float | None = 0.25, levels: int = 3) -> None:
    """Reduced pages one after another, as vips and Aperio do."""
    stated = {"resolution": (10_000 / mpp,) * 2, "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as tif:
        for level in range(levels):
            tif.write(
                image,
                subfiletype=1 if level else 0,
                photometric="rgb",
                tile=(256, 256),
                compression="deflate",
                metadata=None,
                **stated,
            )
            image, stated = halved(image), {}


def write_svs(path: Path, image: Image8, mpp: float | None = 0.25) -> None:
    """As Aperio's scanners do."""
    resolution = f"|MPP = {mpp:g}" if mpp else ""
    height, width = image.shape[:2]
    with tifffile.TiffWriter(path) as tif:
        for level in range(2):
            tif.write(
                image,
                photometric="rgb",
                tile=(240, 240),
                compression="jpeg",
                compressionargs={"level": 95},
                metadata=None,
                description=f"Aperio Image Library v11.2.1\r\n{width}x{height} "
                f"(240x240) JPEG/RGB Q=95|AppMag = 40{resolution}",
            )
            if level == 0:  # the thumbnail, which the format has at this place
                tif.write(image[:64, :64], photometric="rgb", metadata=None, description="Aperio")
            image = halved(image)
