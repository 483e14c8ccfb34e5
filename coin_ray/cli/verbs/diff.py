"""``coin-ray diff``: in what two cells, two levels or two studies differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say

if TYPE_CHECKING:
    from rich.console import Console

    from coin_ray.report.document.blocks import Document

First = Annotated[str, typer.Argument(metavar="A", help="a level or a cell of STUDY, or a study")]
Second = Annotated[str, typer.Argument(metavar="B", help="another")]
Of = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY]", help="whose levels or cells A and B are; without: studies"),
]
Out = Annotated[
    Path | None,
    options.out_folder("where to; default: diffs/ beside the cells"),
]


@options.takes_study(study=(Of, None))
def diff(
    asked: options.Asked,
    a: First,
    b: Second,
    out: Out = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Say in what two cells, levels or studies differ, from what they left; give the options they
    ran with.

    Settings and keys that differ, metrics with their paired difference, the images that differ
    most, side by side with the nuclei that only one of the two has. Nothing is computed.
    """
    from coin_ray.api import diff as differences
    from coin_ray.api.studies import with_images
    from coin_ray.cli.screen.output import console
    from coin_ray.report.diff_page import diff_document, write_diff

    if asked.study:
        study = with_images(asked.resolve(), asked.workspace)
        found = differences.diff_within(study, a, b)
    else:
        study, other = (
            with_images(asked._replace(study=name).resolve(), asked.workspace) for name in (a, b)
        )
        found = differences.diff(study, other)
    document = diff_document(found)
    _show(console(), document)
    folder = out or differences.diff_folder(study, found)
    page = write_diff(found, document, folder, overwrite=overwrite or out is None)
    say(f"wrote {page} and the files beside it")


def _show(screen: Console, document: Document) -> None:
    from coin_ray.report.document.blocks import Notes, Table
    from coin_ray.report.formats.terminal import table

    for section in document.sections:
        say(f"\n{section.title}")
        for block in section.blocks:
            match block:
                case str():
                    say(block)
                case Notes(lines):
                    say("\n".join(lines))
                case Table():
                    screen.print(table(block, screen.width))
                    say("\n".join(block.notes))
                case _:
                    pass  # figures are on the page
