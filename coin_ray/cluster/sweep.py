"""A study on a cluster: one Ray Tune trial a cell, the store and the segmenters shared by all."""

from __future__ import annotations

import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from coin_ray.cluster.rounds import train_rounds
from coin_ray.cluster.scoring import start_actors
from coin_ray.cluster.session import session
from coin_ray.cluster.tasks import CellSpec, EventHub, distributed, open_cell
from coin_ray.errors import UserError
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import needed_weights
from coin_ray.pipeline.events import (
    CellFailed,
    CellFinished,
    CellStarted,
    Event,
    StageFinished,
    StageReused,
    StudyFinished,
    StudyStarted,
    from_json,
)
from coin_ray.pipeline.plan import Plan, plan_cells
from coin_ray.pipeline.runner import Each, export, run_cell, serial
from coin_ray.study.datasets import Resolved
from coin_ray.study.resolved import ResolvedStudy, StudyCell

Listen = Callable[[Event], None]


@dataclass(frozen=True)
class Resources:
    """What one trial may take; runtime only. ``workers``: processes of a distillation round."""

    workers: int = 1
    cpus: int | None = None
    segmenters: int | None = None


@dataclass(frozen=True)
class Outcome:
    """``failed``: cell -> one-line cause."""

    computed: int
    reused: int
    failed: Mapping[str, str]
    seconds: float


def run_study(
    study: ResolvedStudy,
    data: Mapping[str, Resolved],
    *,
    workspace: Path,
    listen: Listen,
    address: str | None = None,
    device: str = "cpu",
    resources: Resources = Resources(),
) -> Outcome:
    """Run every cell of ``study`` that is not finished; the event stream tells all that happens.

    Raises UserError before anything starts if weights, GPU or cluster are missing. A failing cell
    does not stop the others. KeyboardInterrupt passes through after the session is closed; running
    the same study again continues.
    """
    workspace = workspace.resolve()
    start = time.perf_counter()
    plan = plan_cells(study.cells, data, workspace)
    if not plan.to_compute:
        return _served(study, data, plan, workspace, listen)
    counter = _Counter(listen)
    failed: dict[str, str] = {}
    interrupted = True
    with session(address, cpus=resources.cpus, device=device) as total:
        listen(
            StudyStarted(
                study=study.name,
                cells=len(study.cells),
                to_compute=plan.to_compute,
                stored=plan.stored,
                workers=resources.workers,
            )
        )
        concurrent = _concurrency(total, device, resources)
        hub = ray.remote(num_cpus=0)(EventHub).remote()
        try:
            with _pumped(hub, counter):
                specs = _specs(study, data, plan, workspace, device, hub, total, resources)
                _tune(study, specs, workspace, resources, concurrent)
            interrupted = False
        finally:
            failed |= counter.failed
            listen(
                StudyFinished(
                    study=study.name,
                    computed=counter.computed,
                    # Of an interrupted study nobody knows what it would have reused.
                    reused=plan.stored if interrupted else max(0, plan.unique - counter.computed),
                    failed=len(failed),
                    seconds=time.perf_counter() - start,
                    interrupted=interrupted,
                )
            )
    reused = max(0, plan.unique - counter.computed)
    return Outcome(counter.computed, reused, failed, time.perf_counter() - start)


class _Counter:
    """Passes events on and keeps the few numbers that the end of a study reports."""

    def __init__(self, listen: Listen) -> None:
        self._listen, self._keys = listen, set[str]()
        self._told: set[tuple[str, str]] = set()
        self.failed: dict[str, str] = {}

    @property
    def computed(self) -> int:
        return len(self._keys)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageFinished | StageReused):
            # A cell asks for what it has computed itself, and asks again: neither is a hit.
            known = (event.cell, event.key) in self._told
            self._told.add((event.cell, event.key))
            if isinstance(event, StageFinished):
                self._keys.add(event.key)
            elif known:
                return
        if isinstance(event, CellFailed):
            self.failed[event.cell] = event.cause
        self._listen(event)


@contextmanager
def _pumped(hub: Any, listen: Listen) -> Iterator[None]:
    """Hand the hub's events to ``listen`` from a thread while the body runs, all of them at its
    end."""
    stop = threading.Event()

    def pump() -> None:
        while not stop.is_set():
            drain()
            stop.wait(0.25)

    def drain() -> None:
        for event in ray.get(hub.drain.remote()):
            listen(from_json(event))

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        drain()


def _concurrency(total: Mapping[str, float], device: str, resources: Resources) -> int:
    """Trials at once, so that each one's largest request can be met: uncapped, drivers that all
    wait for workers leave none for any. UserError if not even one would fit."""
    kind = "GPU" if device.startswith("cuda") else "CPU"
    fit = int(total.get(kind, 0) // resources.workers)
    if not fit:
        raise UserError(
            f"the cluster cannot train on {resources.workers} workers at once",
            expected=f"at least {resources.workers} {kind}s",
            found=f"{total.get(kind, 0):g}",
            do=f"--workers {max(1, int(total.get(kind, 0)))}, or a larger cluster",
        )
    return fit


def _specs(
    study: ResolvedStudy,
    data: Mapping[str, Resolved],
    plan: Plan,
    workspace: Path,
    device: str,
    hub: Any,
    total: Mapping[str, float],
    resources: Resources,
) -> dict[str, CellSpec]:
    store = workspace / "store"
    pools: dict[str, tuple[Any, ...]] = {}
    devices = int(total.get("GPU", 0)) if device.startswith("cuda") else int(total["CPU"]) // 2
    for sam in {cell.config.sam for cell in study.cells}:
        if sam.model not in pools:
            count = resources.segmenters or max(1, devices)
            pools[sam.model] = start_actors(
                sam.model, store, device=device, batch=sam.batch, count=count
            )
    return {
        cell.key_label: replace(
            _spec(cell, data, plan, workspace),
            device=device,
            actors=pools[cell.config.sam.model],
            hub=hub,
            resources=_stage_resources(study),
        )
        for cell in study.cells
    }


def _spec(cell: StudyCell, data: Mapping[str, Resolved], plan: Plan, workspace: Path) -> CellSpec:
    """A cell with all that its keys need, and no cluster yet."""
    return CellSpec(
        config=cell.config,
        seed=cell.seed,
        train=data[cell.data.name].train,
        samples=data[cell.data.name].samples,
        weights={name: plan.weights[name] for name in needed_weights(cell.config)},
        masks=plan.masks.get((cell.config.ucis.path or "", cell.data.name), {}),
        workspace=workspace,
        device="cpu",
        who={
            "cell": cell.key_label,
            "level": cell.level,
            "data": cell.data.name,
            "seed": cell.seed,
        },
    )


def _served(
    study: ResolvedStudy,
    data: Mapping[str, Resolved],
    plan: Plan,
    workspace: Path,
    listen: Listen,
) -> Outcome:
    """A study that the store has whole: its results come from there, and no cluster is started."""
    start = time.perf_counter()
    counter = _Counter(listen)
    counter(StudyStarted(study.name, len(study.cells), {}, plan.stored))
    for cell in study.cells:
        spec = _spec(cell, data, plan, workspace)
        counter(CellStarted(**spec.who))
        try:
            run = open_cell(spec)
            metrics = _cell(spec, study.run_name, run, serial(run, spec.samples), lambda: None)
        except Exception as error:
            counter(CellFailed(**spec.who, cause=_cause(error), trace=traceback.format_exc()))
        else:
            counter(CellFinished(**spec.who, metrics=metrics))
    seconds = time.perf_counter() - start
    failed = len(counter.failed)
    counter(StudyFinished(study.name, counter.computed, plan.unique, failed, seconds))
    return Outcome(counter.computed, plan.unique, counter.failed, seconds)


def _stage_resources(study: ResolvedStudy) -> dict[str, float]:
    stage = study.resources.get("stage", {})
    train = study.resources.get("round", {})
    found = {k: float(v) for k, v in stage.items() if k in ("cpu", "gpu")}
    if "cpu" in train:
        found["train_cpu"] = float(train["cpu"])
    return found


def _tune(
    study: ResolvedStudy,
    specs: Mapping[str, CellSpec],
    workspace: Path,
    resources: Resources,
    concurrent: int,
) -> None:
    trainable = tune.with_parameters(
        _trial, specs=dict(specs), study=study.run_name, workers=resources.workers
    )
    # A driver only waits, and whatever CPU it holds its own workers lack: with a thousandth of one,
    # two workers never fit on two CPUs. Nothing at all is refused, so it asks for one byte.
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([{"memory": 1}]))
    tuner = tune.Tuner(
        trainable,
        param_space={"cell": tune.grid_search([cell.key_label for cell in study.cells])},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name=f"{study.name}-{time.time_ns()}",
            storage_path=str(workspace / "ray"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()


def _trial(
    config: Mapping[str, str], specs: Mapping[str, CellSpec], study: str, workers: int
) -> None:
    spec = specs[config["cell"]]
    start = time.perf_counter()
    spec.emit(CellStarted)
    try:
        run = open_cell(spec)
        each = distributed(spec)
        metrics = _cell(spec, study, run, each, lambda: train_rounds(spec, workers))
    except Exception as error:
        cause = _cause(error)
        spec.emit(CellFailed, cause=cause, trace=traceback.format_exc())
        raise
    spec.emit(CellFinished, metrics=metrics, seconds=time.perf_counter() - start)
    tune.report(metrics)


def _cell(
    spec: CellSpec, study: str, run: CellRun, each: Each, rounds: Callable[[], None]
) -> dict[str, float]:
    """Run a cell, write what the user takes away, and give its means."""
    rows, facts = run_cell(run, spec.samples, each, rounds)
    folder = spec.workspace / "runs" / study / spec.who["cell"]
    export(run, spec.samples, folder, rows, {**spec.who, **facts})
    last = run.keys.final_step()
    return {**facts, **mean_metrics([r for r in rows if r["step"] == last])}


def mean_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over images; NaN (nothing to compare) is left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["value"] == row["value"]:
            values.setdefault(row["metric"], []).append(row["value"])
    return {metric: statistics.fmean(v) for metric, v in values.items()}


def _cause(error: BaseException) -> str:
    """The innermost error in one line: Ray wraps it, and Train once more, by worker."""
    while True:
        workers = getattr(error, "worker_failures", None)
        inner = next(iter(workers.values())) if workers else None
        inner = inner or getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if isinstance(error, UserError):
        return "; ".join(lines)
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
