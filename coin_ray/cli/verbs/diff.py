"""``coin-ray diff``: in what two cells, two levels or two studies differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from coin_ray.api.studies import Study
    from coin_ray.report.document.blocks import Document

First = Annotated[
    str,
    typer.Argument(metavar="A", help="STUDY[:LEVEL], or a level or cell of the STUDY behind B"),
]
Second = Annotated[str, typer.Argument(metavar="B", help="another")]
Of = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY]", help="whose levels or cells A and B are"),
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
    from coin_ray.cli.screen.output import console
    from coin_ray.report.diff_page import diff_document, write_diff

    studies, levels = _named(asked, a, b)
    found = differences.diff(*studies, levels)
    document = diff_document(found)
    _show(console(), document)
    folder = out or differences.diff_folder(studies[0], found)
    page = write_diff(found, document, folder, overwrite=overwrite or out is None)
    say(f"wrote {page} and the files beside it")


def _named(
    asked: options.Asked, a: str, b: str
) -> tuple[tuple[Study, Study], tuple[str, str] | None]:
    """Both studies, and which level or cell of each; None: all levels. UserError where one has a
    level and the other none."""
    from coin_ray.api.studies import with_images
    from coin_ray.study.files import with_level

    if asked.study:
        study = with_images(asked.resolve(), asked.workspace)
        return (study, study), (a, b)
    (one, of_one), (other, of_other) = with_level(a), with_level(b)
    if (of_one is None) != (of_other is None):
        raise UserError(
            "a level and a whole study cannot be compared",
            found=f"{a} and {b}",
            do="write STUDY:LEVEL for both, or STUDY for both",
        )
    first = with_images(asked._replace(study=one).resolve(), asked.workspace)
    second = first
    if other != one:
        second = with_images(asked._replace(study=other).resolve(), asked.workspace)
    return (first, second), None if of_one is None or of_other is None else (of_one, of_other)


def _show(screen: Console, document: Document) -> None:
    from coin_ray.report.document.blocks import Notes, Table
    from coin_ray.report.formats.terminal import table

    for name, value in document.facts:
        say(f"{name} {value}")
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
