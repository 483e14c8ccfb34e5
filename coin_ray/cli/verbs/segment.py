"""``coin-ray segment``: nuclei of slides and tiles, in the formats that other programs open."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say, steps_told
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.data.sample import Sample
    from coin_ray.slides.method import Method
    from coin_ray.slides.reading import Slide
    from coin_ray.slides.run import Done, Work
    from coin_ray.study.command_line import Request

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH…", help="slides, tiles, or folders of them"),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="where the results go")]
Model = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="a student that `coin-ray export` wrote"),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="STUDY[:LEVEL]", help="the student of a cell that has finished"),
]
Adapt = Annotated[
    bool,
    typer.Option("--adapt", help="train on parts of the slides first; needs no labels"),
]
Formats = Annotated[
    str,
    typer.Option(
        "--formats",
        metavar="LIST",
        help="of labels, geojson, table, coco, zarr, zarr-0.4, spatialdata",
    ),
]
OnRay = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="RAY",
        help="a Ray cluster whose nodes segment the tiles; `local` starts one of this machine",
    ),
]
PAUSE = 10.0
"""Seconds between two lines that say how far it is."""


@options.takes_study(study=None)
def segment(
    asked: options.Asked,
    paths: Paths,
    out: Out,
    formats: Formats = "labels,geojson,table",
    model: Model = None,
    from_: From = None,
    adapt: Adapt = False,
    address: OnRay = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Find the nuclei of whole slides or tiles; no annotation, no training, no study.

    Of each: a label map (OME-TIFF), detections for QuPath (GeoJSON), a table (Parquet), an overlay
    and a page that sums it up. Interrupted, the same command goes on where it stopped. ``--mpp`` is
    the resolution of PATH; the options of a study are for --from: give those it ran with.
    """
    from coin_ray.data.folder import read_folders
    from coin_ray.data.sample import read_files
    from coin_ray.outputs import claim
    from coin_ray.slides.reading import open_slide
    from coin_ray.slides.results import TILES, locked, names_of, write_results
    from coin_ray.slides.run import prepare

    kinds = list(dict.fromkeys(kind.strip() for kind in formats.split(",") if kind.strip()))
    files, read = slides_in(paths)
    files_of = {name: names_of(name, kinds) for name in files}
    slides = {name: open_slide(path, asked.request.mpp) for name, path in files.items()}
    method, trained = method_of(asked, device, model, from_, adapt)
    if method.run is not None and address is not None:
        raise UserError(
            "this cell trains no student, so it segments here", do="leave out --address"
        )
    skipped = 0
    output = claim(
        out,
        [file for names in files_of.values() for file in names],
        inputs=[*files.values(), *read_files(trained)],
        sources=read_folders([*read, *trained])
        | _of_images(paths)
        | (set(paths) - set(files.values())),
        overwrite=overwrite,
    )
    with locked(out), _where(address, method.device) as tiles:
        if adapt:
            method = adapted(method, list(slides.values()), asked.workspace)
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
            done = list(told(name, work, tiles(work, slide)))
            total = write_results(work, slide, name, output, kinds, done)
            skipped += _say_skipped(name, done)
            took = timedelta(seconds=round(time.monotonic() - started))
            say(f"{name}: {total:,} nuclei in {took}")
    say(f"results in {out}")
    if skipped:
        raise typer.Exit(1)


def _of_images(paths: Sequence[Path]) -> set[Path]:
    """Folders of images of data sets, of which a path is one: results would be images of them."""
    from coin_ray.data.folder import IMAGE_FOLDERS

    folders = {path.absolute().parent for path in paths}
    return {folder for folder in folders if folder.name.casefold() in IMAGE_FOLDERS}


def slides_in(paths: Sequence[Path]) -> tuple[dict[str, Path], list[Sample]]:
    """Name of its results -> slide, of all slides and tiles that ``paths`` name or hold; and the
    tiles of folders, which are found as those of a study are.

    UserError for a folder without any, and for two of one name.
    """
    found: dict[str, Path] = {}
    tiles: list[Sample] = []
    for path in paths:
        whole = not path.is_dir() or path.suffix == ".zarr" or any(path.glob("*.dcm"))
        slides = [path] if whole else _slides(path)
        inside = [] if whole else _tiles(path, beside=bool(slides))
        tiles += inside
        for file in sorted({*slides, *(sample.image.path for sample in inside)}):
            name = file.name.removesuffix(file.suffix).removesuffix(".ome") or file.name
            if name in found and found[name] != file:
                raise UserError(
                    "two slides of one name would overwrite each other",
                    found=f"{found[name]} and {file}",
                    do="give their folders one at a time",
                )
            found[name] = file
    return found, tiles


def _slides(folder: Path) -> list[Path]:
    from coin_ray.data.folder import visible
    from coin_ray.data.rasters import SUFFIXES
    from coin_ray.slides.reading import OPENSLIDE, TIFF

    known = {*OPENSLIDE, *TIFF, ".zarr"} - set(SUFFIXES)
    return [p for p in folder.iterdir() if visible(p) and p.suffix.lower() in known]


def _tiles(folder: Path, *, beside: bool) -> list[Sample]:
    """The pictures of a folder or of a data set; ``beside`` slides there may be none."""
    from coin_ray.data.folder import find_samples
    from coin_ray.data.rasters import SUFFIXES
    from coin_ray.data.resolution import MissingMpp

    if beside and not any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingMpp)  # said as it is opened
        samples = find_samples(folder)
    if any(sample.image.read is not None for sample in samples):
        raise UserError(
            "images that are no files of their own",
            where=str(folder),
            do="write them as files first: `coin-ray data convert FOLDER --to folder --out DIR`",
        )
    return samples


def method_of(
    asked: options.Asked, device: str, model: Path | None, from_: str | None, adapt: bool
) -> tuple[Method, list[Sample]]:
    """What the options say that draws the nuclei, and the images of the study that it is from.
    UserError for two options that exclude each other."""
    from coin_ray.planning.machines import find_device, usable_machine
    from coin_ray.slides.method import Method
    from coin_ray.slides.students import load_student

    if sum([model is not None, from_ is not None, adapt]) > 1:
        raise UserError(
            "--model, --from and --adapt exclude each other", do="leave all but one out"
        )
    if from_ is None:
        _refuse_unused(asked.request, of_file=model is not None)
    computes = find_device(device, [usable_machine()])
    if model is not None:
        return load_student(model, computes), []
    if from_ is not None:
        return _finished(asked, from_, computes)
    request = replace(_with_detector(asked.request, adapt=adapt), own=True, mpp=None)
    config = asked._replace(study="baseline", request=request).resolve().cells[0].config
    if config.ucis.model not in ("stain", "detector") and not adapt:
        raise UserError(
            "without a student the stain or the detector finds the nuclei",
            where="ucis.model",
            expected="stain or detector",
            found=config.ucis.model,
            do="take `--set ucis.model=detector`, --adapt, or a study and --from",
        )
    if config.ucis.trained is not None and not adapt:
        raise UserError(
            "nothing is trained without --adapt",
            where="ucis.detector.rounds",
            expected="0",
            found=str(config.ucis.detector.rounds),
            do="add --adapt, or leave the setting out",
        )
    return Method(config, computes), []


def _with_detector(request: Request, *, adapt: bool) -> Request:
    """With the settings of the built-in detector, where nothing else is asked for; what is said of
    a student asks for one."""
    from coin_ray.slides.method import ADAPTED, BUILT_IN

    parts = (setting.partition("=") for setting in request.settings)
    said = {key.strip(): value.strip() for key, _, value in parts}
    if adapt and any(key.startswith(("student.", "rounds.")) for key in said):
        return request
    ours = dict(setting.split("=") for setting in (*BUILT_IN, *(ADAPTED if adapt else ())))
    model = "ucis.model"
    if request.profile not in (None, "mini") or said.get(model, ours[model]) != ours[model]:
        return request
    more = [f"{key}={value}" for key, value in ours.items() if key not in said]
    return replace(request, settings=(*more, *request.settings))


def _refuse_unused(request: Request, *, of_file: bool) -> None:
    """UserError for options of a study where there is none, and for settings beside those that a
    student brings: they would change nothing."""
    given = {"--data": request.data, "--train": request.train, "--seeds": request.seeds}
    given["--binary"] = request.binary
    if of_file:
        given |= {"--profile": request.profile, "--set": request.settings}
    unused = [option for option, value in given.items() if value]
    if unused:
        raise UserError(
            f"{', '.join(unused)} would change nothing",
            found="--model, which brings its settings" if of_file else "no --from STUDY",
            do="leave it out, or name the study that it is of: --from",
        )


def _finished(asked: options.Asked, named: str, device: str) -> tuple[Method, list[Sample]]:
    """A cell of a study: its student, or all that it does where it trains none. A study that was
    told its data may have been told their resolution, which is then that of the slides too."""
    from coin_ray.cli.verbs.export import finished
    from coin_ray.data.sample import Sample
    from coin_ray.report.values.finished import NotFinished
    from coin_ray.slides.method import Method

    bare = asked._replace(request=replace(asked.request, mpp=None))
    try:
        _, cell, run, data = finished(asked if asked.request.data else bare, named, device)
    except NotFinished:
        _, cell, run, data = finished(bare, named, device)
    read = [*data.samples, *map(Sample, data.train)]
    rounds = cell.config.rounds.count
    if not rounds:
        return Method(cell.config, device, run=run), read
    return Method(cell.config, device, run.student(rounds).arrays), read


def adapted(method: Method, slides: Sequence[Slide], workspace: Path) -> Method:
    """The method with what was trained on windows of the slides, without a label."""
    from coin_ray.slides.adapting import adapt

    what = "the detector" if method.config.ucis.model == "detector" else "a student"
    say(f"training {what} on parts of the slides; stored stages are reused")
    return adapt(method, slides, workspace, steps_told())


@contextmanager
def _where(address: str | None, device: str) -> Iterator[Callable[[Work, Slide], Iterator[Done]]]:
    """What does the tiles of a slide: this process, or a Ray cluster."""
    from coin_ray.slides.run import run_here

    if address is None:
        yield run_here
        return
    from coin_ray.cluster.session import session
    from coin_ray.cluster.slides import run_on_ray

    with session(None if address == "local" else address, device=device):
        yield run_on_ray


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
