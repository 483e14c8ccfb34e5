"""The jobs of one study on a cluster that is connected to when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from coin_ray.cluster.event_pump import pumped
from coin_ray.cluster.executor import Cluster
from coin_ray.cluster.folders import run_folder
from coin_ray.cluster.nodes import connected, gpu_nodes
from coin_ray.cluster.scoring import ActorSegmenter, start_actor
from coin_ray.cluster.session import session
from coin_ray.cluster.tasks import ToHub, start_hub
from coin_ray.cluster.tuning import Rungs, tune_jobs
from coin_ray.cluster.watchdog import watchdog, who_waits
from coin_ray.confidence.settings import Sam
from coin_ray.execution.cell_spec import CellSpec
from coin_ray.execution.executor import Batch
from coin_ray.execution.failures import Failure
from coin_ray.execution.refusals import segmenters
from coin_ray.execution.tally import Tally
from coin_ray.pipeline.steps import STEPS
from coin_ray.planning.machines import room, round_request, segmenter_share, step_request
from coin_ray.store.artifacts import Store
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.workspace import Workspace


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
        self._at_once = self._elsewhere = 1
        self._given: dict[str, Sequence[CellSpec]] = {}
        self._pools: dict[str, dict[str, Any]] = {}
        self._rungs: Rungs | None = None

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
        self._stack.enter_context(session(cluster.address, cpus=cluster.cpus, device=device))
        nodes = connected()
        cluster.check(self._study, nodes, device, self.workers)
        # A driver costs nothing, but one that has begun fills the cluster with its tasks: no more
        # of them than can train at the same time.
        held = segmenters(self._study) * segmenter_share(asked, device)
        group = round_request(asked, self.workers, device)
        self._at_once = room(group, nodes, held=held) // self.workers
        self._elsewhere = max(1, int(sum(node.cpus for node in nodes)) // 2)
        self._hub = start_hub()
        self._drain = self._stack.enter_context(pumped(self._hub, self._tally, self._hand_over))
        guard = watchdog(self._tally.pulse, self._look, self._tally, cluster.patience)
        self._stack.enter_context(guard)

    def _look(self) -> list[str]:
        """Who waits for what."""
        asked, device = self._study.resources, self._device
        steps = dict.fromkeys(step_request(asked, step, device) for step in STEPS)
        groups = ray.util.placement_group_table().values()
        return who_waits(
            Store(Workspace(self._workspace).store),
            dict(self._tally.running),
            [round_request(asked, self.workers, device), *steps],
            ray.available_resources(),
            ray.cluster_resources(),
            sum(group["state"] == "PENDING" for group in groups),
        )

    def give(self, job: str, specs: Sequence[CellSpec]) -> None:
        """Keep the cells of a job until its trial asks for them."""
        self._given[job] = specs

    def _hand_over(self, job: str) -> None:
        """Answer a trial, also one that is tried again, with the segmenters that there are now."""
        cells = []
        for spec in self._given[job]:
            pool = self._pool(spec.config.sam) if segmenters(self._study) else ()
            there = replace(
                spec,
                device=self._device,
                segmenter=ActorSegmenter(pool),
                tell=ToHub(self._hub),
                resources=self._study.resources,
                folder=self._folder,
            )
            cells.append(there)
        ray.get(self._hub.give.remote(job, tuple(cells)))

    def run(self, batch: Batch) -> Mapping[str, Failure]:
        """Run a batch as trials of Ray Tune."""
        if batch.halving is not None and self._rungs is None:
            self._rungs = Rungs(self._study, batch.halving)
        failures = tune_jobs(
            batch,
            self._rungs if batch.halving is not None else None,
            self._study.objective.mode,
            hub=self._hub,
            folder=self._folder,
            at_once=self._at_once,
            tell=self._tally,
        )
        self._drain()
        return failures

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
                    Workspace(self._workspace).store,
                    device=device,
                    batch=sam.batch,
                    gpu=segmenter_share(self._study.resources, device),
                    node=place if on_gpus else None,
                )
        return tuple(pool[place] for place in places)
