"""``coin-ray figure``: pictures of what a study made of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError

Kind = Annotated[
    Literal["stages", "labels", "scores", "reliability", "adjacency", "compare", "failures",
            "curves"],
    typer.Argument(help="stages of an image, its pseudo labels, scores of its instances, scores "
                   "over the true IoU, adjacent cells, levels compared, the worst images; curves "
                   "over a setting and the rounds"),
]  # fmt: skip
Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="NAME", help="an image; repeatable")
]
Levels = Annotated[
    list[str] | None,
    typer.Option("--level", help="a level, of `compare` several; default: the baseline (and best)"),
]
Shown = Annotated[
    str,
    typer.Option(
        "--window", metavar="[X,Y,]SIDE", help="px that are shown; default: 256 where most is"
    ),
]
Round = Annotated[
    int | None, typer.Option("--round", help="whose labels (default: the last) and scores (1)")
]
Format = Annotated[Literal["svg", "pdf", "png"], typer.Option("--format")]
Out = Annotated[
    Path | None,
    options.out_folder("where to; default: pictures/ beside the cells"),
]
Metric = Annotated[
    str | None, typer.Option("--metric", help="of curves; default: the first of the report")
]
Compute = Annotated[bool, typer.Option("--compute", help="make again what the store lacks")]


@options.takes_study()
def figure(
    asked: options.Asked,
    kind: Kind,
    image: Images = None,
    level: Levels = None,
    window: Shown = "",
    round_: Round = None,
    metric: Metric = None,
    format_: Format = "svg",
    out: Out = None,
    compute: Compute = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw what the finished cells of a study made of its images, one column of a paper wide.

    Give the options the study ran with; of several random seeds the first counts. Nothing is
    computed: what the store lacks is said.
    """
    from coin_ray.api import runs
    from coin_ray.api.studies import with_images
    from coin_ray.outputs import claim

    results = runs.results(asked.workspace, with_images(asked.resolve(), asked.workspace))
    drawn = results.pictures(
        kind,
        images=image or (),
        levels=level or (),
        window=_numbers(window),
        round_=round_,
        metric=metric,
        compute=compute,
    )
    folder = out or results.folder / "pictures"
    names = [f"{picture.name}.{format_}" for picture in drawn]
    output = claim(folder, names, overwrite=overwrite or out is None)
    for picture, name in zip(drawn, names, strict=True):
        with output.file(name) as part:
            part.write_bytes(picture.to(format_))
        say(f"{folder / name}: {picture.caption}")


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if all(part.strip().isdecimal() for part in parts):
        return tuple(map(int, parts))
    raise UserError("no window", where="--window", expected="SIDE or X,Y,SIDE in px", found=text)
