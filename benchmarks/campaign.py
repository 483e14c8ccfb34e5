"""What sharing stages saves: three studies as one campaign against each of their cells alone.

    python -m benchmarks.campaign --data PATH

Every cell runs in this process, one after the other, with the same settings on the same images,
three times over: with the store of the whole campaign, in a campaign that screens (all levels up to
their first labels, rounds only for the best ``--keep`` of each study by agreement with the
segmenter, and its baseline), and with an empty store of its own. Ground truth is never read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import resolve_data
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.study import resolve

STUDIES = ("uss_backbones", "ot_lambda", "thresholds")
SHORT = ("student.iterations=60", "student.later_iterations=30")


@dataclass
class Cost:
    """Seconds and computed stages, before the first round and in all; ``cells`` distilled."""

    prefix: float = 0.0
    total: float = 0.0
    prefix_stages: int = 0
    stages: int = 0
    cells: int = 0

    @contextmanager
    def timed(self, *, prefix: bool) -> Iterator[Callable[..., None]]:
        """Adds the block's time; the value is a listener that counts its stages."""
        found = 0

        def count(*_: object) -> None:
            nonlocal found
            found += 1

        start = time.perf_counter()
        yield count
        seconds = time.perf_counter() - start
        self.total, self.stages = self.total + seconds, self.stages + found
        if prefix:
            self.prefix, self.prefix_stages = self.prefix + seconds, self.prefix_stages + found


class Campaign:
    """The cells of ``studies`` in workspaces of their own or in a common one."""

    def __init__(self, studies: Sequence[ResolvedStudy], scratch: Path) -> None:
        self.studies, self.scratch = studies, scratch
        (spec,) = studies[0].data
        self.images = [s.image for s in resolve_data(spec, scratch).samples]

    def begin(self, cell: StudyCell, workspace: Path, cost: Cost) -> float:
        """Up to the first labels; the mean agreement, what screening ranks by."""
        with cost.timed(prefix=True) as count:
            run = self._open(cell, workspace, count)
            for image in self.images:
                run.labels(image, 1)
        scores = [run.artifact("score", image, 1).info for image in self.images]
        return sum(s["agreement_sum"] for s in scores) / sum(s["instances"] for s in scores)

    def finish(self, cell: StudyCell, workspace: Path, cost: Cost) -> None:
        """Rounds and final labels; evaluation needs a truth, and the images have none."""
        with cost.timed(prefix=False) as count:
            run_local(self._open(cell, workspace, count), [])
        cost.cells += 1

    def _open(self, cell: StudyCell, workspace: Path, count: Callable[..., None]) -> CellRun:
        return open_local(cell.config, cell.seed, self.images, workspace, done=count)

    def shared(self) -> Cost:
        cost = Cost()
        workspace = self.scratch / "shared"
        for study in self.studies:
            for cell in study.cells:
                self.begin(cell, workspace, cost)
                self.finish(cell, workspace, cost)
        return cost

    def alone(self) -> Cost:
        cost = Cost()
        for study in self.studies:
            for cell in study.cells:
                with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                    self.begin(cell, Path(folder), cost)
                    self.finish(cell, Path(folder), cost)
        return cost

    def screened(self, keep: int) -> Cost:
        cost = Cost()
        workspace = self.scratch / "screened"
        for study in self.studies:
            value = {c.level: self.begin(c, workspace, cost) for c in study.cells}
            others = [level for level in value if level != study.baseline_level]
            chosen = {study.baseline_level, *sorted(others, key=lambda n: -value[n])[:keep]}
            for cell in study.cells:
                if cell.level in chosen:
                    self.finish(cell, workspace, cost)
        return cost


def table(costs: dict[str, Cost], alone: Cost) -> str:
    """The costs as Markdown, with the factor by which each is below ``alone``."""
    lines = [
        "| | cells to the end | stages before round 1 | s | saving | all stages | s | saving |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, cost in costs.items():
        lines.append(
            f"| {name} | {cost.cells} | {cost.prefix_stages} | {cost.prefix:.0f} | "
            f"{alone.prefix / cost.prefix:.1f}x | {cost.stages} | {cost.total:.0f} | "
            f"{alone.total / cost.total:.1f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--set", action="append", default=list(SHORT), help="a.b=value")
    parser.add_argument("--keep", type=int, default=1)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    request = Request(data=(given.data,), settings=tuple(given.set), seeds="1")
    studies = [resolve(name, request) for name in STUDIES]
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(studies, Path(folder))
        # Weights and libraries are loaded before anything is timed.
        campaign.begin(studies[0].cells[0], Path(folder) / "warm", Cost())
        costs = {
            "one campaign": campaign.shared(),
            f"one campaign, screening (best {given.keep})": campaign.screened(given.keep),
        }
        alone = campaign.alone()
        print(table({"each cell alone": alone, **costs}, alone))


if __name__ == "__main__":
    main()
