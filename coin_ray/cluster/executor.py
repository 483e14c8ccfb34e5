"""A cluster, as somewhere that studies run; Ray is imported when one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.execution.refusals import segmenters
from coin_ray.planning.machines import Node, refuse_impossible, usable_machine

if TYPE_CHECKING:
    from coin_ray.cluster.job_runner import ClusterRunner
    from coin_ray.execution.tally import Tally
    from coin_ray.study.resolved import ResolvedStudy

PATIENCE = 300.0
"""Seconds without an event of any cell, after which it is asked who waits for what."""


@dataclass(frozen=True)
class Cluster:
    """Run a study on the Ray cluster at ``address``, or on one of our own on this machine.

    ``device``: auto (a GPU where any node has one), cpu or cuda. ``workers``: processes that train
    one round together, by default what the study says. ``cpus`` of a cluster of our own;
    ``patience``: seconds of silence after which it is said who waits for what.
    """

    address: str | None = None
    device: str = "auto"
    workers: int | None = None
    cpus: int | None = None
    patience: float = PATIENCE

    def nodes(self) -> Sequence[Node]:
        """The shapes of the cluster's nodes. UserError if none answers at its address."""
        if self.address is None:
            return [usable_machine()]
        from coin_ray.cluster import nodes

        return nodes.nodes_of(self.address)

    def check(self, study: ResolvedStudy, nodes: Sequence[Node], device: str, workers: int) -> None:
        """UserError if the cluster cannot hold what a study asks for."""
        refuse_impossible(
            study.resources, nodes, device=device, workers=workers, models=segmenters(study)
        )

    def runner(
        self, study: ResolvedStudy, workspace: Path, tally: Tally, device: str, workers: int
    ) -> ClusterRunner:
        """What runs the jobs of one study; it connects when it is opened."""
        from coin_ray.cluster.job_runner import ClusterRunner

        return ClusterRunner(self, study, workspace, tally, device, workers)
