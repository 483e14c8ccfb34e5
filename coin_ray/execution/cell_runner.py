"""Batches of a study's cells: from the store where it has them whole, else by an executor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from coin_ray.data.dataset import DataSet
from coin_ray.events.events import (
    CellFailed,
    CellFinished,
    CellsProposed,
    CellStarted,
    PhaseStarted,
    StudyStarted,
)
from coin_ray.execution.cell_spec import (
    CellSpec,
    ended_early,
    open_cell,
    run_to_end,
    who,
    with_rounds,
)
from coin_ray.execution.edits import Difference, Edited, difference
from coin_ray.execution.executor import Batch, JobRunner
from coin_ray.execution.failures import Failure, cause, trace
from coin_ray.execution.jobs import Halving, Job, JobSettings
from coin_ray.execution.optuna_record import OptunaRecord
from coin_ray.execution.order import halves, most_rounds
from coin_ray.execution.proposals import Proposals, Values
from coin_ray.execution.repeats import best_trials
from coin_ray.execution.tally import Tally
from coin_ray.execution.trial_log import TrialLog
from coin_ray.pipeline.needs import mask_folder, needed_weights
from coin_ray.pipeline.runner import serial
from coin_ray.planning.plan import Plan, plan_cells
from coin_ray.statistics.searched import Trial
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.search import proposal, trial_seeds, with_trials

Cells = Sequence[StudyCell]
UNHEARD = Failure("its trial ended without a result and without a word", "")


class CellRunner:
    """Runs batches of the cells of ``study``; what its ``jobs`` need is opened before the first
    that computes something. ``started``: the study's first event has been told."""

    def __init__(
        self,
        study: ResolvedStudy,
        data: Mapping[str, DataSet],
        workspace: Path,
        tally: Tally,
        log: TrialLog,
        jobs: JobRunner,
        device: str,
    ) -> None:
        self._study, self._data, self._workspace = study, data, workspace
        self._tally, self._log, self._runner, self._device = tally, log, jobs, device
        self._jobs: dict[str, Job] = {}
        self._reused: set[str] = set()
        self._stopped: list[tuple[Job, int]] = []
        self._halving = self._halves()
        self._what = ""
        self._turn = threading.Lock()
        self._edited: ResolvedStudy | None = None
        self._search: Proposals | None = None
        self.started = False

    def _halves(self) -> Halving | None:
        stops = Halving(most_rounds(self._study), self._jobs, self._stop)
        return stops if halves(self._study) else None

    def take(self, edited: ResolvedStudy) -> Difference:
        """Stop what an edited study does not ask for, after the stage that it is at; the rest of
        this one is its own (``turn``). From any thread."""
        with self._turn:
            found = difference(self._edited or self._study, edited)
            self._edited, wanted = edited, {cell.key_label for cell in edited.cells}
            if self._search is not None:
                self._search.stop()
            else:
                jobs = list(self._jobs.values())
                unwanted = [job for job in jobs if not wanted & {c.key_label for c in job.cells}]
                self._runner.withdraw({job.name for job in unwanted})
        return found

    def turn(self, log: Callable[[ResolvedStudy], TrialLog]) -> ResolvedStudy | None:
        """The study that is to be run now, with the trials of its ``log``; None where nobody has
        edited it."""
        with self._turn:
            study, self._edited = self._edited, None
        if study is None:
            return None
        self._log = log(study)
        if study.search is not None:
            study = with_trials(study, self._log.proposals)
        self._study, self._what = study, "the study as edited"
        self._jobs.clear()
        self._halving = self._halves()
        self._runner.turn(study)
        self._runner.withdraw(())
        return study

    @property
    def reused(self) -> int:
        """Stages that the store had before, of all that has been run."""
        return len(self._reused)

    def finish(self, what: str, cells: Cells) -> None:
        """Run cells to their end; those that were stopped before, to where that was. Raises Edited
        if the study has been edited meanwhile, as all that runs cells does."""
        ended = self._tally.finished.keys() | self._tally.failed.keys()
        cells = [cell for cell in cells if cell.key_label not in ended]
        if self._trials_left():
            self._runner.open()  # what it refuses, it refuses before anything starts
        jobs = self._made_of(cells)
        plan = self._plan(jobs)
        if plan.to_compute:
            self._compute(what, jobs, plan)
            return
        self._begin(what, plan)
        for job in jobs:
            self._serve(job, plan)

    def score(self, what: str, cells: Cells) -> dict[str, Mapping[str, float]]:
        """Compute what comes before the first round; the metrics of the cells that did not fail."""
        jobs = [replace(job, rounds=0) for job in self._made_of(cells)]
        plan = self._plan(jobs)
        if plan.to_compute:
            self._compute(what, jobs, plan, score=True)
        else:
            self._begin(what, plan)
        failed = self._tally.failed
        return {
            cell.key_label: self._read(cell, 0, plan)
            for cell in cells
            if cell.key_label not in failed
        }

    def leave(self, cell: StudyCell, rounds: int) -> None:
        """Write the results of a cell that ends after so many rounds; the store has them all."""
        job = self._job([cell], rounds)
        self._serve(job, self._plan([job]))

    def is_stored(self, cell: StudyCell) -> bool:
        """True if the store has all that a cell asks for."""
        return not self._planned([cell]).to_compute

    def search(self) -> None:
        """Run what the study's sampler proposes, until there are as many trials as it asks for."""
        study, log, left = self._study, self._log, self._trials_left()
        if study.search is None or not left:
            return
        self._go_on()
        what = f"search: {left} of {study.search.trials} trials, sampler {study.search.sampler}"
        self._tally(PhaseStarted(what))
        seeds = trial_seeds(study)
        base = [c for c in study.cells if c.level == study.baseline_level and c.seed in seeds]
        known = [(values, self._value(proposal(study, values))) for values in log.proposals]
        shown = OptunaRecord(study, self._workspace)
        shown.add([Trial(*one) for one in known])

        def valued(values: Values, value: float | None) -> None:
            log.valued(values, value)
            shown.add([Trial(values, value)])

        searcher = Proposals(study, known, self._value(base), self._propose, valued)
        batch = Batch([], self._settings(), self._halving, searcher, left)
        self._search = searcher
        try:
            self._settle(self._runner.run(batch))
        finally:
            self._search = None

    def repeat(self) -> list[tuple[StudyCell, str]]:
        """Run the best trials of a search with the further random seeds; the cells of the others,
        and why they are left out."""
        study = with_trials(self._study, self._log.proposals)
        found = best_trials(study, self._value)
        if found.chosen:
            self.finish(found.what, found.chosen)
        return [(cell, found.why) for cell in found.left]

    def _trials_left(self) -> int:
        search = self._study.search
        return 0 if search is None else max(0, search.trials - len(self._log.proposals))

    def _value(self, cells: Cells) -> float | None:
        """What a configuration came to in this run; None if a cell of it failed."""
        metric = self._study.objective.metric
        finished = self._tally.finished
        found = [finished.get(cell.key_label, {}).get(metric) for cell in cells]
        values = [value for value in found if value is not None]
        return fmean(values) if len(values) == len(found) else None

    def _propose(self, values: Values) -> str:
        cells = proposal(self._study, values)
        job = self._job(cells, cells[0].config.rounds.count)
        plan = self._plan([job])
        self._log.propose(values)
        labels = [cell.key_label for cell in cells]
        self._tally(CellsProposed(cells[0].level, dict(values), labels, plan.to_compute))
        self._give(job, plan)
        return job.name

    def _made_of(self, cells: Cells) -> list[Job]:
        """One job a cell; in a search one a level, whose value is the mean of its cells."""
        if self._study.search is None:
            return [self._job([cell], self._log.rounds(cell)) for cell in cells]
        levels = [
            [cell for cell in cells if cell.level == level]
            for level in dict.fromkeys(cell.level for cell in cells)
        ]
        return [self._job(own, min(map(self._log.rounds, own))) for own in levels]

    def _job(self, cells: Cells, rounds: int) -> Job:
        first = cells[0]
        group = "" if self._study.search else f"{first.seed}/{first.data.name}"
        baseline = first.level == self._study.baseline_level
        return Job(first.key_label, tuple(cells), rounds, group, baseline)

    def _plan(self, jobs: Sequence[Job]) -> Plan:
        parts = [
            replace(cell, config=with_rounds(cell.config, job.rounds))
            for job in jobs
            for cell in job.cells
        ]
        plan = self._planned(parts)
        self._reused |= plan.present - self._tally.made
        return plan

    def _planned(self, cells: Cells) -> Plan:
        return plan_cells(cells, self._data, self._workspace, self._device, self._study.until)

    def _go_on(self) -> None:
        if self._edited is not None:
            raise Edited

    def _begin(self, what: str, plan: Plan) -> None:
        what, self._what = what or self._what, ""
        if not self.started:
            self.started = True
            study, workers = self._study, self._runner.workers
            cells = len(study.cells) + self._trials_left() * len(study.data) * len(study.seeds)
            self._tally(StudyStarted(study.name, cells, plan.to_compute, plan.stored, workers))
        if what:
            self._tally(PhaseStarted(what, plan.to_compute))

    def _compute(self, what: str, jobs: Sequence[Job], plan: Plan, *, score: bool = False) -> None:
        self._runner.open()
        with self._turn:
            self._go_on()
            self._begin(what, plan)
            for job in jobs:
                self._give(job, plan)
        names, halving = [job.name for job in jobs], None if score else self._halving
        batch = Batch(names, self._settings(score), halving)
        self._settle(self._runner.run(batch), scored=score)
        self._go_on()

    def _settings(self, score: bool = False) -> JobSettings:
        study, by_round = self._study, self._halving is not None and not score
        goal, workers = study.objective.metric, self._runner.workers
        return JobSettings(study.run_name, workers, goal, by_round, score)

    def _give(self, job: Job, plan: Plan) -> None:
        self._jobs[job.name] = job
        self._tally.waiting.update(cell.key_label for cell in job.cells)
        specs = [self._spec(cell, job.rounds, plan) for cell in job.cells]
        self._runner.give(job.name, specs)

    def _stop(self, job: Job, rounds: int) -> None:
        self._stopped.append((job, rounds))
        for cell in job.cells:
            self._log.stop(cell, rounds)

    def _settle(self, failures: Mapping[str, Failure], *, scored: bool = False) -> None:
        """Give an ending to every cell of a batch that has run: what trials could not say
        themselves, because they were stopped after a round or died, or were not heard."""
        while self._stopped:
            job, rounds = self._stopped.pop(0)
            part = replace(job, rounds=rounds)
            self._serve(part, self._plan([part]))
        for job in self._jobs.values():
            for cell in job.cells:
                if cell.key_label in self._tally.waiting:
                    self._end(replace(job, cells=(cell,)), failures.get(job.name, UNHEARD), scored)

    def _end(self, job: Job, failure: Failure, scored: bool) -> None:
        (cell,), plan = job.cells, self._plan([job])
        if plan.to_compute:
            self._tally(CellFailed(**who(cell), cause=failure.cause, trace=failure.trace))
        elif scored:
            self._tally.waiting.discard(cell.key_label)
        else:
            self._serve(job, plan)

    def _serve(self, job: Job, plan: Plan) -> None:
        """Results of a job that the store has whole."""
        for cell in job.cells:
            self._tally(CellStarted(**who(cell)))
            try:
                metrics = self._read(cell, job.rounds, plan, self._study.run_name)
            except Exception as error:
                self._tally(CellFailed(**who(cell), cause=cause(error), trace=trace(error)))
            else:
                ended = ended_early(self._spec(cell, job.rounds, plan))
                self._tally(CellFinished(**who(cell), metrics=metrics, rounds=ended))

    def _read(
        self, cell: StudyCell, rounds: int, plan: Plan, study: str | None = None
    ) -> dict[str, float]:
        """Metrics of a cell that the store has whole; with ``study`` its results are written."""
        spec = self._spec(cell, rounds, plan)
        if study is not None:
            spec = replace(spec, tell=self._tally.rounds)
        run = open_cell(spec)
        return run_to_end(spec, run, serial(run, spec.samples), _nothing, study)

    def _spec(self, cell: StudyCell, rounds: int, plan: Plan) -> CellSpec:
        """A cell with all that its keys need, and nothing that computes."""
        until = self._study.until
        return CellSpec(
            config=cell.config,
            rounds=rounds,
            seed=cell.seed,
            train=self._data[cell.data.name].train,
            samples=self._data[cell.data.name].samples,
            weights={name: plan.weights[name] for name in needed_weights(cell.config, until)},
            masks=plan.masks.get((mask_folder(cell.config) or "", cell.data.name), {}),
            workspace=self._workspace,
            device=self._device,
            who=who(cell),
            content=self._study.contents[cell.data.name],
            until=until,
            cache=plan.cache,
            oracle=cell.oracle,
            known=self._data[cell.data.name].known if cell.oracle else (),
        )


def _nothing(stage: str) -> None:
    """Nothing is missing where this is called."""
