"""What a study would compute and cost, and whether that is within its budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.data.dataset import DataSet
from coin_ray.distillation.memory import training_bytes
from coin_ray.errors import UserError
from coin_ray.execution.executor import Executor
from coin_ray.execution.refusals import (
    Target,
    refuse_missing,
    segmenters,
    target,
    trainings,
)
from coin_ray.execution.trial_log import runs_folder, with_proposals
from coin_ray.planning.machines import room, round_request, segmenter_share
from coin_ray.planning.plan import Plan, plan_cells
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.workspace import Workspace

if TYPE_CHECKING:
    from coin_ray.planning.estimate import Estimate
    from coin_ray.planning.workers import Paying

TRAINED = ("round", "predict", "redraw", "peaks", "complete")
"""Stages that a cell which is screened out never comes to."""


class OverBudget(UserError):
    """A study that is estimated to take more than it may; the command line ends with code 1."""

    code = 1


@dataclass(frozen=True)
class StudyPlan:
    """``study`` with all that a search has proposed so far; ``plan``: its stages, shared and
    stored; ``cost``: hours and bytes, as far as stages were timed before; ``where`` it is to run;
    ``paying``: how many workers of a round pay there, where that can be told.
    """

    study: ResolvedStudy
    plan: Plan
    cost: Estimate
    where: Target
    paying: Paying | None
    pixels: int
    """Of the training images of the largest data set."""

    @property
    def to_compute(self) -> dict[str, int]:
        """Stage -> how many of it will be computed."""
        return self.plan.to_compute

    @property
    def memory(self) -> Iterator[str]:
        """What the training of each student takes of a GPU, where that is what trains."""
        on_gpu = self.where.device.startswith("cuda")
        said: dict[str, float] = {}
        for student, beside in trainings(self.study) if on_gpu else ():
            what = (
                f"{student.arch}, batch {student.batch} of {student.crop} px, {student.precision}"
            )
            taken = training_bytes(student, self.pixels, beside) / 1e9
            said[what] = max(taken, said.get(what, 0.0))
        for what, taken in said.items():
            yield f"a training ({what}) takes at least {taken:.1f} GB of a GPU"

    @property
    def to_come(self) -> int:
        """Trials of a search that are not among its levels yet."""
        return _to_come(self.study)

    @property
    def about(self) -> str:
        """How the estimate stands to what it will be."""
        return "at least" if self.cost.untimed else "at most" if self.less else "about"

    @property
    def less(self) -> str:
        """Why a study may compute less than its plan says; empty if it computes just that."""
        study = self.study
        if self.to_come:
            return "trials to come are counted as if they shared nothing"
        if study.search is not None and study.search.repeats is not None:
            return f"only the best {study.search.repeats} trials are run with all random seeds"
        if study.screen is not None:
            return f"only the {study.screen.keep} best levels and the baseline are trained"
        if study.first_seeds is not None:
            return f"seeds after the first {study.first_seeds} run only where the verdict is open"
        if study.stopping.rule == "race":
            return "levels that lose the race get no further seeds"
        if study.gates is not None:
            return "claims that have become futile stop, and a sealed split may stay sealed"
        if study.stopping.rule != "none" or any(c.config.rounds.early_stop for c in study.cells):
            return "rounds that are not worth it are left out"
        return ""

    def refuse_over_budget(self) -> None:
        """Raises OverBudget if the estimate exceeds the study's budget."""
        total, budget = self.cost.total, self.study.budget
        for name, hours in (
            ("gpu_hours", total.gpu_hours),
            ("cpu_hours", total.cpu_hours),
            ("wall_hours", self.cost.wall_hours),
        ):
            limit = getattr(budget, name)
            if limit is not None and hours > limit:
                raise OverBudget(
                    f"the study exceeds its budget of {name}",
                    where=self.study.source_files[0],
                    expected=f"at most {limit:g}",
                    found=f"{self.about} {hours:.3g}",
                    do="raise the budget, or run fewer levels, seeds or rounds",
                )


def plan_study(
    study: ResolvedStudy,
    data: Mapping[str, DataSet],
    workspace: Path,
    executor: Executor,
    *,
    ahead: bool = True,
) -> StudyPlan:
    """Plan a study that knows the contents of its data sets, from the workspace's store and the
    timings in it, ``ahead`` of its run or at its start. UserError for all that a run would refuse,
    but for its budget."""
    from coin_ray.planning.estimate import estimate
    from coin_ray.planning.ledger import read_ledger
    from coin_ray.planning.workers import paying
    from coin_ray.store.artifacts import Store

    where = target(study, executor, ahead=ahead)
    refuse_missing(study, data, workspace)
    study = with_proposals(study, runs_folder(study, workspace))
    plan = plan_cells(study.cells, data, workspace, where.device, study.until)
    kept = 1.0
    if study.screen is not None:
        kept = min(1.0, (study.screen.keep + 1) / len(study.levels))
    ledger = read_ledger(Store(Workspace(workspace).store), plan.stages)
    one = round_request(study.resources, 1, where.device)
    held = segmenters(study) * segmenter_share(study.resources, where.device)
    places = [room(one, [node], held=held) for node in where.nodes]
    cost = estimate(
        plan,
        ledger,
        where.nodes,
        device=where.device,
        resources=study.resources,
        workers=where.workers,
        done=dict.fromkeys(TRAINED, kept),
        further=_to_come(study) / len(study.levels),
    )
    workers = paying(
        plan,
        ledger,
        device=where.device,
        places=sum(places),
        near=max(places),
        workers=where.workers,
    )
    pixels = 0
    if where.device.startswith("cuda"):
        pixels = max(sum(math.prod(i.shape()) for i in found.train) for found in data.values())
    return StudyPlan(study, plan, cost, where, workers, pixels)


def _to_come(study: ResolvedStudy) -> int:
    return 0 if study.search is None else max(0, study.search.trials - len(study.levels) + 1)
