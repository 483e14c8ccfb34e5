"""Ceilings of a study: run them, and read what they came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.api.runs import chosen, runs_folder, target
from coin_ray.api.studies import PathLike, Study, load_study
from coin_ray.errors import UserError
from coin_ray.events.events import Event
from coin_ray.execution.executor import Executor
from coin_ray.execution.oracles import refuse_unlabelled, with_oracles
from coin_ray.pipeline.oracles import TITLES

if TYPE_CHECKING:
    from coin_ray.data.dataset import DataSet
    from coin_ray.report.values.ceilings import Ceilings
    from coin_ray.section import Values
    from coin_ray.study.resolved import StudyCell


def headroom(
    study: Study | PathLike,
    *,
    level: str | None = None,
    metric: str | None = None,
    executor: Executor | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Ceilings:
    """Replace each stage of a level (by default the baseline) by its oracle from the ground truth,
    compute what follows, and give the values. What the store has is not computed again.

    It uses the labels, of the training images too: what it makes has keys of its own, no study can
    ask for it, and none of it is a result or goes into a tracker. ``metric``: one that is 1 at
    best; by default the first of the study's report.

    Raises:
        UserError: an image without labels, a level that is not there, a metric without a best value
            of 1 or that is not measured, and what a run refuses.
    """
    from coin_ray.execution import study_run
    from coin_ray.report.values.ceilings import Ceilings, check_metric
    from coin_ray.report.values.finished import check_level
    from coin_ray.report.values.tidy import tidy
    from coin_ray.study.datasets import check_images, with_training_labels

    study = study if isinstance(study, Study) else load_study(study)
    resolved = study.resolved
    data = {
        spec.name: with_training_labels(spec, study.data[spec.name], study.workspace)
        for spec in resolved.data
    }
    wanted = level or resolved.baseline_level
    measured = metric or resolved.report[0]
    check_metric(measured)
    check_level(resolved, wanted)
    refuse_unlabelled(resolved, wanted, data)
    check_images(data)
    part, executor = with_oracles(resolved, wanted), chosen(executor)
    where = target(part, executor)
    outcome = study_run.run_study(
        part,
        data,
        workspace=study.workspace,
        listen=on_event,
        executor=executor,
        device=where.device,
        workers=where.workers,
    )
    made = [cell for cell in part.cells if cell.key_label not in outcome.failed]
    rows = [row for c in made for row in _rows(c, data[c.data.name], study.workspace, where.device)]
    failed = {
        f"{TITLES.get(cell.oracle, wanted)}, {cell.data.name}, seed {cell.seed}": why
        for cell in part.cells
        if (why := outcome.failed.get(cell.key_label))
    }
    told = {str(row["metric"]) for row in rows}
    if told and measured not in told:
        raise UserError(
            f"no image has a value of {measured}",
            expected=", ".join(sorted(told)),
            do="take one of these with --metric; what was computed is stored",
        )
    return Ceilings(resolved, wanted, measured, tidy(rows, study=resolved.name), failed)


def headroom_folder(study: Study) -> Path:
    """Where the page of a study's ceilings goes: beside its cells."""
    runs = runs_folder(study.resolved, study.workspace)
    return runs / "headroom"


def _rows(cell: StudyCell, data: DataSet, workspace: Path, device: str) -> Iterator[Values]:
    """What the evaluation of a cell left in the store."""
    from coin_ray.pipeline.runner import open_local
    from coin_ray.pipeline.steps import STEPS
    from coin_ray.report.values.ceilings import PIPELINE

    run = open_local(cell.config, cell.seed, data.train, workspace, device=device)
    run = replace(run, chain=run.chain.with_oracle(cell.oracle, data.known))
    who = {"cell": cell.key_label, "level": cell.oracle or PIPELINE}
    who |= {"dataset": cell.data.name}
    for sample in data.samples:
        steps: Mapping[str, Mapping[str, float]] = STEPS["evaluate"].gives(run, sample)
        for step, metrics in steps.items():
            for name, value in metrics.items():
                at = {"image": sample.name, "seed": cell.seed, "step": step}
                yield {**who, **at, "metric": name, "value": value}
