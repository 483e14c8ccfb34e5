"""The folders of the COIN repository: ``<set>/<split>/{image,mask}/<name>``, PanNuke by folds."""

from __future__ import annotations

from pathlib import Path

from coin_ray.data.card import card, chosen
from coin_ray.data.folder import folder_samples, visible
from coin_ray.data.sample import Sample, unique_names

SETS: dict[str, float | None] = {
    "BRCA": None,
    "CPM-17": None,
    "CryoNuSeg": 0.25,
    "MoNuSeg": 0.25,
    "PanNuke": 0.25,
    "TNBC": 0.25,
}
SPLITS = ("train", "test", "Fold1", "Fold2", "Fold3")

CARD = card("coin_layout")


def detect(path: Path) -> bool:
    """A root with known sets, one set, or one split of a set."""
    return bool(_folders(path))


def find(path: Path, *, masks: str = "mask") -> list[Sample]:
    """All samples below ``path``, by set, split and name.

    ``masks`` names the folder of label maps (mask, mask_instance, mask_semantic, mask_adjacent);
    those of ``mask_semantic`` are split into connected components.
    """
    chosen("masks", masks, ("mask", "mask_instance", "mask_semantic", "mask_adjacent"))
    samples: list[Sample] = []
    for name, split, folder in _folders(path):
        samples += folder_samples(
            folder,
            dataset=name,
            split=split,
            mpp=SETS[name],
            labels=masks,
            binary="components" if masks == "mask_semantic" else None,
        )
    return unique_names(samples)


def _folders(path: Path) -> list[tuple[str, str, Path]]:
    """(set, split, folder) of every split folder that has an ``image/``."""
    path = path.absolute()
    if path.name in SPLITS and path.parent.name in SETS:
        candidates = [path]
    elif path.name in SETS:
        candidates = [path / split for split in SPLITS]
    else:
        roots = (path, path / "data")
        candidates = [root / name / split for root in roots for name in SETS for split in SPLITS]
    return [(f.parent.name, f.name, f) for f in candidates if _has_images(f / "image")]


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(map(visible, folder.iterdir()))
