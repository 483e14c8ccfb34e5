"""What was found at a glance: the slide with its nuclei drawn, and one page about it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.write import overlay
from coin_ray.errors import UserError
from coin_ray.labels import boundaries
from coin_ray.slides.nuclei import Nuclei
from coin_ray.slides.reading import Slide
from coin_ray.slides.writing import Frame, Parts, measured

SIDE = 2048
COLOR = (255, 255, 0)
EXAMPLES, CROP = 6, 320
FINEST = 0.05
"""mm: side of the smallest square of a density map; in a smaller one there is a nucleus or none."""


@dataclass(frozen=True)
class Facts:
    """What the page says in words: rows of (name, value), and the tiles that were skipped."""

    rows: Sequence[tuple[str, str]]
    skipped: Sequence[str] = ()


def overlaid(frame: Frame, parts: Parts, slide: Slide) -> NDArray[np.uint8]:
    """The slide as a thumbnail with the outline of every nucleus."""
    image = slide.thumbnail(SIDE)
    factors = np.array(image.shape[:2]) / frame.shape
    for part in parts():
        at = np.argwhere(boundaries(part.label_map)) + part.corner_yx
        y, x = np.minimum((at * factors).astype(int), np.array(image.shape[:2]) - 1).T
        image[y, x] = COLOR
    return image


def write_overlay(image: NDArray[np.uint8], path: Path) -> None:
    """As jpg."""
    path.write_bytes(_jpg(image))


def write_page(
    frame: Frame,
    parts: Parts,
    slide: Slide,
    level: int,
    facts: Facts,
    drawn: NDArray[np.uint8],
    path: Path,
) -> None:
    """One page: counts, density map, sizes, scores, examples, and the slide as it is ``drawn``
    (``overlaid``). It needs no other file."""
    tables = [measured(frame, part.table) for part in parts()]
    names = ("x_um", "y_um", "area_um2", "score")
    columns = {n: np.concatenate([t[n] for t in tables] or [np.zeros(0)]) for n in names}
    title = html.escape(frame.name)
    rows = "".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(value)}" for name, value in facts.rows
    )
    skipped = "".join(f"<li>{html.escape(text)}" for text in facts.skipped)
    examples = _examples(parts, slide, level)
    shown = "".join(_image(_jpg(example)) for example in examples)
    about = "<p>Where nuclei are many and where they are few.</p>" if len(examples) > 1 else ""
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}"
        "th{text-align:left;padding-right:2em;font-weight:normal;color:#555}"
        "img{max-width:100%;margin:4px}</style>"
        f"<h1>{title}</h1><table>{rows}</table>"
        + (f"<h2>Tiles that could not be read</h2><ul>{skipped}</ul>" if skipped else "")
        + f"<h2>Density, sizes and scores</h2>{_image(_figure(frame, columns), 'png')}"
        + f"<h2>Examples</h2>{about}{shown}"
        + f"<h2>The slide</h2>{_image(_jpg(drawn))}",
        encoding="utf-8",
    )


def _examples(parts: Parts, slide: Slide, level: int) -> list[NDArray[np.uint8]]:
    """Crops of the level with outlines, around the nuclei of parts from crowded to sparse."""
    sizes = [len(part) for part in parts()]
    order = [i for i in np.argsort(sizes, kind="stable")[::-1].tolist() if sizes[i]]
    picks = (
        {order[k] for k in np.linspace(0, len(order) - 1, EXAMPLES).astype(int)} if order else set()
    )
    found = []
    for index, part in enumerate(parts()):
        if index in picks:
            try:
                found.append(_example(part, slide, level))
            except UserError:
                continue  # the tile beside it is one that cannot be read
    return found


def _example(part: Nuclei, slide: Slide, level: int) -> NDArray[np.uint8]:
    middle = len(part) // 2
    height, width = slide.shapes[level]
    h, w = min(CROP, height), min(CROP, width)
    y = int(np.clip(part.table["y"][middle] - h / 2, 0, height - h))
    x = int(np.clip(part.table["x"][middle] - w / 2, 0, width - w))
    drawn = np.zeros((h, w), dtype=np.int32)
    top, left = part.corner_yx[0] - y, part.corner_yx[1] - x
    rows, columns = (
        slice(max(0, -a), max(0, -a, min(n, side - a)))
        for a, n, side in ((top, part.label_map.shape[0], h), (left, part.label_map.shape[1], w))
    )
    piece = part.label_map[rows, columns]
    at = (max(0, top), max(0, left))
    drawn[at[0] : at[0] + piece.shape[0], at[1] : at[1] + piece.shape[1]] = piece
    return overlay(slide.region(level, y, x, h, w), drawn, color=COLOR)


def _figure(frame: Frame, columns: dict[str, NDArray[Any]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    density, sizes, scores = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    height, width = (n * frame.um / 1000 for n in frame.shape)
    side = max(FINEST, max(height, width) / 60)
    cells = [max(1, round(n / side)) for n in (height, width)]
    counts, _, _ = np.histogram2d(
        columns["y_um"] / 1000, columns["x_um"] / 1000, cells, [(0, height), (0, width)]
    )
    per_mm2 = counts / (height / cells[0] * width / cells[1])
    shown = density.imshow(per_mm2, extent=(0, width, height, 0), cmap="magma")
    figure.colorbar(shown, ax=density, label="nuclei per mm²")
    density.set(xlabel="mm", ylabel="mm")
    areas = columns["area_um2"]
    top = float(np.percentile(areas, 99.5)) if len(areas) else 1.0
    sizes.hist(areas, 40, (0, top), color="#33508a")
    sizes.set(xlabel="area, µm²", ylabel="nuclei")
    scores.hist(columns["score"], 40, (0, 1), color="#33508a")
    scores.set(xlabel="score")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _jpg(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _image(content: bytes, kind: str = "jpeg") -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
