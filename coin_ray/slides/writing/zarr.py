"""A label map of a slide as OME-Zarr, never whole in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coin_ray.slides.writing import Frame, Parts
from coin_ray.slides.writing.label_map import id_type, squares

CHUNK = 1024
SMALLEST = 1024
"""px: a level whose longer side is not longer is the last one."""


def write_zarr(frame: Frame, parts: Parts, version: str, path: Path) -> None:
    """A label image of OME-Zarr ``version`` 0.4 or 0.5, with levels of half the size each.

    It stands alone, and becomes a label of an image when it is put below its ``labels``."""
    import zarr

    old = version == "0.4"
    group = zarr.open_group(path, mode="w", zarr_format=2 if old else 3)
    level = _array(group, 0, frame.shape, id_type(frame))
    width = -(-frame.shape[1] // CHUNK)
    for index, square in enumerate(squares(frame, parts, CHUNK)):
        y, x = (n * CHUNK for n in divmod(index, width))
        level[y : y + CHUNK, x : x + CHUNK] = square[: frame.shape[0] - y, : frame.shape[1] - x]
    levels = [level]
    while max(level.shape) > SMALLEST:
        small = _array(group, len(levels), [-(-n // 2) for n in level.shape], level.dtype)
        for y in range(0, small.shape[0], CHUNK):
            small[y : y + CHUNK] = level[2 * y : 2 * (y + CHUNK) : 2, ::2]
        levels.append(level := small)
    about: dict[str, Any] = {
        "multiscales": [
            {
                "version": version,
                "name": frame.name,
                "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"],
                "datasets": [
                    {
                        "path": str(i),
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [frame.um * 2**i] * 2}
                        ],
                    }
                    for i in range(len(levels))
                ],
            }
        ],
        "image-label": {"version": version},
    }
    group.attrs.update(about if old else {"ome": {"version": version, **about}})


def _array(group: Any, index: int, shape: Any, dtype: Any) -> Any:
    """A level; chunks without a nucleus are not written."""
    keys = {"name": "v2", "separator": "/"} if group.metadata.zarr_format == 2 else None
    return group.create_array(
        str(index),
        shape=tuple(shape),
        dtype=dtype,
        chunks=(CHUNK, CHUNK),
        fill_value=0,
        chunk_key_encoding=keys,
        dimension_names=None if keys else ("y", "x"),
    )
