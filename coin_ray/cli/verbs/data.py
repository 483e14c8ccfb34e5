"""``coin-ray data``: the data sets, getting them, checking them, other formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coin_ray.cli import options as shared
from coin_ray.cli.screen.output import downloads, say

if TYPE_CHECKING:
    from coin_ray.data.label_files import Binary
    from coin_ray.data.sample import Sample

app = typer.Typer(no_args_is_help=True, help="Data sets: list, fetch, check, convert.")

Where = Annotated[
    Path, typer.Argument(help="a folder of images, or a data set as its owners ship it")
]
Name = Annotated[str, typer.Argument(help="a name of `coin-ray data list`")]
DataSet = Annotated[
    str | None, typer.Option(help="read PATH as this data set; default: look at it")
]
Mpp = Annotated[float | None, typer.Option(help="um per pixel; wins over what the files state")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="of the data set, as rater=biologist2; repeatable"),
]


@app.command("list")
def list_() -> None:
    """The data sets that coin-ray knows."""
    from rich.table import Table

    from coin_ray.cli.screen.output import console
    from coin_ray.data.catalogue import NAMES, get

    table = Table("name", "images", "um/px", "licence", "fetch", "what")
    for name in NAMES:
        card = get(name).CARD
        counts = " + ".join(str(n) for n in card.counts.values())
        mpp = "varies" if card.mpp is None else f"{card.mpp:g}"
        table.add_row(
            name, counts, mpp, card.licence, "yes" if card.archives else "by hand", card.title
        )
    console().print(table)


@app.command()
def info(name: Name) -> None:
    """Where a data set comes from, its licence, counts, splits and traps."""
    from coin_ray.data.catalogue import get

    card = get(name).CARD
    say(f"{card.name}: {card.title}")
    rows: dict[str, Any] = {
        "url": card.url,
        "licence": card.licence,
        "citation": card.citation,
        "layout": card.layout,
        "um/px": "varies or unstated" if card.mpp is None else card.mpp,
        "images": ", ".join(f"{k} {n}" for k, n in card.counts.items()),
    }
    for key, value in rows.items():
        say(f"  {key}: {value}")
    for title, lines in (
        ("splits", [f"{k}: {v}" for k, v in card.splits.items()]),
        ("traps", card.traps),
        ("get it", card.steps),
    ):
        say(f"  {title}:")
        for line in lines:
            say(f"    - {line}")


@app.command()
def fetch(
    name: Name,
    to: Annotated[Path | None, typer.Option(help="folder; default: in COIN_RAY_HOME/data")] = None,
) -> None:
    """Download a data set from its owners (goes on where it stopped), or say how to get it."""
    from coin_ray.data import fetch as fetching
    from coin_ray.data.catalogue import get

    card = get(name).CARD
    if not card.archives:
        say(fetching.instructions(card))
        raise typer.Exit(1)
    say(f"{card.title}: licence {card.licence}; cite {card.citation}")
    folder = to or fetching.data_home() / card.name
    with downloads() as show:
        fetching.fetch(card, folder, progress=show)
    say(f"{name}: {folder}")


@app.command()
def check(
    path: Where,
    dataset: DataSet = None,
    mpp: Mpp = None,
    binary: shared.Binary = None,
    option: Options = None,
    manifest: Annotated[
        Path | None, typer.Option(help="where to write it; default: <PATH>.manifest.json here")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="an earlier manifest to compare with")
    ] = None,
    overwrite: shared.Overwrite = False,
) -> None:
    """Read every file, list every problem, write a manifest. Exit code 1 if there are errors."""
    from coin_ray.data.integrity import check as check_samples
    from coin_ray.data.manifest import compare, write_manifest
    from coin_ray.data.sample import read_files
    from coin_ray.outputs import claim_file

    samples = _samples(path, dataset, mpp, binary, option)
    target = manifest or Path(f"{path.absolute().name}.manifest.json")
    output = claim_file(target, inputs=read_files(samples), overwrite=overwrite)
    with _bar() as bar:
        task = bar.add_task("reading", total=len(samples))
        report = check_samples(samples, progress=lambda done, _: bar.update(task, completed=done))
    problems = [*report.problems, *(compare(against, report, path) if against else [])]
    for problem in problems:
        say(f"{problem.level}: {problem.where}: {problem.what}")
    labelled = sum("nuclei" in r for r in report.rows)
    nuclei = sum(r.get("nuclei", 0) for r in report.rows)
    say(
        f"{len(samples)} images, {labelled} readable label maps, {nuclei} nuclei: "
        + ", ".join(
            f"{sum(p.level == v for p in problems)} {v}s" for v in ("error", "warning", "note")
        )
    )
    if any(p.level == "error" for p in problems):
        say("no manifest written", err=True)
        raise typer.Exit(1)
    with output.file(target.name) as part:
        write_manifest(part, report, path)
    say(f"manifest: {target}")


@app.command()
def convert(
    path: Where,
    to: Annotated[str, typer.Option(help="coin, tif, folder, overlay, geojson or coco")],
    out: Annotated[Path, typer.Option(help="the new folder")],
    dataset: DataSet = None,
    mpp: Mpp = None,
    binary: shared.Binary = None,
    option: Options = None,
) -> None:
    """Write a data set in another layout or format; whole or not at all."""
    from coin_ray.data.convert import OF_LABELS
    from coin_ray.data.convert import convert as convert_samples

    samples = _samples(path, dataset, mpp, binary, option)
    with _bar() as bar:
        task = bar.add_task("writing", total=len(samples))
        bare = convert_samples(
            samples, to, out, progress=lambda done, _: bar.update(task, completed=done)
        )
    if bare:
        shown = ", ".join(bare[:5]) + (f" and {len(bare) - 5} more" if len(bare) > 5 else "")
        left = "left out" if to in OF_LABELS else "written without one"
        say(f"warning: {len(bare)} images have no label map, {left}: {shown}", err=True)
    written = len(samples) - (len(bare) if to in OF_LABELS else 0)
    say(f"{written} images, {len(samples) - len(bare)} label maps: {out}")


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="the new folder")],
    count: Annotated[int, typer.Option(min=1, max=100_000)] = 8,
    size: Annotated[int, typer.Option(min=64, max=10_000)] = 256,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
) -> None:
    """Draw synthetic H&E tiles with their label maps."""
    from coin_ray.data.synthetic import generated_samples

    say(f"{len(generated_samples(out, count, size=size, seed=seed))} tiles: {out}")


def _samples(
    path: Path,
    dataset: str | None,
    mpp: float | None,
    binary: Binary | None,
    option: list[str] | None,
) -> list[Sample]:
    """The samples of PATH; warnings of reading become lines on stderr."""
    import warnings

    from coin_ray.data.folder import find_samples
    from coin_ray.errors import UserError

    options = {}
    for text in option or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError("no option", where="--option", expected="name=value", found=text)
        options[name] = value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = find_samples(path, mpp, dataset=dataset, binary=binary, options=options)
    for warning in caught:
        say(f"warning: {warning.message}", err=True)
    return samples


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from coin_ray.cli.screen.output import console

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=console(err=True),
        transient=True,
    )
