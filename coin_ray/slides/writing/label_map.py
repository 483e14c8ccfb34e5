"""A label map of a slide: OME-TIFF in compressed tiles, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from numpy.typing import NDArray

from coin_ray.slides.writing import Frame, Parts

TILE = 512


def write_label_map(frame: Frame, parts: Parts, path: Path) -> None:
    """Ids 1..N in the order of the parts, 16 bits where they fit and 32 where they do not, at the
    level that was segmented."""
    import tifffile

    dtype = id_type(frame)
    metadata: dict[str, Any] = {"axes": "YX", "Name": frame.name}
    metadata["UUID"] = f"urn:uuid:{uuid5(NAMESPACE_OID, repr(frame))}"  # else by the clock
    for axis in "XY":
        metadata |= {f"PhysicalSize{axis}": frame.um, f"PhysicalSize{axis}Unit": "µm"}
    height, width = frame.shape
    with tifffile.TiffWriter(path, bigtiff=height * width > 2**30, ome=True) as tif:
        tif.write(
            squares(frame, parts, TILE),
            shape=frame.shape,
            dtype=dtype,
            tile=(TILE, TILE),
            compression="zlib",
            photometric="minisblack",
            metadata=metadata,
        )


def id_type(frame: Frame) -> np.dtype[Any]:
    """16 bits where the ids fit, 32 where they do not."""
    return np.dtype(np.uint16 if frame.most <= np.iinfo(np.uint16).max else np.uint32)


def squares(frame: Frame, parts: Parts, side: int) -> Iterator[NDArray[Any]]:
    """Squares of the label map in raster order. What is held in memory reaches from the square to
    the end of the parts that have been drawn."""
    height, width = (-(-n // side) * side for n in frame.shape)
    waiting, last, dtype = iter(parts()), 0, id_type(frame)
    # The first row that the parts from here on may draw in.
    ahead = [*np.minimum.accumulate(frame.tops[::-1])[::-1].tolist(), height]
    drawn, canvas = 0, np.zeros((0, width), dtype=dtype)
    for y in range(0, height, side):
        while ahead[drawn] < y + side:
            part = next(waiting)
            top, left = part.corner_yx[0] - y, part.corner_yx[1]
            rows, columns = part.label_map.shape
            if top + rows > len(canvas):
                canvas = np.pad(canvas, ((0, top + rows - len(canvas)), (0, 0)))
            at = canvas[top : top + rows, left : left + columns]
            inside = part.label_map > 0
            at[inside] = part.label_map[inside] + last
            last += len(part)
            drawn += 1
        strip = np.pad(canvas[:side], ((0, max(0, side - len(canvas))), (0, 0)))
        for x in range(0, width, side):
            yield strip[:, x : x + side]
        canvas = canvas[side:]
