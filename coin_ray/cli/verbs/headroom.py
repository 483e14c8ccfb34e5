"""``coin-ray headroom``: how much of the gap to the truth each stage holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say

Level = Annotated[
    str | None, typer.Option("--level", help="whose stages; default: the study's baseline")
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="one that is 1 at best; default: the first of the report"),
]
Out = Annotated[
    Path | None,
    options.out_folder("where to; default: headroom/ beside the cells"),
]


@options.takes_study()
def headroom(
    asked: options.Asked,
    level: Level = None,
    metric: Metric = None,
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
    local: options.Here = False,
    out: Out = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Replace each stage of a level by its oracle from the ground truth, and run what follows.

    It uses the labels, so nothing of it is a result: no search can choose it, no result's table and
    no tracker has it. What is in the store is not computed again.
    """
    from coin_ray.api import ceilings
    from coin_ray.api.studies import with_images
    from coin_ray.cli.screen import preamble
    from coin_ray.cli.screen.live import watch
    from coin_ray.cli.screen.output import console
    from coin_ray.report.formats.terminal import table
    from coin_ray.report.headroom_page import NOTES, headroom_table, write_headroom

    executor = options.executor(address, workers, device, local=local)
    resolved, screen = asked.resolve(), console()
    for text in preamble.opening(resolved):
        say(text)
    say("ceilings: the labels of every image are used, training included; none is a result")
    study = with_images(resolved, asked.workspace)
    with watch(screen, "", plain=local) as show:  # without an objective nothing is the best
        found = ceilings.headroom(
            study, level=level, metric=metric, executor=executor, on_event=show
        )
    for spec in resolved.data:
        given = headroom_table(found, spec.name)
        if given.rows:
            say(given.title)
            screen.print(table(given, screen.width))
    for note in NOTES:
        say(note)
    files = write_headroom(
        found, out or ceilings.headroom_folder(study), overwrite=overwrite or out is None
    )
    say(f"wrote {files[0]} and the files beside it")
    for who, why in found.failed.items():
        say(f"failed: {who}: {why}", err=True)
    if found.failed:
        raise typer.Exit(1)
