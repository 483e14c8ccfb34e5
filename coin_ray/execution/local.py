"""A study in this one process: no Ray, and no thread around what a stage does, but where a round's
labels are made while its student predicts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coin_ray.errors import UserError
from coin_ray.execution.cell_spec import CellSpec, train_and_tell
from coin_ray.execution.executor import Batch
from coin_ray.execution.failures import Failure
from coin_ray.execution.jobs import FAILED, VALUE, JobSettings, run_job
from coin_ray.execution.order import halves
from coin_ray.execution.tally import Tally, unfailing
from coin_ray.labels import InstanceMasks
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import Each, Train, serial
from coin_ray.pipeline.segmenter import CachedSegmenter
from coin_ray.pipeline.settings import Cell
from coin_ray.planning.growth import Growth
from coin_ray.planning.machines import (
    Node,
    round_request,
    shapes,
    step_request,
    usable_machine,
)
from coin_ray.precision import DEVICE
from coin_ray.store.artifacts import Store
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.training.world import World
from coin_ray.workspace import Workspace


@dataclass(frozen=True)
class Local:
    """Run a study in this one process, one cell after the other: without Ray, so that breakpoints
    work. The results are those of a cluster, byte for byte: a step takes as many threads as it
    would take CPUs there (``resources:`` of the study, one by default).

    ``device``: auto (a GPU where there is one), cpu or cuda.
    """

    device: str = "auto"

    @property
    def workers(self) -> int:
        return 1

    def nodes(self, growth: Growth | None = None, *, ahead: bool = False) -> list[Node]:
        """This machine, whatever the study says of a cluster."""
        return [usable_machine()]

    def check(self, study: ResolvedStudy, nodes: Sequence[Node], device: str, workers: int) -> None:
        """UserError for a GPU that is not there, and for a study that stops what falls behind.
        Nothing is reserved, so that a study may ask for more CPUs or memory than there are."""
        if device.startswith("cuda") and not any(node.gpus for node in nodes):
            raise UserError(
                "the study was asked to run on a GPU, and torch sees none",
                expected="at least 1 GPU",
                found="nodes: " + shapes(nodes),
                do="leave --device out, or use --device cpu",
            )
        if halves(study):
            raise UserError(
                "the study stops levels that fall behind (stopping: asha), which compares cells "
                "that run at the same time",
                where=study.name,
                do="run it on a cluster (leave --local out), or set stopping.rule: none",
            )

    def runner(
        self, study: ResolvedStudy, workspace: Path, tally: Tally, device: str, workers: int
    ) -> LocalRunner:
        """What runs the jobs of one study."""
        return LocalRunner(study, workspace, tally, device)


class LocalRunner(AbstractContextManager[Any]):
    """See ``JobRunner``."""

    workers = 1

    def __init__(self, study: ResolvedStudy, workspace: Path, tally: Tally, device: str) -> None:
        self._study, self._workspace, self._device = study, workspace, device
        self._tell = unfailing(tally)
        self._given: dict[str, Sequence[CellSpec]] = {}
        self._segmenters: dict[str, _OneThread] = {}
        self._withdrawn: Collection[str] = ()

    def __exit__(self, *error: Any) -> None:
        """Nothing is left open."""

    def open(self) -> None:
        """All that is needed is here."""

    def give(self, job: str, specs: Sequence[CellSpec]) -> None:
        """Keep the cells of a job for when it is run."""
        self._given[job] = specs

    def turn(self, study: ResolvedStudy) -> None:
        """The study has been edited."""
        self._study = study

    def withdraw(self, jobs: Collection[str]) -> None:
        """Let these jobs end after the stage that they are at."""
        self._withdrawn = frozenset(jobs)

    def run(self, batch: Batch) -> Mapping[str, Failure]:
        """Run a batch, one job after the other."""
        failures: dict[str, Failure] = {}
        for job in batch.jobs:
            self._run(job, batch.settings, failures)
        for trial in map(str, range(batch.trials)):
            assert batch.search is not None
            proposed = batch.search.suggest(trial)
            if proposed is None:
                break  # nothing is being run that it could wait for: it is over
            batch.search.complete(trial, self._run(proposed, batch.settings, failures))
        return failures

    def _run(self, job: str, settings: JobSettings, failures: dict[str, Failure]) -> float | None:
        """Run a job; its value."""
        specs = [
            replace(
                spec,
                device=self._device,
                segmenter=self._segmenter(spec.config),
                tell=self._tell,
                resources=self._study.resources,
                withdrawn=lambda: job in self._withdrawn,
            )
            for spec in self._given[job]
        ]
        said: dict[str, Any] = {}
        run_job(specs, settings, _steps, said.update, lambda event: None)
        if FAILED in said:
            failures[job] = Failure(said[FAILED], "")
        return said.get(VALUE)

    def _segmenter(self, config: Cell) -> _OneThread:
        sam, device = config.sam, self._device
        if sam.model not in self._segmenters:
            store = Store(Workspace(self._workspace).store, device)
            cached = CachedSegmenter(sam.model, store, device=device, batch=sam.batch)
            self._segmenters[sam.model] = _OneThread(cached)
        return self._segmenters[sam.model]


@dataclass(frozen=True)
class _OneThread:
    """Computes on one thread, as an actor does."""

    segmenter: CachedSegmenter

    def masks(self, *request: Any) -> InstanceMasks:
        """See ``pipeline.segmenter.Segmenter``."""
        with DEVICE, _threads(1):
            return self.segmenter.masks(*request)


def _steps(spec: CellSpec, run: CellRun) -> tuple[Each, Train]:
    def each(step: str, n: int) -> list[Any]:
        with _threads(step_request(spec.resources, step, spec.device).cpus):
            return serial(run, spec.samples)(step, n)

    def train(stage: str) -> None:
        needs = round_request(spec.resources, 1, spec.device)
        with _threads(needs.cpus):
            train_and_tell(spec, stage, World(threads=needs.threads))

    return each, train


@contextmanager
def _threads(cpus: float) -> Iterator[None]:
    """Compute on as many threads as a task of so many CPUs: the order of sums depends on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(cpus)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
