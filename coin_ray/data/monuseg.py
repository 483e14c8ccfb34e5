"""MoNuSeg 2018 as the challenge ships it: tissue images (tif) and Aperio outlines (xml)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from coin_ray.data.aperio import Overlap, draw_outlines, read_outlines, stated_mpp
from coin_ray.data.card import card, chosen
from coin_ray.data.folder import by_stem, search
from coin_ray.data.pairs import pair
from coin_ray.data.resolution import SAME
from coin_ray.data.sample import Image, Sample
from coin_ray.labels import LabelMap

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

CARD = card("monuseg")


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
