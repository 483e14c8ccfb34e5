"""Any images with outlines drawn in Aperio ImageScope: xml files named as they are."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

from coin_ray.data.aperio import read_truth, stated_mpp
from coin_ray.data.card import Card
from coin_ray.data.folder import IMAGE_FOLDERS, SPLITS, by_stem, search, subfolder
from coin_ray.data.pairs import match, pair
from coin_ray.data.resolution import SAME, file_mpp
from coin_ray.data.sample import Image, Sample

CARD = Card(
    name="imagescope",
    title="Images with outlines of Aperio ImageScope",
    url="https://www.leicabiosystems.com",
    licence="that of your images",
    citation="that of your images",
    layout="*.tif (or png, jpg, npy) beside *.xml of the same names, or in image/ beside a folder "
    "of the xml files",
    mpp=None,
    counts={},
    splits={"folder": "train, val or test, where the folder is called so"},
    traps=(
        "every region counts as a nucleus: rectangles and ellipses too; NegativeROA cuts a hole",
        "where outlines overlap, the smaller one is on top",
        "MicronsPerPixel of the xml is the resolution, else what the image states",
    ),
    steps=("draw or export outlines as xml, at the resolution of the images",),
)


def detect(path: Path) -> bool:
    """xml files named as images beside them."""
    return bool(_folders(path))


def find(path: Path) -> list[Sample]:
    """The images of every folder below ``path`` that has outlines; the data set is its name."""
    samples = []
    for images, outlines in _folders(path):
        files = by_stem(images)
        truths = pair(files, by_stem(outlines, (".xml",)), outlines)
        root = (images if images == outlines else images.parent).absolute()
        is_split = root.name.lower() in SPLITS
        for name, file in files.items():
            truth = truths.get(name)
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
