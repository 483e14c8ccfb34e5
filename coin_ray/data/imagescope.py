"""Any images with outlines drawn in Aperio ImageScope: xml files named as they are."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

from coin_ray.data.aperio import read_truth, stated_mpp
from coin_ray.data.card import card
from coin_ray.data.folder import IMAGE_FOLDERS, SPLITS, by_stem, labelled, search, subfolder
from coin_ray.data.pairs import match
from coin_ray.data.resolution import SAME, file_mpp
from coin_ray.data.sample import Image, Sample

CARD = card("imagescope")


def detect(path: Path) -> bool:
    """xml files named as images beside them."""
    return bool(_folders(path))


def find(path: Path) -> list[Sample]:
    """The images of every folder below ``path`` that has outlines; the data set is its name."""
    samples = []
    for images, outlines in _folders(path):
        root = (images if images == outlines else images.parent).absolute()
        is_split = root.name.lower() in SPLITS
        for name, file, truth in labelled(images, outlines, (".xml",)):
            image = Image(
                name,
                file,
                dataset=root.parent.name if is_split else root.name,
                split=root.name if is_split else "",
                mpp=_mpp(file, truth),
            )
            samples.append(Sample(image, truth, partial(read_truth, truth) if truth else None))
    return samples


def _mpp(image: Path, outlines: Path | None) -> float | None:
    stated, own = stated_mpp(outlines) if outlines is not None else None, file_mpp(image)
    if stated is None or own is None or abs(stated / own - 1) <= SAME:
        return stated if stated is not None else own
    warnings.warn(
        f"{image.name} states {own:.4g} um/px and its outlines {stated:.4g}, which counts; "
        f"say it with --mpp",
        stacklevel=2,
    )
    return stated


def _folders(path: Path) -> list[tuple[Path, Path]]:
    """(folder of images, folder of outlines)."""
    out = []
    for outlines in sorted({xml.parent for xml in search(path, "*.xml")}):
        xmls = by_stem(outlines, (".xml",))
        for images in (outlines, subfolder(outlines.parent, IMAGE_FOLDERS)):
            if images is not None and match(by_stem(images), xmls, where=outlines):
                out.append((images, outlines))
                break
    return out
