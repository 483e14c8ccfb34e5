"""CryoNuSeg: nuclei in frozen sections, three mark-ups by two annotators."""

from __future__ import annotations

from pathlib import Path

from coin_ray.data.card import Card
from coin_ray.data.folder import by_stem, search
from coin_ray.data.options import chosen
from coin_ray.data.pairs import pair
from coin_ray.data.sample import Image, Sample

RATERS = {
    "biologist": "Annotator 1 (biologist)",
    "biologist2": "Annotator 1 (biologist second round of manual marks up)",
    "bioinformatician": "Annotator 2 (bioinformatician)",
}
LABELS = "label masks modify"

CARD = Card(
    name="cryonuseg",
    title="CryoNuSeg: nuclei in cryosectioned H&E of 10 organs, 40x",
    url="https://www.kaggle.com/ipateam/segmentation-of-nuclei-in-cryosectioned-he-images",
    licence="CC BY-NC-SA 4.0",
    citation="Mahbod et al., Computers in Biology and Medicine 132, 2021",
    layout="'tissue images/Human_<Organ>_0{1,2,3}.tif', '<annotator>[/<annotator>]/" + LABELS + "'",
    mpp=0.25,
    counts={"train": 20, "test": 10},
    splits={
        "coin": "*_01 and *_02 for training, *_03 for testing",
        "none": "the owners cross-validate",
    },
    traps=(
        "'label masks' adds overlapping ids, which makes phantom nuclei: '" + LABELS + "' is read",
        "ids have gaps",
        "three mark-ups (rater=biologist, biologist2, bioinformatician) show how far people agree",
    ),
    steps=(
        "log in at the page above (Kaggle) and download the archive",
        "or: kaggle datasets download ipateam/segmentation-of-nuclei-in-cryosectioned-he-images",
        "unpack it",
    ),
)


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
        files = by_stem(tissue)
        truths = pair(files, by_stem(folders[0]), folders[0]) if folders else {}
        for name, file in files.items():
            held_out = "test" if name.endswith("_03") else "train"
            image = Image(
                name,
                file,
                dataset="CryoNuSeg",
                split=held_out if splits == "coin" else "",
                mpp=CARD.mpp,
                organ=name.removeprefix("Human_").rsplit("_", 1)[0],
            )
            samples.append(Sample(image, truths.get(name)))
    return samples


def _tissue(path: Path) -> list[Path]:
    return [t for t in search(path, "tissue images") if t.is_dir()]
