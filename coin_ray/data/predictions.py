"""Label maps of another program: one file an image (label map, GeoJSON), or one of COCO."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from coin_ray.data.coco import names_in, read_coco
from coin_ray.data.digests import content_digest
from coin_ray.data.folder import by_stem
from coin_ray.data.geojson import is_geojson, read_geojson
from coin_ray.data.label_files import LABEL_SUFFIXES, read_label_map
from coin_ray.data.pairs import RULE, Unpaired, match
from coin_ray.data.rasters import SUFFIXES
from coin_ray.data.resolution import pixel_scale
from coin_ray.data.sample import Image
from coin_ray.data.settings import Predictions
from coin_ray.errors import UserError
from coin_ray.identity import digest
from coin_ray.labels import LabelMap

COCO = ".json"


def prediction_digests(given: Predictions, images: Sequence[Image]) -> dict[str, str]:
    """Image name -> what its label map is made of; warns of images that have none, empty here.

    Raises:
        UserError: no such folder, or no image has a label map in it.
    """
    found = _files(given, [image.name for image in images])
    lacking = [image.name for image in images if image.name not in found]
    some = ", ".join(lacking[:5]) + " …" * (len(lacking) > 5)
    if not found:
        raise UserError(
            "no image has a label map among the predictions",
            where=str(given.path),
            expected=f"{some}; {RULE}",
            do="check predictions.path",
        )
    if lacking:
        said = f"{len(lacking)} of {len(images)} images have no label map in {given.path}: {some}"
        warnings.warn(said, Unpaired, stacklevel=2)
    out = dict.fromkeys(lacking, "")
    for image in images:
        if image.name in found:
            file, name = found[image.name]
            scale = pixel_scale(image.mpp) if given.binary == "watershed" else 1.0
            out[image.name] = digest([content_digest(file), name, given.binary, scale])
    return out


def read_prediction(given: Predictions, image: Image) -> LabelMap:
    """(H, W) int32 of an image, ids contiguous. UserError for what is no label map of its size."""
    file, name = _files(given, [image.name])[image.name]
    shape = image.shape()
    if name:
        return read_coco(file, _parsed(file, file.stat().st_mtime_ns), name, shape)
    if is_geojson(file) or file.suffix.lower() == COCO:
        return read_geojson(file, shape)
    return read_label_map(file, shape, binary=given.binary, scale=pixel_scale(image.mpp))


def _files(given: Predictions, names: Sequence[str]) -> dict[str, tuple[Path, str]]:
    """Name of an image -> its file, and what it is called in a file of several."""
    path = Path(given.path or "")
    if path.is_dir():
        files = by_stem(path, (*LABEL_SUFFIXES, COCO))
        only = next(iter(files.values())) if len(files) == 1 else None
        if only is None or only.suffix.lower() != COCO or only.stem in names:
            by_image = _by_image(names, files, path)
            return {image: (file, "") for image, file in by_image.items()}
        path = only
    if not path.is_file():
        raise UserError("no such folder or file", where=str(path), do="check predictions.path")
    content = _parsed(path, path.stat().st_mtime_ns)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise UserError(
            "no COCO file",
            where=str(path),
            expected="an object with images and annotations",
            do="give it with its images, or a folder with a file an image",
        )
    called = names_in(path, content)
    pairs = match(names, called, where=path)
    return {image: (path, called[stem]) for image, stem in pairs.items()}


def _by_image(names: Sequence[str], files: Mapping[str, Path], where: Path) -> dict[str, Path]:
    """A label map where there is one, else outlines: `segment` writes both."""
    drawn = {stem: file for stem, file in files.items() if file.suffix.lower() not in SUFFIXES}
    maps = {stem: file for stem, file in files.items() if stem not in drawn}
    found: dict[str, Path] = {}
    for kind in (maps, drawn):
        left = [name for name in names if name not in found]
        found |= {n: kind[stem] for n, stem in match(left, kind, where=where).items()}
    return found


@lru_cache(maxsize=2)
def _parsed(path: Path, mtime_ns: int) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError("not valid JSON", where=str(path), found=str(error)) from error
