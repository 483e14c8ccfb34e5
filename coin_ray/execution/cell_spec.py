"""One cell as plain data that crosses processes, opened and run to its end wherever that is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coin_ray.events.events import (
    Event,
    RoundFinished,
    RoundProgress,
    StageFinished,
    StageReused,
    StageStarted,
)
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.needs import with_cache
from coin_ray.pipeline.runner import Each, Train, run_cell
from coin_ray.pipeline.segmenter import Segmenter
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.training import round_facts, train_stage
from coin_ray.report.export import export
from coin_ray.store.artifacts import Store
from coin_ray.store.keys import Key
from coin_ray.study.resolved import StudyCell, Until
from coin_ray.training.world import World
from coin_ray.workspace import Workspace, for_group

SAY = 5.0
"""Seconds between two signs of life of a training."""


class Withdrawn(Exception):
    """The cell is not asked for any more: its study has been edited."""


class NoSegmenter:
    """Of a cell that the store has whole."""

    def masks(self, image: Any, embed: Key, prompts: Any, look: Any, done: Any = None) -> Any:
        """Raises RuntimeError: what the plan saw in the store is there no more."""
        raise RuntimeError(f"{embed.path} has gone from the store since the plan; run again")


NO_SEGMENTER = NoSegmenter()


@dataclass(frozen=True)
class CellSpec:
    """One cell as plain, small data: it is sent with every task.

    ``rounds`` of the cell's own are run, ``until`` a stage or its end. ``weights`` and ``masks``
    are content digests found once on the driver; ``who`` holds the fields of the cell's events
    (cell, level, data, seed); ``content`` is the digest of its data set, for whoever reads its
    results; ``resources`` is the study's; ``folder`` is for the files of Ray Train; ``tell`` takes
    the events of the cell; ``cache`` is the plan's ``uss.cache``; ``withdrawn`` says whether the
    cell is not asked for any more; one with an ``oracle``, which reads the labels of ``known``,
    leaves no results.
    """

    config: Cell
    rounds: int
    seed: int
    train: tuple[Any, ...]
    samples: tuple[Any, ...]
    weights: Mapping[str, str]
    masks: Mapping[str, str]
    workspace: Path
    device: str
    who: Mapping[str, Any]
    segmenter: Segmenter = NO_SEGMENTER
    folder: Path | None = None
    tell: Callable[[Event], Any] | None = None
    resources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    content: str = ""
    until: Until | None = None
    cache: str | None = None
    withdrawn: Callable[[], bool] | None = None
    oracle: str = ""
    known: tuple[Any, ...] = ()

    @property
    def store(self) -> Store:
        return Store(Workspace(self.workspace).store, self.device)

    def emit(self, kind: type[Any], **values: Any) -> Any:
        """Send an event of this cell without waiting; what an executor can wait for."""
        return None if self.tell is None else self.tell(kind(**self.who, **values))

    def go_on(self) -> None:
        """Raises Withdrawn once the cell is not asked for any more."""
        if self.withdrawn is not None and self.withdrawn():
            raise Withdrawn(self.who["cell"])


def who(cell: StudyCell) -> dict[str, Any]:
    """The fields of a cell's events."""
    return {
        "cell": cell.key_label,
        "level": cell.level,
        "data": cell.data.name,
        "seed": cell.seed,
    }


def with_rounds(config: Cell, rounds: int) -> Cell:
    """The same cell with so many rounds: its chain is the beginning of the longer one."""
    section = config.rounds.model_copy(update={"count": rounds})
    return config.model_copy(update={"rounds": section})


def open_cell(spec: CellSpec) -> CellRun:
    """The cell as an object, in whatever process this is."""
    for_group(spec.workspace)

    def done(key: Key, seconds: float) -> None:
        spec.emit(StageFinished, stage=key.stage, image=key.name, seconds=seconds, key=key.digest)
        spec.go_on()

    def reused(key: Key) -> None:
        spec.emit(StageReused, stage=key.stage, image=key.name, key=key.digest)

    def coarse(folder: str, name: str) -> str:
        return spec.masks[name]

    config = with_rounds(with_cache(spec.config, spec.device, spec.cache), spec.rounds)
    given = (config, spec.seed, spec.train, spec.weights.__getitem__, coarse)
    return CellRun(
        config,
        Chain(*given, device=spec.device).with_oracle(spec.oracle, spec.known),
        spec.store,
        spec.segmenter,
        spec.device,
        done,
        reused,
    )


def run_to_end(
    spec: CellSpec, run: CellRun, each: Each, train: Train, study: str | None
) -> dict[str, float]:
    """Run a cell and give its means over images; with ``study``, write what the user takes away
    from one that has an end into that folder of results."""
    trained = set[str]()

    def training(stage: str) -> None:
        trained.add(stage)
        train(stage)

    rows, facts = run_cell(run, spec.samples, each, training, spec.until)
    if "round" not in trained:  # by another cell, or for a driver that died before it heard of it
        for round_ in range(1, spec.rounds + 1):
            seconds = run.store.info(run.key("round", round_=round_))["seconds"]
            metrics = round_facts(run, round_)
            spec.emit(RoundFinished, round=round_, metrics=metrics, seconds=seconds, stored=True)
    if study is not None and spec.until is None and not spec.oracle:
        folder = Workspace(spec.workspace).runs / study / spec.who["cell"]
        whose = {**spec.who, "content": spec.content}
        export(run, spec.samples, folder, rows, {**whose, **facts}, spec.config)
    last = refs.final_step(run.chain)
    return {**facts, **_mean_metrics([r for r in rows if r["step"] == last])}


def train_and_tell(
    spec: CellSpec,
    stage: str,
    world: World,
    report: Callable[[int, Mapping[str, float]], None] = lambda round_, metrics: None,
) -> None:
    """Train the coarse model (``ucis_model``) or the missing rounds (``round``) of a cell as one of
    ``world``, and say how it goes on; ``report`` hears of each round on every process."""
    first, said = world.rank == 0, time.monotonic()

    def finished(round_: int, metrics: Mapping[str, float], seconds: float) -> None:
        if first:
            spec.emit(RoundFinished, round=round_, metrics=dict(metrics), seconds=seconds)
        report(round_, metrics)

    def progress(step: int, steps: int, loss: float) -> None:
        nonlocal said
        if time.monotonic() - said >= SAY:
            said = time.monotonic()
            spec.emit(RoundProgress, step=step, steps=steps)

    if first:
        spec.go_on()
        spec.emit(StageStarted, stage=stage)
    train_stage(open_cell(spec), world, finished, stage, progress)


def ended_early(spec: CellSpec) -> int | None:
    """After how many rounds, if not after all."""
    return spec.rounds if spec.rounds < spec.config.rounds.count else None


def _mean_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over images; NaN (nothing to compare) is left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["value"] == row["value"]:
            values.setdefault(row["metric"], []).append(row["value"])
    return {metric: statistics.fmean(v) for metric, v in values.items()}
