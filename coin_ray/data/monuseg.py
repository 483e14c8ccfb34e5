"""MoNuSeg 2018 as the challenge ships it: tissue images (tif) and Aperio outlines (xml)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from coin_ray.data.aperio import Overlap, draw_outlines, read_outlines, stated_mpp
from coin_ray.data.card import Archive, Card
from coin_ray.data.folder import by_stem, search
from coin_ray.data.options import chosen
from coin_ray.data.pairs import pair
from coin_ray.data.resolution import SAME
from coin_ray.data.sample import Image, Sample
from coin_ray.labels import LabelMap

_DRIVE = "https://drive.google.com/uc?export=download&id="
ORGANS = {
    "breast": "A7-A13E A7-A13F AR-A1AK AR-A1AS E2-A1B5 E2-A14V",
    "kidney": "B0-5711 HE-7128 HE-7129 HE-7130 B0-5710 B0-5698",
    "liver": "18-5592 38-6178 49-4488 50-5931 21-5784 21-5786",
    "prostate": "G9-6336 G9-6348 G9-6356 G9-6363 CH-5767 G9-6362",
    "bladder": "DK-A2I6 G2-A2EK",
    "colon": "AY-A8YK NH-A8F7",
    "stomach": "KB-A93J RD-A8N9",
}
"""As the owners list 30 of the training patients."""

CARD = Card(
    name="monuseg",
    title="MoNuSeg 2018: multi-organ nuclei in H&E, 40x",
    url="https://monuseg.grand-challenge.org/Data/",
    licence="CC BY-NC-SA 4.0",
    citation="Kumar et al., IEEE TMI 36(7), 2017, and Kumar et al., IEEE TMI 39(5), 2020",
    layout="training: 'Tissue Images/*.tif' and 'Annotations/*.xml'; "
    "test: MoNuSegTestData/*.tif beside *.xml",
    mpp=0.25,
    counts={"train": 37, "test": 14},
    splits={"owners": "37 training and 14 test images of other patients", "coin": "the same"},
    traps=(
        "outlines overlap: the last one drawn wins, as in the masks of the COIN repository",
        "outlines are drawn unrounded: cutting coordinates to integers moves masks by up to 1 px",
        "Kumar 2017 (30 images, split 16/14) is another data set of the same images",
        "images were replaced under the same names in 2019",
    ),
    steps=(
        "open the page above and download the training and the test archive",
        "unpack both into one folder and point to it",
    ),
    archives=(
        Archive(
            _DRIVE + "1ZgqFJomqQGNnsx7w7QBzQQMVA16lbVCA",
            "MoNuSegTrainingData.zip",
            "25d3d3185bb2970b397cafa72eb664c9b4d24294aee382e7e3df9885affce742",
        ),
        Archive(
            _DRIVE + "1NKkSQ5T0ZNQ8aUhh0a8Dt2YKYCQXIViw",
            "MoNuSegTestData.zip",
            "13e522387ae8b1bcc0530e13ff9c7b4d91ec74959ef6f6e57747368d7ee6f88a",
        ),
    ),
)


def detect(path: Path) -> bool:
    """Aperio outlines beside tifs of the same names, in folders that are called as the owners call
    them: anybody's tifs may have such outlines."""
    return any(_is_named(path, images, outlines) for images, outlines in _folders(path))


def find(path: Path, *, overlap: Overlap = "last") -> list[Sample]:
    """Samples of every archive found below ``path``.

    ``overlap``: whose pixel it is where outlines overlap, ``last`` (as the owners draw), ``first``
    or ``smallest``.
    """
    chosen("overlap", overlap, ("last", "first", "smallest"))
    samples = []
    for images, outlines in _folders(path):
        in_test = "test" in images.name.lower() or "test" in images.parent.name.lower()
        files = by_stem(images, (".tif", ".tiff", ".png"))
        truths = pair(files, by_stem(outlines, (".xml",)), outlines)
        for name, file in files.items():
            truth = truths.get(name)
            image = Image(
                name,
                file,
                dataset="MoNuSeg",
                split="test" if in_test else "train",
                mpp=_mpp(truth),
                organ=_organ(name),
            )
            read = partial(read_truth, truth, overlap=overlap) if truth else None
            samples.append(Sample(image, truth, read))
    return samples


def read_truth(path: Path, shape: tuple[int, int], *, overlap: Overlap = "last") -> LabelMap:
    """The outlines of one xml file drawn into an image of ``shape`` (H, W)."""
    found = read_outlines(path)
    return draw_outlines(found.polygons, shape, overlap=overlap, holes=found.holes)


def _mpp(outlines: Path | None) -> float | None:
    """0.25, unless the outlines state something else."""
    stated = stated_mpp(outlines) if outlines is not None else None
    if stated is None or CARD.mpp is None or abs(stated / CARD.mpp - 1) <= SAME:
        return CARD.mpp
    return stated


def _is_named(path: Path, images: Path, outlines: Path) -> bool:
    above = (images, outlines, *(p for p in images.parents if p.is_relative_to(path)))
    named = any("monuseg" in p.absolute().name.lower() for p in above)
    return named or (outlines.name == "Annotations" and images.name.startswith("Tissue"))


def _folders(path: Path) -> list[tuple[Path, Path]]:
    """(folder of tifs, folder of outlines) of the training and of the test archive."""
    out = []
    for outlines in sorted({xml.parent for xml in search(path, "*.xml")}):
        beside = [f for f in outlines.parent.glob("Tissue*") if f.is_dir()]
        images = beside[0] if outlines.name == "Annotations" and beside else outlines
        pairs = by_stem(outlines, (".xml",)).keys() & by_stem(images, (".tif", ".tiff")).keys()
        if pairs:
            out.append((images, outlines))
    return out


def _organ(name: str) -> str | None:
    patient = name.removeprefix("TCGA-")[:7]
    return next((organ for organ, known in ORGANS.items() if patient in known.split()), None)
