"""TNBC (Naylor et al.): folders ``Slide_XX`` and ``GT_XX`` with binary masks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from coin_ray.data.card import Archive, Card
from coin_ray.data.folder import by_stem, search
from coin_ray.data.label_files import check_shape, components, label_raster
from coin_ray.data.options import chosen
from coin_ray.data.pairs import pair
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap

COIN_TEST = ("01_1", "01_4", "01_7", "02_3", "03_3", "04_5", "05_2", "08_1", "10_4", "11_2")
BREAST = range(1, 12)
"""Slides of the breast; a later record adds slides of the brain after them."""
TEST_SLIDES = range(9, 12)

CARD = Card(
    name="tnbc",
    title="TNBC: nuclei of triple-negative breast cancer, 40x",
    url="https://zenodo.org/records/1175282",
    licence="CC BY 4.0",
    citation="Naylor et al., IEEE TMI 38(2), 2019 (doi 10.1109/TMI.2018.2865709)",
    layout="TNBC_NucleiSegmentation/{Slide_XX,GT_XX}/XX_Y.png, 512 x 512",
    mpp=0.25,
    counts={"coin train": 40, "coin test": 10},
    splits={
        "coin": "10 test images by name, 40 for training: patients are on both sides",
        "patient": "ours: slides 01 to 08 for training, 09 to 11 for testing, no patient on both",
        "none": "the owners give no split",
    },
    traps=(
        "the truth is binary: instances are its connected components, so touching nuclei merge",
        "images carry an opaque alpha channel",
        "record 3552674 adds brain slides (12 and up), which are left out",
    ),
    steps=("download TNBC_NucleiSegmentation.zip of the record and unpack it",),
    archives=(
        Archive(
            "https://zenodo.org/records/1175282/files/TNBC_NucleiSegmentation.zip",
            "TNBC_NucleiSegmentation.zip",
            "da708c3a988f4ad4b9bbb9283b387faf703f0bc0e5e689927306bd27ea13a57f",
        ),
    ),
)


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
        files = by_stem(slide)
        truths = pair(files, by_stem(truth_folder), truth_folder) if truth_folder.is_dir() else {}
        for name, file in files.items():
            image = Image(
                name,
                file,
                dataset="TNBC",
                split=_split(name, int(slide.name.split("_")[1]), splits),
                mpp=CARD.mpp,
                organ="breast",
            )
            truth = truths.get(name)
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
