"""``coin-ray why``: why a cell or a stage is not in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.planning.states import CellStages
    from coin_ray.store.keys import Key
    from coin_ray.store.why import Cause, Stored
    from coin_ray.study.resolved import ResolvedStudy, StudyCell

What = Annotated[
    str,
    typer.Argument(
        metavar="CELL|STAGE", help="a cell or a level of the study, or a stage (features, round, …)"
    ),
]
MOST = 10


@options.takes_study()
def why(asked: options.Asked, what: What) -> None:
    """Say why a cell or a stage would be computed: what differs from the nearest stored one.

    A difference in an input is followed upstream to where it begins.
    """
    from coin_ray.execution.trial_log import runs_folder, with_proposals
    from coin_ray.pipeline.stages import STAGES
    from coin_ray.planning.states import stages_by_cell
    from coin_ray.store.artifacts import Store
    from coin_ray.store.why import Stored
    from coin_ray.study.datasets import read_data

    workspace = asked.workspace
    study, data = read_data(asked.resolve(), workspace)
    study = with_proposals(study, runs_folder(study, workspace))
    cells = list(study.cells) if what in STAGES else _named(study, what)
    stages = stages_by_cell(cells, data, workspace)
    stored = Stored(Store(workspace.store))
    if what in STAGES:
        for text in _about_stage(what, stages, stored):
            say(text)
        return
    for cell, own in zip(cells, stages, strict=True):
        for text in _about_cell(cell.key_label, own, stored):
            say(text)


def _named(study: ResolvedStudy, what: str) -> list[StudyCell]:
    """The cells of this label, or of this level. UserError with the nearest name."""
    cells = [cell for cell in study.cells if what in (cell.key_label, cell.level)]
    if cells:
        return cells
    from coin_ray.pipeline.stages import STAGES
    from coin_ray.study.errors import nearest, shortened

    names = [*study.levels, *(cell.key_label for cell in study.cells), *STAGES]
    guess = nearest(what, names)
    raise UserError(
        f"{study.name} has no cell, level or stage {what!r}",
        expected=shortened(", ".join(names)),
        do=f"did you mean {guess!r}?" if guess else "take one of these",
    )


def _about_cell(name: str, own: CellStages, stored: Stored) -> Iterator[str]:
    if not own.missing:
        yield f"{name}: all {len(own.stages)} stages are stored"
        return
    yield f"{name}: {len(own.missing)} of {len(own.stages)} stages are to be computed"
    yield from _explained([(key, own.stages) for key in own.first], stored)
    rest = len(own.missing) - len(own.first)
    if rest:
        yield f"  {rest} more follow from {'it' if len(own.first) == 1 else 'these'}"


def _about_stage(stage: str, cells: Sequence[CellStages], stored: Stored) -> Iterator[str]:
    every = {d: key for own in cells for d, key in own.stages.items() if key.stage == stage}
    missing = {d: own for own in cells for d, key in own.missing.items() if key.stage == stage}
    here = stored.store.stored(every.values())
    if not every:
        yield f"no cell of this study has a stage {stage}"
    elif not missing:
        idle = len(every) - len(here)
        yield f"{stage}: {len(here)} of {len(every)} are stored" + (
            f"; what the other {idle} were needed for is stored" if idle else ""
        )
    else:
        yield f"{stage}: {len(missing)} of {len(every)} are to be computed"
        pairs = [(every[digest], own.stages) for digest, own in missing.items()]
        yield from _explained(pairs, stored)


def _explained(pairs: Sequence[tuple[Key, Mapping[str, Key]]], stored: Stored) -> Iterator[str]:
    """Stages with the same causes together."""
    from coin_ray.store.why import causes

    alike: dict[tuple[str, tuple[Cause, ...] | None], list[str]] = {}
    for key, keys in pairs:
        found = causes(key, keys, stored)
        same = (key.stage, None if found is None else tuple(found))
        alike.setdefault(same, []).append(key.name)
    for (stage, roots), names in list(alike.items())[:MOST]:
        who = f"  {stage} of {', '.join(names[:3])}" + (
            f" and {len(names) - 3} more" if len(names) > 3 else ""
        )
        if roots is None:
            yield f"{who}: none of this stage is stored"
            continue
        yield f"{who}: the nearest stored one differs in"
        for cause in roots[:MOST]:
            what = f"{cause.stage}: {cause.what}" if cause.stage != stage else cause.what
            values = f"  here {cause.here}, stored {cause.stored}" if cause.here else ""
            yield f"      {what}{values}"
        if len(roots) > MOST:
            yield f"      … and {len(roots) - MOST} more"
    if len(alike) > MOST:
        yield f"  … and {len(alike) - MOST} more"
