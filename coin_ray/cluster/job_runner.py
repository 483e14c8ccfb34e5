"""The jobs of one study on a cluster that is connected to when it is first needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from coin_ray import bucket
from coin_ray.cluster import leases
from coin_ray.cluster.event_pump import pumped
from coin_ray.cluster.executor import Cluster
from coin_ray.cluster.folders import run_folder
from coin_ray.cluster.hub import AskHub, ToHub, start_hub
from coin_ray.cluster.joining import Demand, awaited, take_back
from coin_ray.cluster.nodes import check_seen, connected
from coin_ray.cluster.scoring import ActorSegmenter
from coin_ray.cluster.segmenters import Segmenters
from coin_ray.cluster.session import session
from coin_ray.cluster.tuning import Rungs, tune_jobs
from coin_ray.cluster.watchdog import watchdog, who_waits
from coin_ray.execution.cell_spec import CellSpec
from coin_ray.execution.executor import Batch
from coin_ray.execution.failures import Failure
from coin_ray.execution.refusals import segmenters
from coin_ray.execution.tally import Tally
from coin_ray.pipeline.steps import STEPS
from coin_ray.planning.growth import bundles, grown
from coin_ray.planning.machines import (
    Node,
    largest_share,
    room,
    round_request,
    segmented,
    segmenter_share,
    step_request,
    unmet,
)
from coin_ray.store.artifacts import Store
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.workspace import Workspace

LOOK = 2.0
"""Seconds between two looks at the room of the cluster."""


class ClusterRunner:
    """See ``JobRunner``. Leaving it leaves the cluster."""

    def __init__(
        self,
        cluster: Cluster,
        study: ResolvedStudy,
        workspace: Path,
        tally: Tally,
        device: str,
        workers: int,
    ) -> None:
        self._cluster, self.workers, self._device = cluster, workers, device
        self._study, self._workspace, self._tally = study, workspace, tally
        self._stack = ExitStack()
        self._folder = workspace
        self._hub: Any = None
        self._drain: Callable[[], None] = lambda: None
        self._demand: Demand | None = None
        self._at_once, self._due = 1, 0.0
        self._given: dict[str, Sequence[CellSpec]] = {}
        self._segmenters: Segmenters
        self._rungs: Rungs | None = None
        self._withdrawn: frozenset[str] = frozenset()

    def __enter__(self) -> ClusterRunner:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def open(self) -> None:
        """Connect, once. UserError if the cluster cannot hold what the study asks for."""
        if self._hub is not None:
            return
        asked, device, cluster = self._study.resources, self._device, self._cluster
        self._folder = self._stack.enter_context(run_folder(self._workspace))
        minutes = cluster.minutes(self._study.cluster)
        seen = "cpu" if minutes else device  # a GPU may be what is waited for
        self._stack.enter_context(session(cluster.address, cpus=cluster.cpus, device=seen))
        take_back()
        if minutes:
            self._demand = self._stack.enter_context(Demand(self._bundles))
            self._demand.follow(1)
        self._at_once = self._room(awaited(self._unmet, minutes, self._tally))
        check_seen([self._folder, *_places(self._study)])
        each = segmenter_share(asked, device)
        held = segmenters(self._study) * each
        most = largest_share(asked, device)
        store = Workspace(self._workspace).store
        self._segmenters = Segmenters(store, device, each, lambda n: segmented(n, most, held))
        if bucket.address(self._workspace) is not None:
            leases.start()
        self._hub = start_hub()
        self._drain = self._stack.enter_context(
            pumped(self._hub, self._tally, self._answer, ray.get_runtime_context().gcs_address)
        )
        guard = watchdog(self._tally.pulse, self._look, self._tally, cluster.patience)
        self._stack.enter_context(guard)

    def _unmet(self, nodes: Sequence[Node]) -> list[str]:
        models = segmenters(self._study)
        asked, device = self._study.resources, self._device
        return unmet(asked, nodes, device=device, workers=self.workers, models=models)

    def _room(self, nodes: Sequence[Node]) -> int:
        """Trainings that fit at the same time. A driver costs nothing, but one that has begun fills
        the cluster with its tasks: there are no more of them."""
        asked, device = self._study.resources, self._device
        held = segmenters(self._study) * segmenter_share(asked, device)
        return room(round_request(asked, self.workers, device), nodes, held=held) // self.workers

    def _follow(self) -> None:
        """See how many trials may run now, while nodes come and go, and ask for those to come."""
        if time.monotonic() < self._due:
            return
        if self._demand is not None:
            self._demand.follow(self._wanted())
        self._at_once = max(1, self._room(connected()))
        self._due = time.monotonic() + LOOK

    def _wanted(self) -> int:
        """Trainings that the cells which have no end yet would take, as far as it may grow."""
        wanted, growth = len(self._tally.waiting), self._study.cluster
        return wanted if growth is None else min(wanted, self._room(grown([], growth)))

    def _bundles(self, trainings: int) -> list[dict[str, float]]:
        asked, device = self._study.resources, self._device
        steps = [step_request(asked, step, device) for step in STEPS]
        return bundles(steps, round_request(asked, self.workers, device), trainings)

    def _look(self) -> list[str]:
        """Who waits for what."""
        asked, device = self._study.resources, self._device
        steps = dict.fromkeys(step_request(asked, step, device) for step in STEPS)
        groups = ray.util.placement_group_table().values()
        lines = who_waits(
            Store(Workspace(self._workspace).store),
            dict(self._tally.running),
            [round_request(asked, self.workers, device), *steps],
            ray.available_resources(),
            ray.cluster_resources(),
            sum(group["state"] == "PENDING" for group in groups),
        )
        return [*lines, *self._segmenters.lines()]

    def give(self, job: str, specs: Sequence[CellSpec]) -> None:
        """Keep the cells of a job until its trial asks for them."""
        self._given[job] = specs

    def turn(self, study: ResolvedStudy) -> None:
        """The study has been edited."""
        self._study, self._rungs = study, None

    def withdraw(self, jobs: Collection[str]) -> None:
        """Let these jobs end after the stage that they are at."""
        self._withdrawn = frozenset(jobs)

    def _answer(self, asked: Collection[str]) -> None:
        """Look after the segmenters and the room, and answer the trials that have asked for their
        cells, also those that are tried again; they ask until there is a segmenter for them."""
        self._hub.withdraw.remote(self._withdrawn)  # each time, for a hub that was started anew
        for job in sorted(asked):
            if segmenters(self._study):
                sams = {spec.config.sam.model: spec.config.sam for spec in self._given[job]}
                if {False} & set(map(self._segmenters.ready, sams.values())):
                    continue
            self._hand_over(job)
        self._segmenters.tend(self._hub)
        self._follow()

    def _hand_over(self, job: str) -> None:
        cells = tuple(
            replace(
                spec,
                device=self._device,
                segmenter=ActorSegmenter(self._hub, spec.config.sam.model),
                tell=ToHub(self._hub),
                resources=self._study.resources,
                withdrawn=AskHub(self._hub, job),
                folder=self._folder,
            )
            for spec in self._given[job]
        )
        ray.get(self._hub.give.remote(job, cells))

    def run(self, batch: Batch) -> Mapping[str, Failure]:
        """Run a batch as trials of Ray Tune. What Tune gives up because it was lost, be it while it
        was starting, is run once more, and again as long as it comes further."""
        if batch.halving is not None and self._rungs is None:
            self._rungs = Rungs(self._study, batch.halving)
        failures: dict[str, Failure] = {}
        before: dict[str, int] = {}
        while True:
            found = tune_jobs(
                batch,
                self._rungs if batch.halving is not None else None,
                self._study.objective.mode,
                hub=self._hub,
                folder=self._folder,
                at_once=lambda: self._at_once,
                tell=self._tally,
                advances=self._advances,
            )
            self._drain()
            failures = {job: why for job, why in failures.items() if job not in batch.jobs} | found
            gone = {job: self._advances(job) for job, why in found.items() if why.gone}
            again = [job for job, now in gone.items() if now > before.get(job, -1)]
            if not again:
                return failures
            before |= gone
            batch = replace(batch, jobs=again, search=None)

    def _advances(self, job: str) -> int:
        return sum(self._tally.advances[spec.who["cell"]] for spec in self._given[job])


def _places(study: ResolvedStudy) -> list[Path]:
    """Where its images and labels lie."""
    specs = [spec for spec in study.data if spec.kind != "generated"]
    named = [(spec.path, *spec.train_paths, spec.labels) for spec in specs]
    return [Path(path) for paths in named for path in paths if path]
