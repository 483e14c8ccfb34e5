"""Samples written anew in another layout or format."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coin_ray.data.coco import write_coco
from coin_ray.data.geojson import write_geojson
from coin_ray.data.sample import Sample
from coin_ray.data.write import write_coin_png, write_image, write_label_map, write_overlay
from coin_ray.errors import UserError
from coin_ray.files import scratch

KINDS = ("coin", "tif", "folder", "overlay", "geojson", "coco")
OF_LABELS = ("overlay", "geojson", "coco")
"""Formats that an image without a label map has no place in."""


def convert(
    samples: Sequence[Sample],
    kind: str,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write all samples to the new folder ``out``; whole or not at all.

    ``coin``: ``<set>/<split>/{image,mask}`` in the PNG code; ``tif``: ``image/`` and ``label/`` as
    compressed tifs; ``folder``: png images and label tifs; ``overlay``, ``geojson``, ``coco``: a
    picture or file of the labels. Splits and sets become folders where there are several.

    Returns the names of images without a label map, which the last three formats leave out.

    Raises:
        UserError: an unknown kind, a folder that exists, two samples that would be one file, no
            label map for a format of labels, whatever reading a sample raises.
    """
    if kind not in KINDS:
        raise UserError("unknown format", expected=", ".join(KINDS), found=kind)
    if not samples:
        raise UserError("nothing to convert")
    bare = [s.name for s in samples if not s.has_truth]
    if kind in OF_LABELS and len(bare) == len(samples):
        raise UserError(
            f"no image has a label map, of which a conversion to {kind} is made",
            where=str(samples[0].image.path.parent),
            found=f"{len(samples)} images without",
            do="`coin-ray data check` says what was looked at",
        )
    places = _places(samples, kind)
    with _new_folder(out) as part:
        for done, (sample, place) in enumerate(zip(samples, places, strict=True), start=1):
            _write(sample, kind, part / place)
            if progress is not None:
                progress(done, len(samples))
        if kind == "coco":
            labelled = [s for s in samples if s.has_truth]
            names = _file_names(labelled, part)
            pairs = ((n, s.load_label_map()) for n, s in zip(names, labelled, strict=True))
            write_coco(part / "instances_coco.json", pairs)
    return bare


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``out``, new or empty, when the body ends."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            "the folder is not empty" if out.is_dir() else "not a folder",
            where=str(out),
            expected="a new folder",
            do="take another one",
        )
    there = out.is_dir()  # it may be a link or where a disk is mounted: it stays, and is filled
    out.parent.mkdir(parents=True, exist_ok=True)
    part = scratch(out / "folder" if there else out)
    try:
        part.mkdir()
        yield part
        if there:
            for child in part.iterdir():
                child.rename(out / child.name)
        else:
            part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _file_names(samples: Sequence[Sample], folder: Path) -> list[str]:
    """Where the image of each sample is, as COCO names it: its file, relative to the folder that
    holds all of them. What is no picture file of its own (cut, or one of many in an array) is
    written to ``images/``."""
    own = [s.image.path.absolute() for s in samples if _is_file(s)]
    root = Path(os.path.commonpath([p.parent for p in own])) if own else Path()
    names = []
    for sample, place in zip(samples, _places(samples, "coco"), strict=True):
        if _is_file(sample):
            names.append(sample.image.path.absolute().relative_to(root).as_posix())
            continue
        name = Path("images") / place / f"{sample.name}.png"
        write_image(folder / name, sample.load_image(), mpp=sample.mpp)
        names.append(name.as_posix())
    return names


def _is_file(sample: Sample) -> bool:
    return sample.image.index is None and sample.image.read is None


def _places(samples: Sequence[Sample], kind: str) -> list[Path]:
    """Folder of each sample below the output; UserError for two of one name in one folder."""
    sets, splits = ({getattr(s, a) for s in samples} for a in ("dataset", "split"))
    if kind == "coin":
        places = [Path(s.dataset or "data") / (s.split or "test") for s in samples]
    else:
        # What has no split must not become the folder that holds the others.
        places = [
            Path((s.dataset or "data") if len(sets) > 1 else "")
            / ((s.split or "no split") if len(splits) > 1 else "")
            for s in samples
        ]
    seen: dict[str, Sample] = {}
    for sample, place in zip(samples, places, strict=True):
        # In any letter case: the folder may be copied to where that makes no difference.
        name = unicodedata.normalize("NFC", str(place / sample.name)).casefold()
        other = seen.setdefault(name, sample)
        if other is not sample:
            raise UserError(
                "two images would become one file",
                where=f"{place / sample.name}",
                expected="names that differ, in more than letter case",
                found=f"{other.image.path} and {sample.image.path}",
                do="rename one, remove the copy, or convert their folders one at a time",
            )
    return places


def _write(sample: Sample, kind: str, folder: Path) -> None:
    name = sample.name
    if kind in ("coin", "tif", "folder"):
        suffix = ".tif" if kind == "tif" else ".png"
        write_image(folder / "image" / f"{name}{suffix}", sample.load_image(), mpp=sample.mpp)
    if not sample.has_truth:
        return
    if kind == "coco":
        return  # one file for all
    label_map = sample.load_label_map()
    if kind == "coin":
        write_coin_png(folder / "mask" / f"{name}.png", label_map)
    elif kind == "overlay":
        write_overlay(folder / f"{name}.png", sample.load_image(), label_map)
    elif kind == "geojson":
        write_geojson(folder / f"{name}.geojson", label_map, mpp=sample.mpp)
    else:
        write_label_map(folder / "label" / f"{name}.tif", label_map)
