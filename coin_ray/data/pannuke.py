"""PanNuke: three folds of 256 x 256 patches in NumPy arrays, read one patch at a time."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.card import card, chosen
from coin_ray.data.folder import search
from coin_ray.data.images import Image8
from coin_ray.data.rasters import decoding, items_shape
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap, relabel

CLASSES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
"""Channels 0 to 4 of the masks; channel 5 is the background and holds no instance."""

CARD = card("pannuke")


def detect(path: Path) -> bool:
    """An array of images."""
    return bool(search(path, "images.npy", depth=4))


def find(path: Path, *, splits: str = "folds", fold: int | str | None = None) -> list[Sample]:
    """Samples ``fold<k>_<index>`` of every fold below ``path``, or of one ``fold``.

    ``splits``: folds (split is fold1 ...) or coin (train, test).
    """
    chosen("splits", splits, ("folds", "coin"))
    samples: list[Sample] = []
    seen = []
    for images in search(path, "images.npy", depth=4):
        number = _number(images)
        seen.append(number)
        if fold is not None and number != int(fold):
            continue
        split = f"fold{number}" if splits == "folds" else ("test" if number == 3 else "train")
        samples += _fold(images, f"fold{number}", split)
    if not samples:
        raise UserError(
            "no such fold" if seen else "no fold of PanNuke here",
            where=str(path),
            expected=f"one of the folds {sorted(seen)}"
            if seen
            else "images.npy in a fold's folder",
            found=f"fold {fold}",
        )
    return samples


def _fold(images: Path, fold: str, split: str) -> list[Sample]:
    patches = open_array(images, (256, 256, 3))
    masks = _beside(images, "masks.npy")
    if masks is not None and len(open_array(masks, (256, 256, 6))) != len(patches):
        raise UserError(
            "images and masks differ in number",
            where=str(masks),
            expected=f"{len(patches)} patches",
            found=f"{len(open_array(masks, (256, 256, 6)))}",
        )
    tissues = _tissues(images.with_name("types.npy"), len(patches))
    return [
        Sample(
            Image(
                f"{fold}_{i:04d}",
                images,
                dataset="PanNuke",
                split=split,
                mpp=CARD.mpp,
                organ=tissues[i],
                index=i,
                read=partial(read_patch, images, i),
                size=partial(items_shape, images),
            ),
            masks,
            partial(read_truth, masks, i) if masks is not None else None,
        )
        for i in range(len(patches))
    ]


def open_array(path: Path, item: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map an array (N, *item); UserError for a truncated, pickled or other one."""
    with decoding(path):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.shape[1:] != item or array.dtype.kind not in "uif":
        raise UserError(
            "no fold of PanNuke",
            where=str(path),
            expected=f"(N, {', '.join(map(str, item))}) of numbers",
            found=f"{array.shape} {array.dtype}",
        )
    return array


def read_patch(path: Path, index: int) -> Image8:
    """Patch ``index`` as (256, 256, 3) uint8."""
    patch = _whole(path, index, open_array(path, (256, 256, 3))[index])
    if patch.max() > 255:
        raise UserError(
            f"patch {index} is no 8-bit image",
            where=str(path),
            expected="values 0 to 255",
            found=f"up to {patch.max()}",
        )
    return patch.astype(np.uint8)


def read_truth(path: Path, index: int, shape: tuple[int, int]) -> LabelMap:
    """The nuclei of patch ``index``, all classes in one label map."""
    return merge_classes(_whole(path, index, open_array(path, (*shape, 6))[index]))


def merge_classes(masks: NDArray[Any]) -> LabelMap:
    """(H, W, 6) ids by class -> one label map; a pixel claimed twice goes to the first class."""
    out = np.zeros(masks.shape[:2], dtype=np.int64)
    offset = 0
    for channel in range(len(CLASSES)):
        ids = masks[..., channel].astype(np.int64)
        free = (out == 0) & (ids > 0)
        out[free] = ids[free] + offset
        offset += int(ids.max(initial=0))
    return relabel(out)


def _whole(path: Path, index: int, values: NDArray[Any]) -> NDArray[Any]:
    rounded = np.rint(values)
    if not np.array_equal(rounded, values) or values.min(initial=0) < 0:
        raise UserError(f"patch {index} holds fractions or negative numbers", where=str(path))
    return rounded


def _tissues(path: Path, count: int) -> list[str | None]:
    if not path.exists():
        return [None] * count
    with decoding(path):
        types = np.load(path, allow_pickle=False)
    if types.shape != (count,):
        raise UserError(
            "tissue types and images differ in number",
            where=str(path),
            expected=f"({count},)",
            found=f"{types.shape}",
        )
    return [str(t) for t in types]


def _number(images: Path) -> int:
    """Fold of an array, from the nearest folder name with a digit (fold1, Fold 1, fold_1)."""
    for folder in images.parents:
        digits = re.search(r"fold[ _-]?(\d+)", folder.name, re.IGNORECASE)
        if digits:
            return int(digits.group(1))
    raise UserError(
        "fold unknown", where=str(images), expected="a folder named fold1 or the like above it"
    )


def _beside(images: Path, name: str) -> Path | None:
    """masks.npy in the same folder, or in the same place below masks/ instead of images/."""
    if images.with_name(name).exists():
        return images.with_name(name)
    for above in images.parents:
        if above.name.lower() == "images":
            found = above.parent / "masks" / images.relative_to(above).with_name(name)
            return found if found.exists() else None
    return None
