"""``coin-ray evaluate``: predicted label maps against true ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from coin_ray.errors import UserError

Predictions = Annotated[Path, typer.Argument(help="a folder of predicted label maps")]
Truth = Annotated[
    Path, typer.Argument(help="a folder of true label maps, or a data set with image/ and label/")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="per-image values as CSV")]
SHOWN = ("aji", "pq", "dice", "iou", "miou", "fn", "fp")
"""Printed; the file of --out holds every metric."""


def evaluate(predictions: Predictions, truth: Truth, out: Out = None) -> None:
    """Compare label maps of the same name: every metric per image and its mean over images.

    An image that is empty in truth and prediction is skipped, and counted.
    """
    from coin_ray.cli.results import console
    from coin_ray.data.label_files import read_label_map
    from coin_ray.metrics.evaluate import evaluate as compare

    pairs = matched(predictions, truth)
    values = {}
    for name, (predicted, true) in pairs.items():
        expected = read_label_map(true)
        values[name] = compare(expected, read_label_map(predicted, expected.shape), official=False)
    console().print(_table(values))
    if out is not None:
        _write(out, values)
        typer.echo(f"wrote {out}")


def matched(predictions: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> (predicted, true) file of every image that has a truth.

    Raises UserError when a truth has no prediction: a mean without it would be too good.
    """
    from coin_ray.data.folder import by_stem, find_samples

    if not predictions.is_dir():
        raise UserError("no such folder", where=str(predictions), do="check the path")
    samples = find_samples(truth, mpp=0.25)  # No metric depends on the resolution.
    labelled = {s.name: s.truth_path for s in samples if s.truth_path is not None}
    # A bare folder of label maps reads as images without labels.
    truths = labelled or {s.name: s.image.path for s in samples}
    found = by_stem(predictions)
    lacking = [name for name in truths if name not in found]
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(truths)} images have no prediction",
            where=str(predictions),
            expected=", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else ""),
            found=", ".join(list(found)[:5]) or "no label map",
            do="predict all images, or leave the others out of the truth folder",
        )
    return {name: (found[name], path) for name, path in truths.items()}


def _table(values: Mapping[str, Mapping[str, float]]) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from coin_ray.report.tables import TITLES
    from coin_ray.study.statistics.intervals import estimate

    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("image", no_wrap=True)
    for metric in SHOWN:
        table.add_column(TITLES[metric], justify="right", no_wrap=True)
    for name, row in values.items():
        table.add_row(name, *(_number(row[metric]) for metric in SHOWN))
    table.add_section()
    means, bounds = [], []
    for metric in SHOWN:
        valid = [[row[metric]] for row in values.values() if not math.isnan(row[metric])]
        whole = estimate(valid) if valid else None
        means.append("–" if whole is None else _number(whole.mean))
        spread = whole is not None and whole.low is not None and whole.high is not None
        bounds.append(f"{whole.low:.3f}–{whole.high:.3f}" if whole and spread else "")
    skipped = sum(math.isnan(row["aji"]) for row in values.values())
    counted = f"mean of {len(values) - skipped}" + (f", {skipped} skipped" if skipped else "")
    table.add_row(counted, *means, style="bold")
    table.add_row("95 % interval", *bounds, style="dim")
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _write(out: Path, values: Mapping[str, Mapping[str, float]]) -> None:
    import csv

    names = list(next(iter(values.values())))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *names])
        writer.writerows([name, *(row[n] for n in names)] for name, row in values.items())
