"""CryoNuSeg: nuclei in frozen sections, three mark-ups by two annotators."""

from __future__ import annotations

from pathlib import Path

from coin_ray.data.card import card, chosen
from coin_ray.data.folder import labelled, search
from coin_ray.data.sample import Image, Sample

RATERS = {
    "biologist": "Annotator 1 (biologist)",
    "biologist2": "Annotator 1 (biologist second round of manual marks up)",
    "bioinformatician": "Annotator 2 (bioinformatician)",
}
LABELS = "label masks modify"

CARD = card("cryonuseg")


def detect(path: Path) -> bool:
    """'tissue images' with an annotator's folder beside it."""
    return any((t.parent / r).is_dir() for t in _tissue(path) for r in RATERS.values())


def find(path: Path, *, rater: str = "biologist", splits: str = "coin") -> list[Sample]:
    """The 30 images with the mark-up of one ``rater``; ``splits`` coin or none."""
    chosen("rater", rater, tuple(RATERS))
    chosen("splits", splits, ("coin", "none"))
    samples = []
    for tissue in _tissue(path):
        folders = search(tissue.parent / RATERS[rater], LABELS, depth=1)
        for name, file, truth in labelled(tissue, folders[0] if folders else None):
            held_out = "test" if name.endswith("_03") else "train"
            image = Image(
                name,
                file,
                dataset="CryoNuSeg",
                split=held_out if splits == "coin" else "",
                mpp=CARD.mpp,
                organ=name.removeprefix("Human_").rsplit("_", 1)[0],
            )
            samples.append(Sample(image, truth))
    return samples


def _tissue(path: Path) -> list[Path]:
    return [t for t in search(path, "tissue images") if t.is_dir()]
