"""CPM-17: png images and MATLAB label maps, as shared by the authors of HoVer-Net."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from coin_ray.data.card import card
from coin_ray.data.folder import labelled, search
from coin_ray.data.rasters import check_size, decoding
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap, relabel

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMERIC = ("double", "single", "logical", *INTEGERS)

CARD = card("cpm17")


def detect(path: Path) -> bool:
    """MATLAB labels beside images."""
    return bool(_labels(path))


def find(path: Path) -> list[Sample]:
    """Samples named ``<split>_image_NN``."""
    samples = []
    for labels in _labels(path):
        split = labels.parent.name.lower()
        for stem, file, truth in labelled(labels.parent / "Images", labels, (".mat",)):
            image = Image(f"{split}_{stem}", file, dataset="CPM-17", split=split, mpp=CARD.mpp)
            samples.append(Sample(image, truth, partial(read_truth, truth) if truth else None))
    return samples


def read_truth(path: Path, shape: tuple[int, int]) -> LabelMap:
    """``inst_map`` of a MATLAB file: a plain numeric matrix; nothing else in it is opened."""
    from scipy.io import loadmat, whosmat

    with decoding(path):
        found = {name: (dims, kind) for name, dims, kind in whosmat(str(path))}
        dims, kind = found.get("inst_map", ((), ""))
        if len(dims) != 2 or kind not in NUMERIC:
            raise UserError(
                "no label map in this MATLAB file",
                where=str(path),
                expected="a numeric matrix inst_map (height, width)",
                found=", ".join(f"{n} {k} {d}" for n, (d, k) in found.items()) or "no variable",
                do="save it with `save(file, 'inst_map', '-v7')`",
            )
        check_size(path, dims)
        array = np.asarray(loadmat(str(path), variable_names=["inst_map"])["inst_map"])
    ids = np.rint(array)
    if not np.array_equal(ids, array) or ids.min(initial=0) < 0 or not np.isfinite(ids).all():
        raise UserError(
            "inst_map holds no ids", where=str(path), expected="whole numbers from 0 on"
        )
    return relabel(ids.astype(np.int64))


def _labels(path: Path) -> list[Path]:
    """Folders of mats with their images beside them."""
    return sorted(
        {m.parent for m in search(path, "Labels/*.mat") if (m.parents[1] / "Images").is_dir()}
    )
