"""``coin-ray evaluate``: predicted label maps against true ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray import safe
from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError
from coin_ray.files import check_new_file

if TYPE_CHECKING:
    from coin_ray.data.sample import Sample
    from coin_ray.outputs import Output

Predictions = Annotated[Path, typer.Argument(help="a folder of predicted label maps")]
Truth = Annotated[
    Path,
    typer.Argument(
        help="a folder of true label maps or GeoJSON, or a data set with image/ and label/"
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="per-image values as CSV")]
PredictedBinary = Annotated[
    options.How | None,
    typer.Option("--binary-predictions", metavar="HOW", help="--binary of the predictions"),
]
Mpp = Annotated[
    float | None,
    typer.Option(help="um per pixel, for a watershed of masks; default: what the files state"),
]
SHOWN = ("aji", "pq", "dice", "iou", "miou", "fn", "fp")
"""Printed; the file of --out holds every metric."""


def evaluate(
    predictions: Predictions,
    truth: Truth,
    out: Out = None,
    binary: options.Binary = None,
    binary_predictions: PredictedBinary = None,
    mpp: Mpp = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Compare label maps of the same name: every metric per image and its mean over images.

    Label maps or GeoJSON that a person corrected after `segment` are a truth as any other. An image
    that is empty in truth and prediction is skipped, and counted.
    """
    from coin_ray.cli.screen.output import console
    from coin_ray.data.label_files import read_label_map
    from coin_ray.data.resolution import pixel_scale
    from coin_ray.data.sample import turned_apart, with_binary
    from coin_ray.metrics.evaluate import evaluate as compare
    from coin_ray.metrics.settings import Evaluate
    from coin_ray.outputs import claim_file

    check_new_file(out)
    pairs = matched(predictions, truth, mpp)
    inputs = [path for path, _ in pairs.values()]
    inputs += [sample.truth_path for _, sample in pairs.values() if sample.truth_path is not None]
    output = claim_file(out, inputs=inputs, overwrite=overwrite) if out is not None else None
    values = {}
    for name, (predicted, sample) in pairs.items():
        true = (with_binary(sample, binary) if binary else sample).load_label_map()
        scale = pixel_scale(sample.mpp)
        found = read_label_map(predicted, true.shape, binary=binary_predictions, scale=scale)
        values[name] = compare(true, found, Evaluate(adjacency_radius=None), official=False)
        assert sample.truth_path is not None
        turned = sample.turned_apart() or turned_apart(sample.truth_path, predicted)
        if turned:
            say(f"warning: {turned}", err=True)
    console().print(_table(values))
    if output is not None and out is not None:
        _write(output, out.name, values)
        say(f"wrote {out}")


def matched(
    predictions: Path, truth: Path, mpp: float | None = None
) -> dict[str, tuple[Path, Sample]]:
    """Name -> predicted file and sample of every image that has a truth; names are paired as label
    maps and images are.

    Raises UserError when a truth has no prediction: a mean without it would be too good.
    """
    from coin_ray.data.folder import by_stem, find_samples
    from coin_ray.data.pairs import LABEL_WORDS, bare, match
    from coin_ray.data.resolution import MissingMpp

    if not predictions.is_dir():
        there = "a file" if predictions.exists() else "nothing of that name"
        raise UserError(
            "no folder of predictions",
            where=str(predictions),
            expected="a folder of label maps, a file an image",
            found=there,
            do="check the path",
        )
    found = by_stem(predictions)
    truths = _outlines(truth)
    if not truths or (truth.is_dir() and by_stem(truth)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MissingMpp)  # No metric depends on the resolution.
            samples = find_samples(truth, mpp)
        labelled = {s.name: s for s in samples if s.has_truth}
        # A bare folder of label maps reads as images without labels.
        alone = {s.name: replace(s, truth_path=s.image.path) for s in samples}
        called = {n: n if n in found else bare(n, LABEL_WORDS) for n in alone}
        if len(set(called.values())) == len(alone):
            alone = {called[name]: sample for name, sample in alone.items()}
        truths |= labelled or alone
    pairs = match(truths, found, where=predictions)
    lacking = [name for name in truths if name not in pairs]
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(truths)} images have no prediction",
            where=str(predictions),
            expected=", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else ""),
            found=", ".join(list(found)[:5]) or "no label map",
            do="predict all images, or leave the others out of the truth folder",
        )
    return {name: _pair(found[pairs[name]], sample) for name, sample in truths.items()}


def _outlines(truth: Path) -> dict[str, Sample]:
    """A file of GeoJSON, or those of a folder that is no data set."""
    from coin_ray.data.folder import IMAGE_FOLDERS, by_stem, subfolder
    from coin_ray.data.geojson import SUFFIXES
    from coin_ray.data.label_files import LABEL_SUFFIXES
    from coin_ray.data.pairs import check_one_form
    from coin_ray.data.sample import Image, Sample

    files: dict[str, Path] = {}
    if truth.is_dir() and subfolder(truth, IMAGE_FOLDERS) is None:
        check_one_form(by_stem(truth, LABEL_SUFFIXES), truth)
        files = by_stem(truth, SUFFIXES)
    elif truth.is_file():
        files = {k: f for k, f in by_stem(truth.parent, SUFFIXES).items() if f == truth}
    return {name: Sample(Image(name, file), truth_path=file) for name, file in files.items()}


def _pair(predicted: Path, sample: Sample) -> tuple[Path, Sample]:
    from coin_ray.data.geojson import is_geojson

    if is_geojson(sample.image.path):  # outlines alone are of the prediction's size
        sample = replace(sample, image=replace(sample.image, path=predicted))
    return predicted, sample


def _table(values: Mapping[str, Mapping[str, float]]) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from coin_ray.report.values.tidy import TITLES
    from coin_ray.statistics.intervals import estimate

    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("image", overflow="fold")  # names of tiles differ at their ends
    for metric in SHOWN:
        table.add_column(TITLES[metric], justify="right", no_wrap=True)
    for name, row in values.items():
        table.add_row(name, *(_number(row[metric]) for metric in SHOWN))
    table.add_section()
    means, lows, highs = [], [], []
    for metric in SHOWN:
        valid = [[row[metric]] for row in values.values() if not math.isnan(row[metric])]
        whole = estimate(valid) if valid else None
        means.append("–" if whole is None else _number(whole.mean))
        lows.append(_number(math.nan if whole is None or whole.low is None else whole.low))
        highs.append(_number(math.nan if whole is None or whole.high is None else whole.high))
    skipped = sum(math.isnan(row["aji"]) for row in values.values())
    counted = f"mean of {len(values) - skipped}" + (f", {skipped} skipped" if skipped else "")
    table.add_row(counted, *means, style="bold")
    table.add_row("95 % interval, from", *lows, style="dim")
    table.add_row("to", *highs, style="dim")
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _write(output: Output, name: str, values: Mapping[str, Mapping[str, float]]) -> None:
    import csv

    names = list(next(iter(values.values())))
    with output.file(name) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *names])
        writer.writerows(
            [safe.cell(name), *(row[n] for n in names)] for name, row in values.items()
        )
