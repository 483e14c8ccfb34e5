"""A study on a cluster: its cells as Ray Tune trials that share the store and the segmenters."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from coin_ray.cluster.batches import Batches
from coin_ray.cluster.connection import DEFAULT, Connection, Resources
from coin_ray.cluster.order import Verdicts, by_seeds, part_of, screened, validity
from coin_ray.cluster.tally import Listen, Tally
from coin_ray.cluster.tasks import who
from coin_ray.cluster.trials import TrialBook
from coin_ray.errors import UserError
from coin_ray.events.events import CellLeftOut, Note, StudyFinished
from coin_ray.planning.plan import plan_cells
from coin_ray.store.artifacts import Store
from coin_ray.study.datasets import Resolved, with_data
from coin_ray.study.metrics import METRICS
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.search import proposal, with_trials

WEIGHTS = (
    *("ucis.model", "ucis.weights", "uss.family", "uss.size", "uss.weights", "sam.model"),
    *("student.arch", "student.encoder"),
)
"""Settings that say which model files are read."""


@dataclass(frozen=True)
class Outcome:
    """``failed``: cell -> one-line cause; ``traces``: cause -> one traceback, empty for a mistake
    that the cause explains; ``left_out``: cell -> why it was not run, or not to its end."""

    computed: int
    reused: int
    failed: Mapping[str, str]
    seconds: float
    traces: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def run_study(
    study: ResolvedStudy,
    data: Mapping[str, Resolved],
    *,
    workspace: Path,
    listen: Listen,
    address: str | None = None,
    device: str = "cpu",
    resources: Resources = DEFAULT,
    verdicts: Verdicts | None = None,
) -> Outcome:
    """Run every cell of ``study`` that is not finished; the event stream tells all that happens.

    ``verdicts`` says what a part of the study that has run shows of its levels; with it a study
    that has ``first_seeds`` leaves out the further seeds of those that are decided.

    Raises UserError before anything starts if weights, labels, GPU or cluster are missing. A
    failing cell does not stop the others. KeyboardInterrupt passes through after the session is
    closed; running the same study again continues.
    """
    workspace, start = workspace.resolve(), time.perf_counter()
    _check(study, data, workspace)
    study = with_data(study, data)
    book = TrialBook(study, workspace / "runs" / study.run_name)
    if study.search is not None:
        study = with_trials(study, book.proposals)
    tally = Tally(listen)
    cluster = Connection(
        study, workspace, tally, address=address, device=device, resources=resources
    )
    batches = Batches(study, data, workspace, tally, book, cluster)
    interrupted, store = True, Store(workspace / "store")
    damaged = len(store.damaged())
    try:
        with cluster:
            _in_order(study, batches, tally, verdicts)
        interrupted = False
    finally:
        for line in store.damaged()[damaged:]:
            tally(Note(f"damaged, thrown away and made again where needed: {line}", "warning"))
        seconds = time.perf_counter() - start
        counts = (len(tally.made), batches.reused, len(tally.failed))
        if batches.started:
            tally(StudyFinished(study.name, *counts, seconds, interrupted))
    found = (tally.failed, seconds, tally.traces, tally.left_out)
    return Outcome(len(tally.made), batches.reused, *found)


def _in_order(
    study: ResolvedStudy, batches: Batches, tally: Tally, verdicts: Verdicts | None
) -> None:
    """Every level gets one seed before any gets two. What is screened out or decided is left out,
    unless the store has it anyway."""
    cells = study.cells
    dropped: dict[str, str] = {}
    before: dict[str, Mapping[str, float]] = {}
    if study.screen is not None:
        first = [cell for cell in cells if cell.seed == study.seeds[0]]
        levels = f"{len(study.levels)} levels by {study.screen.metric}"
        before = batches.score(f"screening {levels}, {study.screen.keep} go on", first)
        kept, reasons = screened(study, before)
        dropped = {c.key_label: reasons[c.level] for c in cells if c.level in reasons}
        cells = tuple(cell for cell in cells if cell.level in kept)
    open_ = by_seeds(part_of(study, cells, study.seeds), cells, batches.finish, verdicts)
    left = [cell for cell in study.cells if cell.key_label in dropped | open_]
    there = [cell for cell in left if batches.is_stored(cell)]
    if there:
        batches.finish("", there)
    for cell in left:
        if cell in there:
            continue
        label = cell.key_label
        if label in dropped and label in before:
            batches.leave(cell, 0)
        tally(CellLeftOut(**who(cell), reason=(dropped | open_)[label]))
    if study.screen is not None:
        for line in validity(study, before, tally.finished):
            tally(Note(line))
    batches.search()


def _check(study: ResolvedStudy, data: Mapping[str, Resolved], workspace: Path) -> None:
    """UserError for weights that a search may propose and that are missing, and for an objective
    that chooses by labels which are not there."""
    chooses = study.search is not None or study.stopping.rule != "none"
    if chooses and study.objective.metric in METRICS:
        for name, found in data.items():
            if not any(sample.has_truth for sample in found.samples):
                raise UserError(
                    f"the objective {study.objective.metric} needs labels, {name} has none",
                    do="rank by agreement, which reads no label",
                )
    if study.search is None:
        return
    first = {dimension.key: dimension.values[:1] for dimension in study.search.space}
    models = {d.key: d.values for d in study.search.space if d.key in WEIGHTS and d.kind == "any"}
    choices = first | models
    for values in itertools.product(*choices.values()):
        with contextlib.suppress(ValidationError):  # settings that do not go together
            cell = proposal(study, dict(zip(choices, values, strict=True)))[0]
            plan_cells([cell], data, workspace)
