"""A slide from its file to the nuclei of its tiles, each tile a file: what was done stays done."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.settings import SMALL
from coin_ray.data.rasters import SUFFIXES
from coin_ray.data.resolution import pixel_scale
from coin_ray.data.sample import Image
from coin_ray.errors import UserError
from coin_ray.identity import code_identity
from coin_ray.labels import BoolArray, count
from coin_ray.pipeline import refs
from coin_ray.slides import nuclei
from coin_ray.slides.method import Image8, Method, calibrated, segment, separates
from coin_ray.slides.nuclei import Nuclei
from coin_ray.slides.reading import Slide
from coin_ray.slides.tiles import GRID, SIDE, Tile, merged, on_tissue, owned, plan_tiles
from coin_ray.slides.tissue import tissue_mask
from coin_ray.slides.writing import Frame

THUMBNAIL = 2048
SAMPLE, SAMPLES = 512, 16
"""Side, px, and most number of the windows that a slide's stains are taken from."""
SIDE_OF_SAM = 3 * GRID
"""Of a core, for segment-anything: with its halo it fills the 1024 px that the model sees."""


@dataclass(frozen=True)
class Work:
    """What there is to do of a slide; travels to another process as it is.

    ``method`` is None for a slide without nuclear stain. ``tiles`` of ``level`` have tissue in
    them, ``background`` more have none. ``folder`` holds a file for each tile that is done.
    ``hint`` says what is odd about the slide.
    """

    path: Path
    mpp: float
    level: int
    method: Method | None
    tiles: tuple[Tile, ...]
    background: int
    folder: Path
    hint: str = ""


@dataclass(frozen=True)
class Done:
    """A tile that is done, with so many nuclei, or the ``problem`` that it was skipped for."""

    tile: Tile
    nuclei: int = 0
    problem: str = ""


def prepare(slide: Slide, method: Method, folder: Path) -> Work:
    """Find the tissue of a slide and what its stains look like; ``folder`` is where the files of
    tiles of all slides go."""
    level = slide.matching_level()
    shape = slide.shapes[level]
    large = method.prompts and method.config.sam.model not in SMALL
    tiles = plan_tiles(shape, SIDE_OF_SAM if large else SIDE)
    if method.run is not None:
        _check_picture(slide)
        tiles = [Tile((0, 0, *shape), (0, 0, *shape))]
    tissue, background = np.ones((1, 1), dtype=bool), 0
    several = len(tiles) > 1
    if several:
        tissue = tissue_mask(slide.thumbnail(THUMBNAIL))
        kept = on_tissue(tiles, tissue, shape)
        tiles, background = kept, len(tiles) - len(kept)
    hint, fitted = "", method if tiles else None
    if tiles:
        sample = _mosaic(windows(slide, level, tissue, SAMPLE, SAMPLES))
        if not separates(sample):
            hint = "hematoxylin and eosin cannot be told apart: is this an H&E slide?"
        if several:  # one tile is measured by itself, as in a study
            scale = pixel_scale(slide.mpp * slide.downsample(level))
            fitted = calibrated(method, sample, scale)
    work = Work(slide.path, slide.mpp, level, fitted, tuple(tiles), background, folder, hint)
    return replace(work, folder=folder / _digest(work, method))


def _check_picture(slide: Slide) -> None:
    if len(slide.shapes) > 1 or slide.path.suffix.lower() not in SUFFIXES:
        raise UserError(
            "this cell trains no student, so it segments tiles alone",
            where=str(slide.path),
            expected=f"a picture: {', '.join(SUFFIXES)}",
            do="take a level that trains one (rounds.count: 1 or more)",
        )


def windows(slide: Slide, level: int, tissue: BoolArray, side: int, most: int) -> list[Image8]:
    """At most so many squares of ``side`` px from where a level is all tissue, spread over it.
    UserError if none can be read."""
    shape = slide.shapes[level]
    corners, shares = [], []
    for y in range(0, max(1, shape[0] - side + 1), side):
        for x in range(0, max(1, shape[1] - side + 1), side):
            rows, columns = (
                slice(int(a * small / n), math.ceil((a + side) * small / n))
                for a, small, n in zip((y, x), tissue.shape, shape, strict=True)
            )
            corners.append((y, x))
            shares.append(float(tissue[rows, columns].mean()))
    full = np.flatnonzero(np.array(shares) >= 0.9 * max(shares))
    found = []
    for i in full[np.linspace(0, len(full) - 1, min(most, len(full))).astype(int)].tolist():
        size = [min(side, n - a) for n, a in zip(shape, corners[i], strict=True)]
        try:
            found.append(slide.region(level, *corners[i], *size))
        except UserError:
            continue  # its tile is skipped, and said
    if not found:
        raise UserError(
            "no part of this slide can be read", where=str(slide.path), do="copy it again"
        )
    return found


def _mosaic(parts: list[Image8]) -> Image8:
    """Squares side by side; what is smaller is mirrored to a square."""
    side = max(max(part.shape[:2]) for part in parts)
    full = [
        np.pad(part, [(0, side - n) for n in part.shape[:2]] + [(0, 0)], "symmetric")
        for part in parts
    ]
    wide = math.isqrt(len(full))
    starts = range(0, wide * wide, wide)
    return np.concatenate([np.concatenate(full[i : i + wide], axis=1) for i in starts])


def _digest(work: Work, method: Method) -> str:
    """What the files of tiles depend on: the slide, the method and the code."""
    stat = work.path.stat()
    known = {
        "slide": [str(work.path.resolve()), stat.st_size, stat.st_mtime_ns],
        "mpp": work.mpp,
        "level": work.level,
        "config": method.config.model_dump(mode="json", by_alias=True),
        "code": code_identity(),
    }
    if method.run is not None:  # asks for the weights and masks that it needs
        chain, image = method.run.chain, _image(work)
        known["key"] = chain.key(refs.behind(chain, image, refs.final_step(chain))).digest
    found = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name, values in sorted({**(method.student or {}), **(method.detector or {})}.items()):
        found.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:16]


def _image(work: Work) -> Image:
    """A picture as a study takes it."""
    return Image(work.path.stem, work.path, mpp=work.mpp)


def compute(work: Work, slide: Slide, tile: Tile) -> Nuclei | str:
    """The nuclei of a tile, or why it cannot be read. Writes nothing."""
    y0, x0, y1, x1 = tile.seen
    assert work.method is not None
    try:
        image = slide.region(work.level, y0, x0, y1 - y0, x1 - x0)
    except UserError as error:
        return error.found or error.what
    scale = pixel_scale(work.mpp * slide.downsample(work.level))
    if (cell := work.method.run) is not None:
        label_map = cell.labels_at(_image(work), refs.final_step(cell.chain))
        score: NDArray[Any] = np.ones(count(label_map))
    else:
        label_map, score = segment(image, work.method, scale)
    kept, keep = owned(tile, label_map)
    return nuclei.measure(image, kept, (y0, x0), score[keep])


def stored(work: Work, tile: Tile) -> Done | None:
    """A tile that is done already, or that there is nothing to do for."""
    if work.method is None:
        return Done(tile)
    found = nuclei.load(_file(work, tile))
    return None if found is None else Done(tile, len(found))


def keep(work: Work, tile: Tile, found: Nuclei | str) -> Done:
    """Write the file of a tile; one that could not be read has none, and is tried again."""
    if isinstance(found, str):
        return Done(tile, problem=found)
    work.folder.mkdir(parents=True, exist_ok=True)
    nuclei.save(_file(work, tile), found)
    return Done(tile, len(found))


def do_tile(work: Work, slide: Slide, tile: Tile) -> Done:
    """A tile in this process, unless it is done."""
    return stored(work, tile) or keep(work, tile, compute(work, slide, tile))


def run_here(work: Work, slide: Slide) -> Iterator[Done]:
    """All tiles, one after another in this process."""
    for tile in work.tiles:
        yield do_tile(work, slide, tile)


def _file(work: Work, tile: Tile) -> Path:
    return work.folder / f"{tile.name}.npz"


def parts(work: Work) -> Iterable[Nuclei]:
    """The nuclei of the tiles that are done, in raster order, none twice."""
    return merged(_files(work))


def _files(work: Work) -> Iterator[Nuclei]:
    for tile in work.tiles:
        found = nuclei.load(_file(work, tile))
        if found is not None:
            yield found


def frame_of(work: Work, slide: Slide, name: str) -> Frame:
    """Where the nuclei that are done lie."""
    tops, most = [], 0
    for found in _files(work):
        tops.append(found.corner_yx[0])
        most += len(found)
    level = work.level
    return Frame(name, work.mpp, slide.shapes[level], slide.downsample(level), tuple(tops), most)
