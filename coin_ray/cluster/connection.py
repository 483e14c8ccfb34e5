"""The cluster that a study runs on, connected to when it is first needed, and what trials share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from coin_ray.cluster.folders import RUNS, run_folder
from coin_ray.cluster.nodes import connected, gpu_nodes, node_ids
from coin_ray.cluster.rounds import train_coarse
from coin_ray.cluster.scoring import start_actor
from coin_ray.cluster.searching import Proposals
from coin_ray.cluster.session import session
from coin_ray.cluster.tally import Tally, pumped
from coin_ray.cluster.tasks import CellSpec, start_hub
from coin_ray.cluster.trial import Errand
from coin_ray.cluster.tuning import Failure, Rungs, tune_jobs
from coin_ray.cluster.watchdog import PATIENCE, watchdog, who_waits
from coin_ray.confidence.settings import Sam
from coin_ray.pipeline.steps import STEPS
from coin_ray.planning.machines import (
    refuse_impossible,
    room,
    round_request,
    segmenter_share,
    step_request,
)
from coin_ray.store.artifacts import Store
from coin_ray.study.resolved import ResolvedStudy


@dataclass(frozen=True)
class Resources:
    """What a study may take; runtime only. ``workers``: processes of a distillation round; ``cpus``
    of a cluster of our own; ``patience``: seconds of silence after which it is said who waits for
    what."""

    workers: int = 1
    cpus: int | None = None
    patience: float = PATIENCE


DEFAULT = Resources()


class Connection:
    """Of one study; a context manager that hands over the last events and leaves the cluster.
    ``address``: of a cluster that is there, None for one of our own."""

    def __init__(
        self,
        study: ResolvedStudy,
        workspace: Path,
        tally: Tally,
        *,
        address: str | None,
        device: str,
        resources: Resources,
    ) -> None:
        self.resources = resources
        self._study, self._workspace, self._tally = study, workspace, tally
        self._address, self._device = address, device
        self._stack, self._folder = ExitStack(), workspace / RUNS
        self._hub: Any = None
        self._drain: Callable[[], None] = lambda: None
        self._at_once = 1
        self._elsewhere = 1
        self._given: dict[str, Sequence[CellSpec]] = {}
        self._pools: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def open(self) -> None:
        """Connect, once. UserError if the cluster cannot hold what the study asks for."""
        if self._hub is not None:
            return
        asked, device, workers = self._study.resources, self._device, self.resources.workers
        self._folder = self._stack.enter_context(run_folder(self._workspace))
        self._stack.enter_context(session(self._address, cpus=self.resources.cpus, device=device))
        nodes, models = connected(), segmenters(self._study)
        refuse_impossible(asked, nodes, device=device, workers=workers, models=models)
        group = round_request(asked, workers, device)
        # A driver costs nothing, but one that has begun fills the cluster with its tasks: no more
        # of them than can train at the same time.
        held = models * segmenter_share(asked, device)
        self._at_once = room(group, nodes, held=held) // workers
        self._elsewhere = max(1, int(sum(node.cpus for node in nodes)) // 2)
        self._hub = start_hub()
        self._drain = self._stack.enter_context(pumped(self._hub, self._tally, self._hand_over))
        steps = dict.fromkeys(step_request(asked, step, device) for step in STEPS)

        def look() -> list[str]:
            groups = ray.util.placement_group_table().values()
            return who_waits(
                Store(self._workspace / "store"),
                dict(self._tally.running),
                [group, *steps],
                ray.available_resources(),
                ray.cluster_resources(),
                sum(group["state"] == "PENDING" for group in groups),
            )

        guard = watchdog(self._tally.pulse, look, self._tally, self.resources.patience)
        self._stack.enter_context(guard)

    def give(self, job: str, specs: Sequence[CellSpec]) -> None:
        """Keep the cells of a job until its trial asks for them."""
        self._given[job] = specs

    def _hand_over(self, job: str) -> None:
        """Answer a trial, also one that is tried again, with the segmenters that there are now."""
        there = tuple(
            replace(self._placed(spec), actors=self._pool(spec.config.sam))
            for spec in self._given[job]
        )
        ray.get(self._hub.give.remote(job, there))

    def train(self, spec: CellSpec) -> None:
        """Train the coarse model of a cell, unless the store has it."""
        # In a task, as in a trial: Ray Train would take Ctrl-C for itself in this process.
        task = ray.remote(train_coarse).options(num_cpus=0)
        ray.get(task.remote(self._placed(spec), self.resources.workers))
        self._drain()

    def _placed(self, spec: CellSpec) -> CellSpec:
        resources, folder = self._study.resources, self._folder
        return replace(spec, device=self._device, hub=self._hub, resources=resources, folder=folder)

    def run(
        self,
        jobs: Sequence[str],
        *,
        score: bool = False,
        rungs: Rungs | None = None,
        searcher: Proposals | None = None,
        trials: int = 1,
    ) -> dict[str, Failure]:
        """Run jobs that have been given, or a searcher's; why those failed that did."""
        study, workers = self._study, self.resources.workers
        goal, by_round = study.objective.metric, rungs is not None
        errors = tune_jobs(
            jobs,
            Errand(study.run_name, workers, goal, by_round, score),
            hub=self._hub,
            folder=self._folder,
            at_once=self._at_once,
            scheduler=rungs,
            searcher=searcher,
            trials=trials,
            nodes=node_ids(),
            tell=self._tally,
        )
        self._drain()
        return errors

    def _pool(self, sam: Sam) -> tuple[Any, ...]:
        """The segmenters of a model: one for each node that has a GPU now; without GPUs one for two
        CPUs, wherever Ray puts them."""
        device, pool = self._device, self._pools.setdefault(sam.model, {})
        on_gpus = device.startswith("cuda")
        places = gpu_nodes() if on_gpus else [f"any {n}" for n in range(self._elsewhere)]
        for place in places:
            if place not in pool:
                pool[place] = start_actor(
                    sam.model,
                    self._workspace / "store",
                    device=device,
                    batch=sam.batch,
                    gpu=segmenter_share(self._study.resources, device),
                    node=place if on_gpus else None,
                )
        return tuple(pool[place] for place in places)


def segmenters(study: ResolvedStudy) -> int:
    """How many kinds of segmenters a study may use at once."""
    space = study.search.space if study.search else ()
    searched = [model for d in space if d.key == "sam.model" for model in d.values]
    return len({*(cell.config.sam.model for cell in study.cells), *searched})
