"""BRCA: three different things of one name, told apart by ``source``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from coin_ray.data import nucls
from coin_ray.data.card import card, chosen
from coin_ray.data.coin_layout import find as find_in_layout
from coin_ray.data.folder import by_stem, search
from coin_ray.data.pairs import pair
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError

SOURCES = ("m2c", "nucls", "coin")
POINTS = "_gt_class_coords.txt"

CARD = card("brca")


def detect(path: Path) -> bool:
    """The files of BRCA-M2C or of NuCLS; COIN's folders are found by ``coin_layout``."""
    return _source(path) is not None


def find(path: Path, *, source: str | None = None) -> list[Sample]:
    """Samples of one ``source``: m2c, nucls or coin; by default the one that is there."""
    source = chosen("source", source, SOURCES) if source is not None else _source(path)
    if source == "m2c":
        return _m2c(path)
    if source == "nucls":
        return _nucls(path)
    samples = [s for s in find_in_layout(path) if s.dataset == "BRCA"]
    if not samples:
        raise UserError(
            "no BRCA data here",
            where=str(path),
            expected=CARD.layout,
            do="`coin-ray data info brca` says how to get it",
        )
    return samples


def _m2c(path: Path) -> list[Sample]:
    samples = []
    for root in _m2c_roots(path):
        split_of = {}
        for split in ("train", "val", "test"):
            names = root / f"brca_ds_{split}.txt"
            if names.exists():
                split_of.update(dict.fromkeys(names.read_text(encoding="utf-8").split(), split))
        for name, file in by_stem(root / "images").items():
            split = split_of.get(file.name, "")
            image = Image(name, file, dataset="BRCA-M2C", split=split, mpp=0.5, organ="breast")
            samples.append(Sample(image))
    return samples


def _nucls(path: Path) -> list[Sample]:
    samples = []
    for images in _nucls_images(path):
        files, folder = by_stem(images), images.parent / "csv"
        found = by_stem(folder, (".csv",))
        outlines = {n: f for n, f in found.items() if n.lower() != nucls.FIELDS}
        tables = pair(files, outlines, folder)
        for name, file in files.items():
            table = tables.get(name)
            image = Image(
                name,
                file,
                dataset="NuCLS",
                mpp=0.2,
                organ="breast",
                read=partial(nucls.read_field, file, table) if table else None,
                size=partial(nucls.field_size, file, table) if table else None,
            )
            read = partial(nucls.read_truth, table, file) if table else None
            samples.append(Sample(image, table, read))
    return samples


def _source(path: Path) -> str | None:
    if _m2c_roots(path):
        return "m2c"
    return "nucls" if _nucls_images(path) else None


def _m2c_roots(path: Path) -> list[Path]:
    labels = {p.parents[1] for p in search(path, f"labels/*{POINTS}", depth=2)}
    return sorted(root for root in labels if (root / "images").is_dir())


def _nucls_images(path: Path) -> list[Path]:
    return [
        folder
        for name in ("rgb", "rgbs")
        for folder in search(path, name, depth=2)
        if folder.is_dir() and (folder.parent / "csv").is_dir()
    ]
