"""What napari calls, as ``napari.yaml`` says: open slides and tiles, segment a tile, save labels
that a person corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.api.segmenting import method_of
from coin_ray.data.geojson import is_geojson, write_geojson
from coin_ray.data.resolution import REFERENCE_MPP, pixel_scale
from coin_ray.data.write import write_label_map
from coin_ray.errors import UserError
from coin_ray.labels import relabel
from coin_ray.slides import method
from coin_ray.slides.reading import Slide, open_slide

if TYPE_CHECKING:
    import napari

Layer = tuple[Any, dict[str, Any], str]
"""Data, attributes and kind of a layer."""
CHUNK = 1024


@dataclass(frozen=True)
class Level:
    """A level of a slide as an array (H, W, 3) that is read where it is looked at."""

    slide: Slide
    level: int
    shape: tuple[int, int, int]
    dtype = np.dtype(np.uint8)
    ndim = 3

    def __getitem__(self, where: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
        (y0, y1, _), (x0, x1, _) = (
            part.indices(size) for part, size in zip(where[:2], self.shape[:2], strict=True)
        )
        return self.slide.region(self.level, y0, x0, y1 - y0, x1 - x0)[..., where[2]]


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """The reader of slides and tiles, each file an image."""
    return None if isinstance(path, list) else read


def read(path: str | list[str]) -> list[Layer]:
    """A slide as an image of all its levels, in um."""
    import dask.array

    slide = open_slide(Path(str(path)))
    levels = [
        dask.array.from_array(Level(slide, i, (*shape, 3)), (CHUNK, CHUNK, 3), name=False)
        for i, shape in enumerate(slide.shapes)
    ]
    about = {
        "name": slide.path.stem,
        "rgb": True,
        "scale": (slide.mpp, slide.mpp),
        "metadata": {"mpp": slide.mpp},
    }
    one = len(levels) == 1
    return [(levels[0].compute() if one else levels, about | {"multiscale": not one}, "image")]


def segment(
    image: napari.layers.Image, mpp: float = 0.0, student: Path = Path()
) -> napari.types.LayerDataTuple:
    """The nuclei of a tile as labels; ``mpp`` 0 takes what the image states, no ``student`` the
    built-in models."""
    if image.multiscale or not image.rgb:
        raise UserError(
            "not a tile",
            where=image.name,
            expected="an RGB image of one level",
            do="segment a slide by `coin-ray segment`, and open its label map here",
        )
    mpp = mpp or image.metadata.get("mpp", REFERENCE_MPP)
    draws = method_of(student if student != Path() else None)
    found, _ = method.segment(np.asarray(image.data)[..., :3], draws, pixel_scale(mpp))
    return found, {"name": f"{image.name} nuclei", "scale": image.scale}, "labels"


def write(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Labels as a label map or as QuPath's GeoJSON, which `coin-ray evaluate` takes as truth."""
    label_map = relabel(np.asarray(data))
    if is_geojson(Path(path)):
        write_geojson(Path(path), label_map)
    else:
        write_label_map(Path(path), label_map)
    return [path]
