"""Which label file belongs to which image: one of the same name, else of a close one by rule.

A label map may be called as its image is but for letter case, the form of its accents (NFC, NFD),
an ``.ome`` or the image's suffix in the name (``a.ome.tif``, ``a.tif.png``), and one of LABEL_WORDS
at its beginning or end; an image may have one of IMAGE_WORDS there, which its label map has too
(``image_1_mask``), else not (``mask_1``). No other names are paired.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Container, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from coin_ray.data.geojson import is_geojson
from coin_ray.data.rasters import SUFFIXES
from coin_ray.errors import UserError

LABEL_WORDS = (
    "mask", "masks", "label", "labels", "gt", "groundtruth", "ground_truth",
    "seg", "segmentation", "inst", "instance", "instances",
)  # fmt: skip
"""With ``_``, ``-``, ``.`` or a blank: ``a_mask``, ``a-labels``, ``mask_1``."""
IMAGE_WORDS = ("image", "img")
RULE = (
    "label files named as their images; letter case and _mask, _label, -labels, _gt, _seg or _inst "
    "at an end make no difference"
)


class Unpaired(UserWarning):
    """Some images have no label map, or some label maps no image."""


def match(images: Iterable[str], labels: Iterable[str], *, where: Path) -> dict[str, str]:
    """Stem of an image -> stem of its label map: the same, else the close one by rule.

    Raises:
        UserError: two that are close in the same way.
    """
    images, labels = list(images), list(labels)
    same = {name: name for name in set(images) & set(labels)}
    close_labels = _by_core((n for n in labels if n not in same), LABEL_WORDS)
    pairs = dict(same)
    for words in ((), IMAGE_WORDS):
        taken = {label: image for image, label in pairs.items()}
        close_images = _by_core((n for n in images if n not in pairs), words)
        for name, ours in close_images.items():
            theirs = close_labels.get(name, [])
            ours += [taken[label] for label in theirs if label in taken]
            if theirs and len(ours) + len(theirs) > 2:
                raise UserError(
                    "names that can be paired in more than one way",
                    where=str(where),
                    expected=f"one label map for each image ({RULE})",
                    found=f"images {', '.join(ours)}; label maps {', '.join(theirs)}",
                    do="name each label map exactly as its image, or keep one of them",
                )
            if theirs:
                pairs[ours[0]] = theirs[0]
    return pairs


def check_one_form(
    labels: Mapping[str, Path], where: Path, of: Container[str] | None = None
) -> None:
    """UserError for a label map and outlines of one image (``of`` these cores): which of them was
    corrected?"""
    forms: dict[str, Path] = {}
    for name, file in labels.items():
        own = core(name, LABEL_WORDS)
        other = forms.setdefault(own, file)
        if is_geojson(other) != is_geojson(file) and (of is None or own in of):
            raise UserError(
                "a label map and outlines of one image",
                where=str(where),
                expected="the one that was corrected",
                found=f"{other.name} and {file.name}",
                do="move the other one away",
            )


def pair(images: Mapping[str, Path], labels: Mapping[str, Path], where: Path) -> dict[str, Path]:
    """Stem of an image -> its label file, of those in the folder ``where``; see :func:`match`.

    Images without a label map and label maps without an image are legal and warned of, as long as
    the names leave no doubt: where there are both, one may belong to the other.

    Raises:
        UserError: images and label maps that are both left over (the nearest names are said), a
            label map and outlines of one image, or an ambiguous name.
    """
    pairs = match(images, labels, where=where)
    alone = [name for name in images if name not in pairs]
    known = cores(pairs)
    check_one_form(labels, where, known)
    spare = [
        name
        for name in labels.keys() - set(pairs.values())
        if core(name, LABEL_WORDS) not in known  # else only another version of a label map
    ]
    if alone and spare:
        raise UserError(
            f"{len(alone)} of {len(images)} images have no label map, and {len(spare)} of "
            f"{len(labels)} label maps no image",
            where=str(where),
            expected=RULE,
            found="; ".join(_nearest(images[name].name, name, labels, spare) for name in alone[:3]),
            do="rename the label maps, or move away what does not belong here",
        )
    if alone and pairs:
        _warn(f"{len(alone)} of {len(images)} images have no label map", alone, where)
    if spare:
        _warn(f"{len(spare)} of {len(labels)} label maps have no image", sorted(spare), where)
    return {image: labels[label] for image, label in pairs.items()}


def core(name: str, words: tuple[str, ...]) -> str:
    """What two names have in common that belong together; ``words`` are those of its kind."""
    return bare(unicodedata.normalize("NFC", name), words).casefold()


def bare(name: str, words: tuple[str, ...]) -> str:
    """A name without the suffix and the one of ``words`` that stand in it."""
    text, word = name.strip(), "|".join(words)
    patterns = (_SUFFIX, rf"^({word})[ _.-]+|[ _.-]+({word})$", _SUFFIX) if words else (_SUFFIX,)
    for pattern in patterns:
        text = re.sub(pattern, "", text, flags=re.IGNORECASE) or text
    return text


def cores(images: Iterable[str]) -> set[str]:
    """What the label maps of these images may be called, without the words of label maps."""
    return {core(name, words) for name in images for words in ((), IMAGE_WORDS)}


_SUFFIX = rf"(\.ome)?({'|'.join(re.escape(s) for s in SUFFIXES)})?$"


def _by_core(names: Iterable[str], words: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(core(name, words), []).append(name)
    return found


def _nearest(file: str, name: str, labels: Mapping[str, Path], spare: list[str]) -> str:
    cores = {core(other, LABEL_WORDS): other for other in sorted(spare)}
    near = get_close_matches(core(name, IMAGE_WORDS), cores, n=1, cutoff=0)
    return f"image {file} (the nearest label map is {labels[cores[near[0]]].name})"


def _warn(what: str, names: list[str], where: Path) -> None:
    warnings.warn(f"{what} in {where} (first: {names[0]})", Unpaired, stacklevel=4)
