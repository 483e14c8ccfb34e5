"""Samples written anew in another layout or format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from coin_ray.data.coco import write_coco
from coin_ray.data.geojson import write_geojson
from coin_ray.data.sample import Sample
from coin_ray.data.write import write_coin_png, write_image, write_label_map, write_overlay
from coin_ray.errors import UserError

KINDS = ("coin", "tif", "folder", "overlay", "geojson", "coco")


def convert(
    samples: Sequence[Sample],
    kind: str,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write all samples to the new folder ``out``; whole or not at all.

    ``coin``: ``<set>/<split>/{image,mask}`` in the PNG code; ``tif``: ``image/`` and ``label/`` as
    compressed tifs; ``folder``: png images and label tifs; ``overlay``, ``geojson``, ``coco``: a
    picture or file of the labels. Splits and sets become folders where there are several.

    Raises:
        UserError: an unknown kind, a folder that exists, whatever reading a sample raises.
    """
    if kind not in KINDS:
        raise UserError("unknown format", expected=", ".join(KINDS), found=kind)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("the folder is not empty", where=str(out), do="take a new one")
    if not samples:
        raise UserError("nothing to convert")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        places = _places(samples, kind)
        for done, (sample, place) in enumerate(zip(samples, places, strict=True), start=1):
            _write(sample, kind, part / place)
            if progress is not None:
                progress(done, len(samples))
        if kind == "coco":
            pairs = ((f"{s.name}.png", s.load_label_map()) for s in samples if s.has_truth)
            write_coco(part / "instances_coco.json", pairs)
        if out.exists():
            out.rmdir()
        part.mkdir(parents=True, exist_ok=True)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _places(samples: Sequence[Sample], kind: str) -> list[Path]:
    """Folder of each sample below the output."""
    sets, splits = ({getattr(s, a) for s in samples} for a in ("dataset", "split"))
    if kind == "coin":
        return [Path(s.dataset or "data") / (s.split or "test") for s in samples]
    return [
        Path(s.dataset if len(sets) > 1 else "") / (s.split if len(splits) > 1 else "")
        for s in samples
    ]


def _write(sample: Sample, kind: str, folder: Path) -> None:
    name = sample.name
    if kind in ("coin", "tif", "folder"):
        suffix = ".tif" if kind == "tif" else ".png"
        write_image(folder / "image" / f"{name}{suffix}", sample.load_image())
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
