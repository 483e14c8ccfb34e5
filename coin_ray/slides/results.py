"""All files of a slide that has been segmented."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from coin_ray.errors import UserError
from coin_ray.files import check_writable
from coin_ray.outputs import Output
from coin_ray.slides.reading import Slide
from coin_ray.slides.run import Done, Work, frame_of, parts
from coin_ray.slides.writing import FOLDERS, FORMATS, writers
from coin_ray.slides.writing.summary import Facts, overlaid, write_overlay, write_page

TILES = ".tiles"
"""Folder of the files of tiles, from which a later call goes on."""
LOCK = ".segment.lock"
ALWAYS = (".overlay.jpg", ".html")


def names_of(name: str, formats: Sequence[str]) -> list[str]:
    """The files that :func:`write_results` makes, of a folder one. UserError for a format that is
    unknown, or whose library is not installed."""
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown or not formats:
        found = ", ".join(unknown) or "none"
        raise UserError("unknown format", expected=", ".join(FORMATS), found=found)
    _check_installed(formats)
    files = [name + FORMATS[kind] for kind in formats if kind not in FOLDERS]
    inside = [f"{name}{FORMATS[kind]}/{FOLDERS[kind]}" for kind in formats if kind in FOLDERS]
    return files + inside + [name + suffix for suffix in ALWAYS]


def _check_installed(formats: Sequence[str]) -> None:
    """UserError for a format whose library is missing, before hours are spent."""
    needed = {"zarr": ("zarr", "slides"), "zarr-0.4": ("zarr", "slides")}
    needed["spatialdata"] = ("spatialdata", "spatialdata")
    for kind in formats:
        library, extra = needed.get(kind, ("", ""))
        if library and find_spec(library) is None:
            raise UserError(
                f"{library} is not installed, which writes the format {kind}",
                do=f'pip install "coin-ray[{extra}]"',
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone. UserError while another one writes into it."""
    check_writable(folder)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another `coin-ray segment` is writing into this folder",
                where=str(folder),
                do="wait until it has finished, or take another --out",
            ) from error
        yield


def write_results(
    work: Work,
    slide: Slide,
    name: str,
    output: Output,
    formats: Sequence[str],
    done: Sequence[Done],
) -> int:
    """Write the files of ``names_of``; returns how many nuclei there are."""
    found = partial(parts, work)
    frame = frame_of(work, slide, name)
    for kind, write in writers(frame, found).items():
        if kind in formats:
            place = output.tree if kind in FOLDERS else output.file
            with place(name + FORMATS[kind]) as part:
                write(part)
    drawn = overlaid(frame, found, slide)
    with output.file(name + ALWAYS[0]) as part:
        write_overlay(drawn, part)
    total = sum(map(len, found()))
    skipped = [f"{d.tile.name}: {d.problem}" for d in done if d.problem]
    height, width = slide.shapes[0]
    looked = sum((t.core[2] - t.core[0]) * (t.core[3] - t.core[1]) for t in work.tiles)
    mm2 = looked * (frame.um / 1000) ** 2
    rows = [
        ("nuclei", f"{total:,}"),
        ("nuclei per mm² of what was looked at", f"{total / mm2:,.0f}" if mm2 else "-"),
        ("slide", f"{width:,} x {height:,} px at {slide.mpp:.4g} um/px, {slide.kind}"),
        ("segmented at", f"{frame.um:.4g} um/px (level {work.level})"),
        ("tiles", f"{len(work.tiles)} with tissue, {work.background} of background"),
        ("could not be read", f"{len(skipped)} tiles"),
        ("method", work.method.name if work.method else "-"),
        *([("careful", work.hint)] if work.hint else []),
    ]
    with output.file(name + ALWAYS[1]) as part:
        write_page(frame, found, slide, work.level, Facts(rows, skipped), drawn, part)
    return total
