"""CPM-17: png images and MATLAB label maps, as shared by the authors of HoVer-Net."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from coin_ray.data.card import Card
from coin_ray.data.folder import by_stem, search
from coin_ray.data.pairs import pair
from coin_ray.data.rasters import check_size, decoding
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap, relabel

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMERIC = ("double", "single", "logical", *INTEGERS)

CARD = Card(
    name="cpm17",
    title="CPM-17: MICCAI 2017 digital pathology challenge, four kinds of tumour",
    url="https://github.com/vqdang/hover_net/issues/5",
    licence="unstated; ask the organisers before redistribution",
    citation="Vu et al., Frontiers in Bioengineering and Biotechnology 7:53, 2019",
    layout="cpm17/{train,test}/{Images/image_NN.png, Labels/image_NN.mat}; inst_map in the mat",
    mpp=None,
    counts={"train": 32, "test": 32},
    splits={"owners": "32 training and 32 test images", "coin": "the same"},
    traps=(
        "both splits use the names image_00 to image_31, so names here start with the split",
        "20x and 40x are mixed and not stated: say --mpp if you know it",
    ),
    steps=(
        "open the thread above; it links a Google Drive folder",
        "download its cpm17 folder as a zip and unpack it",
    ),
)


def detect(path: Path) -> bool:
    """MATLAB labels beside images."""
    return bool(_labels(path))


def find(path: Path) -> list[Sample]:
    """Samples named ``<split>_image_NN``."""
    samples = []
    for labels in _labels(path):
        split = labels.parent.name.lower()
        files = by_stem(labels.parent / "Images")
        truths = pair(files, by_stem(labels, (".mat",)), labels)
        for stem, file in files.items():
            name = f"{split}_{stem}"
            image = Image(name, file, dataset="CPM-17", split=split, mpp=CARD.mpp)
            truth = truths.get(stem)
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
