"""A cluster, as somewhere that studies run; Ray is imported when one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.execution.refusals import segmenters
from coin_ray.planning.growth import Growth, grown
from coin_ray.planning.machines import (
    Node,
    refuse_impossible,
    refuse_shared_card,
    usable_machine,
)

if TYPE_CHECKING:
    from coin_ray.cluster.job_runner import ClusterRunner
    from coin_ray.execution.tally import Tally
    from coin_ray.study.resolved import ResolvedStudy

PATIENCE = 300.0
"""Seconds without an event of any cell, after which it is asked who waits for what."""


WAIT = 15.0
"""Minutes for nodes to come where the study says that its cluster grows, and nobody how long."""


@dataclass(frozen=True)
class Cluster:
    """Run a study on the Ray cluster at ``address``, or on one of our own on this machine.

    ``device``: auto (a GPU where any node has one, or will), cpu or cuda. ``workers``: processes
    that train one round together, by default what the study says. ``cpus`` of a cluster of our own;
    ``patience``: seconds of silence after which it is said who waits for what. ``wait``: minutes
    for nodes to come at ``address``, by default none, or 15 where the study has ``cluster``.
    """

    address: str | None = None
    device: str = "auto"
    workers: int | None = None
    cpus: int | None = None
    patience: float = PATIENCE
    wait: float | None = None

    def minutes(self, growth: Growth | None) -> float:
        """How long nodes are waited for that are still to come; 0 for a cluster that does not
        grow."""
        if self.address is None:
            return 0.0
        if self.wait is None:
            return WAIT if growth else 0.0
        return self.wait

    def nodes(self, growth: Growth | None = None, *, ahead: bool = False) -> Sequence[Node]:
        """The shapes of the cluster's nodes, of one that grows at its largest; without an address
        that counts for a plan alone. UserError if none answers at its address."""
        if self.address is None:
            return grown([], growth) if growth and ahead else [usable_machine()]
        from coin_ray.cluster import nodes

        there = nodes.nodes_of(self.address)
        return grown(there, growth) if growth else there

    def check(self, study: ResolvedStudy, nodes: Sequence[Node], device: str, workers: int) -> None:
        """UserError if the cluster will not hold what a study asks for, as far as can be told."""
        if self.minutes(study.cluster) and study.cluster is None:  # nobody says what will come
            refuse_shared_card(study.resources, device=device, workers=workers)
            return
        models = segmenters(study)
        refuse_impossible(study.resources, nodes, device=device, workers=workers, models=models)

    def runner(
        self, study: ResolvedStudy, workspace: Path, tally: Tally, device: str, workers: int
    ) -> ClusterRunner:
        """What runs the jobs of one study; it connects when it is opened."""
        from coin_ray.cluster.job_runner import ClusterRunner

        return ClusterRunner(self, study, workspace, tally, device, workers)
