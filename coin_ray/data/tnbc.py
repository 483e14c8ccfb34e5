"""TNBC (Naylor et al.): folders ``Slide_XX`` and ``GT_XX`` with binary masks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from coin_ray.data.card import card, chosen
from coin_ray.data.folder import labelled, search
from coin_ray.data.label_files import check_shape, components, label_raster
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap

COIN_TEST = ("01_1", "01_4", "01_7", "02_3", "03_3", "04_5", "05_2", "08_1", "10_4", "11_2")
BREAST = range(1, 12)
"""Slides of the breast; a later record adds slides of the brain after them."""
TEST_SLIDES = range(9, 12)

CARD = card("tnbc")


def detect(path: Path) -> bool:
    """A folder ``Slide_XX`` that has its ``GT_XX``."""
    return any((s.parent / s.name.replace("Slide", "GT")).is_dir() for s in _slides(path))


def find(path: Path, *, splits: str = "coin", connectivity: int | str = 8) -> list[Sample]:
    """The 50 images of the breast slides.

    ``splits``: coin, patient or none (see the card). ``connectivity`` (8 or 4) of the components
    that stand for nuclei.
    """
    chosen("splits", splits, ("coin", "patient", "none"))
    chosen("connectivity", str(connectivity), ("8", "4"))
    samples = []
    for slide in _slides(path):
        if int(slide.name.split("_")[1]) not in BREAST:
            continue
        truth_folder = slide.parent / slide.name.replace("Slide", "GT")
        for name, file, truth in labelled(slide, truth_folder if truth_folder.is_dir() else None):
            image = Image(
                name,
                file,
                dataset="TNBC",
                split=_split(name, int(slide.name.split("_")[1]), splits),
                mpp=CARD.mpp,
                organ="breast",
            )
            read = partial(read_truth, truth, connectivity=int(connectivity)) if truth else None
            samples.append(Sample(image, truth, read))
    return samples


def read_truth(path: Path, shape: tuple[int, int], *, connectivity: int = 8) -> LabelMap:
    """Connected components of a binary picture, whether it was saved as grey, palette or colour."""
    array = label_raster(path).array
    foreground = np.asarray(array > 0 if array.ndim == 2 else (array[..., :3] > 0).any(axis=-1))
    check_shape(path, foreground.shape, shape)
    if array.ndim == 2 and (foreground & (array != array.max())).any():
        raise UserError(
            "no binary mask",
            where=str(path),
            expected="two values, one of them 0",
            found=f"{len(np.unique(array))} values, up to {array.max()}",
            do="for label maps use a plain folder with image/ and label/",
        )
    return components(foreground, connectivity=connectivity)


def _slides(path: Path) -> list[Path]:
    return [s for s in search(path, "Slide_[0-9]*") if s.is_dir() and s.name[6:].isdigit()]


def _split(name: str, slide: int, splits: str) -> str:
    if splits == "none":
        return ""
    held_out = name in COIN_TEST if splits == "coin" else slide in TEST_SLIDES
    return "test" if held_out else "train"
