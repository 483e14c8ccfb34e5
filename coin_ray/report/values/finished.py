"""A finished cell opened again: what its store has of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from coin_ray.data.sample import Image
from coin_ray.errors import UserError
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import open_local
from coin_ray.pipeline.stage import Ref
from coin_ray.planning.states import KINDS
from coin_ray.store.artifacts import Artifact
from coin_ray.study.errors import nearest
from coin_ray.study.resolved import ResolvedStudy, StudyCell


class NotFinished(UserError):
    """What a cell trains is not all in the store."""


def choose(study: ResolvedStudy, level: str | None) -> StudyCell:
    """The first cell of a level. Raises UserError naming the levels there are."""
    wanted = study.baseline_level if level is None else level
    check_level(study, wanted)
    return next(cell for cell in study.cells if cell.level == wanted)


def check_level(study: ResolvedStudy, level: str) -> None:
    """UserError naming the levels there are, unless this is one."""
    if level in study.levels:
        return
    guess = nearest(level, study.levels)
    raise UserError(
        f"no level '{level}' in this study",
        where=study.name,
        expected=", ".join(study.levels),
        do=f"did you mean '{guess}'?" if guess else "take one of these",
    )


def open_finished(cell: StudyCell, train: Sequence[Image], workspace: Path, device: str) -> CellRun:
    """A cell of whose trainings the store has all, which another kind of device may have done than
    ``device``. NotFinished if it has not."""
    rounds = cell.config.rounds.count
    for kind in dict.fromkeys((device, *KINDS)):
        run = open_local(cell.config, cell.seed, train, workspace, device=device, trained=kind)
        trained = [run.key("round", round_=rounds)] if rounds else []
        if cell.config.ucis.trained is not None:
            trained.append(run.key("ucis_model"))
        if all(map(run.store.has, trained)):
            return run
    raise NotFinished(
        "this cell has not finished, so not all that it trains is there yet",
        where=cell.key_label,
        do="run `coin-ray sweep` with the same options first",
    )


def stored(run: CellRun, wanted: Mapping[str, Ref], *, compute: bool) -> dict[str, Artifact]:
    """What stands in the store under these names. UserError for what does not, unless it is to be
    ``compute``d again; what was trained never is."""
    missing = [name for name, ref in wanted.items() if not run.store.has(run.chain.key(ref))]
    if missing and not compute:
        raise UserError(
            "not all that the picture shows is in the store any more",
            where=str(run.store.root),
            found=f"no {', '.join(missing)}",
            do="say --compute to make it again, or take a picture that needs less",
        )
    try:
        return {name: run.get(ref) for name, ref in wanted.items()}
    except FileNotFoundError as error:
        raise UserError(
            f"{missing[0]} cannot be made again: a student behind it is not in the store",
            where=str(run.store.root),
            do="run `coin-ray sweep` with the same options first",
        ) from error
