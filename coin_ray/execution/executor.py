"""Where a study runs: on a cluster or in this process, behind one interface."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coin_ray.execution.cell_spec import CellSpec
from coin_ray.execution.failures import Failure
from coin_ray.execution.jobs import Halving, JobSettings
from coin_ray.execution.proposals import Proposals
from coin_ray.execution.tally import Tally
from coin_ray.planning.growth import Growth
from coin_ray.planning.machines import Node
from coin_ray.study.resolved import ResolvedStudy


@dataclass(frozen=True)
class Batch:
    """``jobs`` that have been given, in their order, or so many ``trials`` of a ``search``;
    ``halving`` stops those that fall behind."""

    jobs: Sequence[str]
    settings: JobSettings
    halving: Halving | None = None
    search: Proposals | None = None
    trials: int = 0


class JobRunner(AbstractContextManager[Any], Protocol):
    """Runs the jobs of one study; leaving it hands over the last events. ``workers``: processes
    that train one round together."""

    workers: int

    def open(self) -> None:
        """Have what jobs need, once. UserError if that cannot be had."""

    def give(self, job: str, specs: Sequence[CellSpec]) -> None:
        """Keep the cells of a job for when it is run."""

    def turn(self, study: ResolvedStudy) -> None:
        """The study has been edited: what is run from now on is as this one says."""

    def withdraw(self, jobs: Collection[str]) -> None:
        """Of the jobs that were given, let these, and no others, end after the stage that they are
        at, or not begin. From any thread."""

    def run(self, batch: Batch) -> Mapping[str, Failure]:
        """Run a batch; why those of its jobs failed that did."""
        ...


class Executor(Protocol):
    """``device`` (auto, cpu or cuda) computes; ``workers`` train one round together, None: as many
    as the study says."""

    @property
    def device(self) -> str: ...

    @property
    def workers(self) -> int | None: ...

    def nodes(self, growth: Growth | None, *, ahead: bool) -> Sequence[Node]:
        """The machines that there are, or will be where there is a cluster that grows; ``ahead`` of
        a run, when its cluster may not be up. UserError where none can be reached."""
        ...

    def check(self, study: ResolvedStudy, nodes: Sequence[Node], device: str, workers: int) -> None:
        """UserError for a study that cannot run there."""

    def runner(
        self, study: ResolvedStudy, workspace: Path, tally: Tally, device: str, workers: int
    ) -> JobRunner:
        """What runs the jobs of one study; nothing is started yet."""
        ...
