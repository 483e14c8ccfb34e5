"""``coin-ray segment``: nuclei of slides and tiles, in the formats that other programs open."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.output import say
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.slides.method import Method
    from coin_ray.slides.run import Done, Work

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH…", help="slides, tiles, or folders of them"),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="where the results go")]
Mpp = Annotated[
    float | None,
    typer.Option("--mpp", metavar="UM", help="microns per pixel; wins over the files"),
]
Formats = Annotated[
    str,
    typer.Option("--formats", metavar="LIST", help="of labels, geojson, table, coco"),
]
PAUSE = 10.0
"""Seconds between two lines that say how far it is."""


def segment(
    paths: Paths,
    out: Out,
    mpp: Mpp = None,
    formats: Formats = "labels,geojson,table",
    profile: options.Profile = "mini",
    settings: options.Set = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Find the nuclei of whole slides or tiles; no annotation, no training, no study.

    Of each: a label map (OME-TIFF), detections for QuPath (GeoJSON), a table (Parquet), an overlay
    and a page that sums it up. Interrupted, the same command goes on where it stopped.
    """
    from coin_ray.outputs import claim
    from coin_ray.slides.reading import open_slide
    from coin_ray.slides.results import TILES, locked, names_of, write_results
    from coin_ray.slides.run import prepare, run_here

    kinds = [kind.strip() for kind in formats.split(",") if kind.strip()]
    files = slides_in(paths)
    files_of = {name: names_of(name, kinds) for name in files}
    slides = {name: open_slide(path, mpp) for name, path in files.items()}
    method = built_in(profile, settings, device)
    skipped = 0
    with locked(out):
        output = claim(
            out,
            [file for names in files_of.values() for file in names],
            inputs=list(files.values()),
            overwrite=overwrite,
        )
        for name, slide in slides.items():
            started = time.monotonic()
            work = prepare(slide, method, out / TILES)
            if work.background:
                say(
                    f"{name}: {len(work.tiles)} tiles with tissue; {work.background} of background "
                    "are skipped"
                )
            if work.hint:
                say(f"warning: {name}: {work.hint}", err=True)
            done = list(told(name, work, run_here(work, slide)))
            total = write_results(work, slide, name, output, kinds, done)
            skipped += _say_skipped(name, done)
            took = timedelta(seconds=round(time.monotonic() - started))
            say(f"{name}: {total:,} nuclei in {took}")
    say(f"results in {out}")
    if skipped:
        raise typer.Exit(1)


def slides_in(paths: Sequence[Path]) -> dict[str, Path]:
    """Name of its results -> slide, of all slides and tiles that ``paths`` name or hold.

    UserError for a folder without any, and for two of one name.
    """
    from coin_ray.data.folder import visible
    from coin_ray.data.rasters import SUFFIXES
    from coin_ray.slides.reading import OPENSLIDE, TIFF

    known = (*OPENSLIDE, *TIFF, *SUFFIXES)
    found: dict[str, Path] = {}
    for path in paths:
        whole = not path.is_dir() or path.suffix == ".zarr" or any(path.glob("*.dcm"))
        inside = [path]
        if not whole:
            inside = sorted(
                p
                for p in path.iterdir()
                if visible(p) and (p.suffix.lower() in known or p.suffix == ".zarr")
            )
        if not inside:
            raise UserError("no slide in this folder", where=str(path), expected=", ".join(known))
        for file in inside:
            name = file.name.removesuffix(file.suffix).removesuffix(".ome") or file.name
            if name in found and found[name] != file:
                raise UserError(
                    "two slides of one name would overwrite each other",
                    found=f"{found[name]} and {file}",
                    do="give their folders one at a time",
                )
            found[name] = file
    return found


def built_in(profile: str | None, settings: list[str] | None, device: str) -> Method:
    """The method of a profile, with what ``--set`` changes, and no student."""
    from coin_ray.cli import costs
    from coin_ray.planning.machines import find_device
    from coin_ray.slides.method import Method

    resolved = options.resolved("baseline", profile, None, None, None, settings, None)
    config = resolved.cells[0].config
    if config.ucis.model != "stain":
        raise UserError(
            f"the coarse model {config.ucis.model} has to be trained first",
            where="ucis.model",
            do="take `--set ucis.model=stain`, or a study and --from",
        )
    return Method(config, find_device(device, [costs.here()]))


def told(name: str, work: Work, done: Iterator[Done]) -> Iterator[Done]:
    """The tiles as they are done, with a line now and then: how far, nuclei, time to go."""
    started = last = time.monotonic()
    nuclei = 0
    for count, one in enumerate(done, start=1):
        nuclei += one.nuclei
        now = time.monotonic()
        if now - last > PAUSE and count < len(work.tiles):
            left = timedelta(seconds=round((now - started) / count * (len(work.tiles) - count)))
            say(f"{name}: tile {count} of {len(work.tiles)}, {nuclei:,} nuclei, {left} to go")
            last = now
        yield one


def _say_skipped(name: str, done: Sequence[Done]) -> int:
    skipped = [one for one in done if one.problem]
    for one in skipped[:10]:
        y, x = one.tile.core[:2]
        say(f"{name}: the tile at y {y}, x {x} was skipped: {one.problem}", err=True)
    if len(skipped) > 10:
        say(f"{name}: and {len(skipped) - 10} more tiles", err=True)
    return len(skipped)
