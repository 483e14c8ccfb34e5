"""Find every problem of a data set at once, before any time is spent on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coin_ray import safe
from coin_ray.data.folder import visible
from coin_ray.data.geojson import is_geojson
from coin_ray.data.label_files import label_raster, raw_ids, read_label_map
from coin_ray.data.sample import Sample
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """An ``error`` makes results wrong or stops a run; a ``warning`` may; a ``note`` does not."""

    level: Level
    where: str
    what: str


@dataclass(frozen=True)
class Report:
    """All problems, in the order of the samples, and a row of facts for each readable sample."""

    problems: tuple[Problem, ...]
    rows: tuple[dict[str, Any], ...]

    def count(self, level: Level) -> int:
        return sum(p.level == level for p in self.problems)

    @property
    def ok(self) -> bool:
        return not self.count("error")


def check(
    samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Read every image and label map once.

    Errors: unreadable files, wrong channels or types, labels of another size, one image in two
    splits. Warnings: missing or orphaned label maps, two copies in a split, an 8-bit label map that
    ends at its limit, no nucleus at all, different orientations, a sparse label tif. Notes: ids
    with gaps (mended on reading), unknown mpp.
    """
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []
    for done, sample in enumerate(samples, start=1):
        row = _check_sample(sample, problems)
        if row is not None:
            rows.append(row)
        if progress is not None:
            progress(done, len(samples))
    problems += [*_pairs(samples), *_copies(rows)]
    unknown = [s for s in samples if s.mpp is None]
    if unknown:
        what = f"resolution unknown for {len(unknown)} of {len(samples)} images; say --mpp"
        problems.append(Problem("note", str(unknown[0].image.path), what))
    return Report(tuple(problems), tuple(rows))


def _check_sample(sample: Sample, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        image = sample.load_image()
    except UserError as error:
        problems.append(_problem(error))
        return None
    row: dict[str, Any] = {
        "name": sample.name,
        "dataset": sample.dataset,
        "split": sample.split,
        "mpp": sample.mpp,
        "organ": sample.image.organ,
        "height": image.shape[0],
        "width": image.shape[1],
        "image": str(sample.image.path),
        "image_digest": sample.image.digest(),
        "pixels_digest": hashlib.sha256(image.tobytes()).hexdigest(),
    }
    if sample.truth_path is None:
        return row
    try:
        label_map = sample.load_label_map()
    except UserError as error:
        problems.append(_problem(error))
        return row
    row |= {
        "label": str(sample.truth_path),
        "label_digest": sample.truth_digest(),
        "nuclei": int(label_map.max(initial=0)),
    }
    problems += _labels(sample, label_map)
    return row


def _labels(sample: Sample, label_map: LabelMap) -> Iterator[Problem]:
    where = str(sample.truth_path)
    if not label_map.any():
        yield Problem("warning", where, f"{sample.name}: no nucleus; counted as empty")
    turned = sample.turned_apart()
    if turned:
        yield Problem("warning", where, turned)
    if sample.truth_path is None or is_geojson(sample.truth_path):
        return
    if sample.read_truth is None or sample.read_truth.func is read_label_map:
        absent = label_raster(sample.truth_path).absent
        if absent:
            what = f"a sparse tif: {absent:,} of its tiles are absent, read as background"
            yield Problem("warning", where, what)
    if sample.read_truth is not None:
        return
    raw = raw_ids(sample.truth_path)
    ids = np.unique(raw)
    ids = ids[ids > 0]
    if len(ids) and ids[-1] != len(ids):
        what = (
            f"ids have gaps: {len(ids)} nuclei, largest id {ids[-1]} (made contiguous on reading)"
        )
        yield Problem("note", where, what)
    if raw.dtype == np.uint8 and len(ids) and ids[-1] == 255:
        yield Problem("warning", where, "ids end at 255, the limit of 8 bits: were there more?")


def _pairs(samples: Sequence[Sample]) -> Iterator[Problem]:
    """Images without labels where others have them, and labels without an image."""
    with_truth = [s for s in samples if s.has_truth]
    if not with_truth:
        return
    for sample in samples:
        if not sample.has_truth:
            yield Problem(
                "warning", str(sample.image.path), "no label map, although others have one"
            )
    used = {s.truth_path for s in with_truth if s.image.index is None}
    known = used | {s.image.path for s in samples}
    kinds = {(p.parent, p.suffix) for p in used if p is not None}
    for folder, suffix in sorted(kinds, key=str):
        for file in sorted(folder.glob(f"*{safe.pattern(suffix)}")):
            # in a folder of its own a label file without an image is a missing image
            if file not in known and visible(file) and not file.name.lower().startswith("all_fov"):
                yield Problem("warning", str(file), "a label map without an image")


def _copies(rows: Sequence[dict[str, Any]]) -> Iterator[Problem]:
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        other = first.setdefault(row["pixels_digest"], row)
        if other is row:
            continue
        apart = (other["dataset"], other["split"]) != (row["dataset"], row["split"])
        place = f"{other['image']} ({other['dataset']} {other['split']})".replace(" )", ")")
        yield Problem(
            "error" if apart else "warning",
            row["image"],
            f"{row['name']}: the same pixels as {place}"
            + ("; trained on and tested on" if apart else ""),
        )


def _problem(error: UserError) -> Problem:
    text = "; ".join(
        t
        for t in (
            error.what,
            error.expected and f"expected {error.expected}",
            error.found and f"found {error.found}",
            error.do,
        )
        if t
    )
    return Problem("error", error.where, text)
