"""A few overlays of a study, small enough to travel inside its page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from coin_ray.data.dataset import DataSpec
from coin_ray.report.document.blocks import Photo
from coin_ray.report.panels import middles
from coin_ray.report.values.tidy import at_end
from coin_ray.study.resolved import ResolvedStudy, StudyCell

LEGEND = (
    "The middle of each picture: the image; in yellow the coarse mask; in blue the accepted pseudo "
    "labels, where the image was trained on; in green the prediction, the truth in white."
)
IMAGES = 3
SHEETS = 12
"""Most pictures on a page."""
SIDE = 256
"""Pixels of the window that is cut out of each panel: outlines are a pixel wide, and gone from a
picture that was made smaller."""


def gallery(study: ResolvedStudy, frame: pl.DataFrame, runs: Path, best: str | None) -> list[Photo]:
    """The middle of overlays of the baseline and, below it, of the ``best`` other level: first
    finished random seed, of each data set the images on which the baseline is worst, in the middle
    and best (without labels: the first ones)."""
    levels = [study.baseline_level, *([best] if best is not None else [])]
    photos = []
    for spec in study.data:
        cells = [cell for level in levels if (cell := _first(study, spec, level, runs))]
        panels = 4 if spec.setting == "transductive" else 3
        for image, why in _chosen(frame, cells, runs):
            for cell in cells:
                shown = 2 if cell.config.predictions.path else panels
                path = _overlays(runs, cell) / f"{image}.png"
                if shown == 2 and not path.is_file():
                    continue  # masks made elsewhere need not be of all images
                value = _by_image(frame, cell).get(image)
                said = f", AJI {value:.3f}" if value is not None else ""
                caption = f"{image} ({spec.name}): {cell.level}, seed {cell.seed}{said}{why}"
                photos.append(Photo(caption, _small(path, shown)))
    return photos[:SHEETS]


def _overlays(runs: Path, cell: StudyCell) -> Path:
    return runs / cell.key_label / "overlays"


def _first(study: ResolvedStudy, spec: DataSpec, level: str, runs: Path) -> StudyCell | None:
    """The cell of the first random seed that has finished."""
    cells = [c for c in study.cells if c.level == level and c.data == spec]
    return next((c for c in cells if any(_overlays(runs, c).glob("*.png"))), None)


def _chosen(frame: pl.DataFrame, cells: Sequence[StudyCell], runs: Path) -> list[tuple[str, str]]:
    """Images, and what makes each worth seeing."""
    if not cells:
        return []
    values = _by_image(frame, cells[0])
    ranked = sorted(values, key=lambda image: (values[image], image))
    if len(ranked) > IMAGES:
        picked = (ranked[0], ranked[len(ranked) // 2], ranked[-1])
        words = (f"; the {word} image of {cells[0].level}" for word in ("worst", "median", "best"))
        return list(zip(picked, words, strict=True))
    names = ranked or sorted(path.stem for path in _overlays(runs, cells[0]).glob("*.png"))
    return [(image, "") for image in names[:IMAGES]]


def _by_image(frame: pl.DataFrame, cell: StudyCell) -> dict[str, float]:
    """AJI of each image at the end of the chain of a cell."""
    own = at_end(frame.filter(pl.col("cell") == cell.key_label))
    rows = own.filter(pl.col("metric") == "aji").drop_nans("value").select("image", "value")
    return dict(rows.iter_rows())


def _small(path: Path, panels: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    with Image.open(path) as sheet:
        row = middles(sheet.convert("RGB"), panels, SIDE)
    row.save(out, "JPEG", quality=88, subsampling=0)  # full colour: the outlines are thin
    return out.getvalue()
