"""``coin-ray export``: a trained student as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.slides.method import Method

Named = Annotated[
    str,
    typer.Argument(metavar="STUDY[:LEVEL]", help="a study that ran, and which level's student"),
]
File = Annotated[Path, typer.Option("--out", metavar="FILE", help="the safetensors file to write")]


@options.takes_study(study=None)
def export(
    asked: options.Asked, study: Named, out: File, overwrite: options.Overwrite = False
) -> None:
    """Write the student of a finished cell, with its settings and a card, as one safetensors file.

    Give the options the study ran with; of several data sets or seeds the first counts. `coin-ray
    segment --model FILE` takes it.
    """
    from coin_ray.outputs import claim_file
    from coin_ray.slides.students import export_student

    method, origin = student_of(asked, study, "cpu")
    assert method.student is not None
    with claim_file(out, overwrite=overwrite).file(out.name) as part:
        export_student(part, method.student, method.config, origin)
    say(f"{out}: the student of {origin['level']}, seed {origin['seed']}")


def student_of(asked: options.Asked, named: str, device: str) -> tuple[Method, dict[str, str]]:
    """The student of a finished cell, and where it comes from; ``named`` is STUDY or STUDY:LEVEL.

    UserError for a cell that trains no student, and for one that has not finished."""
    from coin_ray.cli.verbs.predict import choose, open_finished
    from coin_ray.slides.method import Method
    from coin_ray.study import files
    from coin_ray.study.datasets import resolve_data

    study, colon, level = named.rpartition(":")
    if not colon or files.find(named, "ablations") is not None:
        study, level = named, ""
    resolved = asked._replace(study=study).resolve()
    cell = choose(resolved, level or None)
    rounds = cell.config.rounds.count
    if not rounds:
        raise UserError("this cell trains no student", where=cell.level, expected="rounds.count: 1")
    found = resolve_data(cell.data, asked.workspace)
    run = open_finished(cell, found.train, asked.workspace, device)
    origin = {"study": resolved.name, "level": cell.level, "seed": str(cell.seed)}
    return Method(cell.config, device, run.student(rounds).arrays), origin
