"""``coin-ray export``: a trained student as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.data.dataset import DataSet
    from coin_ray.pipeline.cell import CellRun
    from coin_ray.study.resolved import StudyCell

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

    named, cell, run, _ = finished(asked, study, "cpu")
    rounds = cell.config.rounds.count
    if not rounds:
        raise UserError("this cell trains no student", where=cell.level, expected="rounds.count: 1")
    origin = {"study": named, "level": cell.level, "seed": str(cell.seed)}
    with claim_file(out, overwrite=overwrite).file(out.name) as part:
        export_student(part, run.student(rounds).arrays, cell.config, origin)
    say(f"{out}: the student of {cell.level}, seed {cell.seed}")


def finished(
    asked: options.Asked, named: str, device: str
) -> tuple[str, StudyCell, CellRun, DataSet]:
    """The study's name, the cell, ready to be asked, and its data; ``named`` is STUDY or
    STUDY:LEVEL.

    NotFinished for a cell that has not."""
    from coin_ray.execution.trial_log import runs_folder, with_proposals
    from coin_ray.report.values.finished import choose, open_finished
    from coin_ray.study import files
    from coin_ray.study.datasets import read_data, resolve_data

    study, level = files.with_level(named)
    resolved = asked._replace(study=study).resolve()
    if resolved.search is not None:  # its trials stand in a folder that all its images name
        resolved, _ = read_data(resolved, asked.workspace)
        resolved = with_proposals(resolved, runs_folder(resolved, asked.workspace))
    cell = choose(resolved, level)
    if cell.config.predictions.path is not None:
        raise UserError(
            "masks made elsewhere segment no other image",
            where=cell.level,
            do="take a level that coin-ray computes",
        )
    found = resolve_data(cell.data, asked.workspace)
    return resolved.name, cell, open_finished(cell, found.train, asked.workspace, device), found
