"""What a plan says about stages, hours and bytes, and whether that is within the study's budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from coin_ray.cli.output import say
from coin_ray.errors import UserError
from coin_ray.study.resolved import Budget, ResolvedStudy

if TYPE_CHECKING:
    from rich.table import Table

    from coin_ray.planning.estimate import Cost, Estimate
    from coin_ray.planning.machines import Node
    from coin_ray.planning.plan import Plan
    from coin_ray.study.datasets import Resolved

TRAINED = ("round", "predict", "redraw")
"""Stages that a cell which is screened out never comes to."""


@dataclass(frozen=True)
class Target:
    """Where a study is to run."""

    nodes: Sequence[Node]
    device: str
    workers: int


def target(study: ResolvedStudy, address: str | None, device: str, workers: int | None) -> Target:
    """The cluster at ``address``, or this machine. UserError if the study asks for more."""
    from coin_ray.planning.machines import find_device, refuse_impossible

    if address is None:
        nodes = [here()]
    else:
        from coin_ray.cluster.nodes import nodes_of

        nodes = nodes_of(address)
    device = find_device(device, nodes, study.profile)
    workers = round_workers(study, workers)
    models = len({cell.config.sam.model for cell in study.cells})
    refuse_impossible(study.resources, nodes, device=device, workers=workers, models=models)
    return Target(nodes, device, workers)


def here() -> Node:
    """This machine; GPUs that torch cannot use do not count."""
    from coin_ray.planning.machines import this_machine

    node = this_machine()
    if node.gpus:
        import torch

        return node if torch.cuda.is_available() else replace(node, gpus=0)
    return node


def round_workers(study: ResolvedStudy, asked: int | None) -> int:
    """Processes that train one round together."""
    return asked or int(study.resources.get("round", {}).get("workers", 1))


def estimated(study: ResolvedStudy, plan: Plan, workspace: Path, where: Target) -> Estimate:
    """The cost of a plan, from the timings in the workspace's store."""
    from coin_ray.planning.estimate import estimate
    from coin_ray.planning.ledger import read_ledger
    from coin_ray.store.artifacts import Store

    done: dict[str, float] = {}
    if study.screen is not None:
        kept = min(1.0, (study.screen.keep + 1) / len(study.levels))
        done = dict.fromkeys(TRAINED, kept)
    return estimate(
        plan,
        read_ledger(Store(workspace / "store"), plan.stages),
        where.nodes,
        device=where.device,
        resources=study.resources,
        workers=where.workers,
        done=done,
        further=to_come(study) / len(study.levels),
    )


def to_come(study: ResolvedStudy) -> int:
    """Trials of a search that are not among its levels yet."""
    return 0 if study.search is None else max(0, study.search.trials - len(study.levels) + 1)


def at_most(study: ResolvedStudy) -> str:
    """Why a study may compute less than its plan says; empty if it computes just that."""
    if to_come(study):
        return "trials to come are counted as if they shared nothing"
    if study.screen is not None:
        return f"only the {study.screen.keep} best levels and the baseline are trained"
    if study.first_seeds is not None:
        return f"seeds after the first {study.first_seeds} run only where the verdict is open"
    if study.stopping.rule != "none" or any(c.config.rounds.early_stop for c in study.cells):
        return "rounds that are not worth it are left out"
    return ""


def table(plan: Plan, cost: Estimate) -> Table:
    """Stages: of all cells by themselves, shared, stored, to run, and what those cost."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    gpu = bool(cost.total.gpu_hours)
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1), show_footer=True)
    stages = plan.stages.values()
    left = sum(count.missing for count in stages)
    columns = [
        ("stage", "total"),
        ("alone", f"{sum(count.naive for count in stages):,}"),
        ("unique", f"{plan.unique:,}"),
        ("stored", f"{plan.stored:,}"),
        ("to run", f"{left:,}"),
        ("CPU", _hours(cost.total, cost.total.cpu_hours) if left else ""),
        *([("GPU", _hours(cost.total, cost.total.gpu_hours))] if gpu else []),
        ("size", _size(cost.total) if left else ""),
    ]
    for title, footer in columns:
        right = title != "stage"
        drawn.add_column(title, footer=footer, justify="right" if right else "left", no_wrap=True)
    for stage, count in plan.stages.items():
        own = cost.stages[stage]
        numbers = (count.naive, count.unique, count.stored, count.missing)
        costs = [_hours(own, own.cpu_hours)]
        costs += [_hours(own, own.gpu_hours) if own.gpu_hours else ""] if gpu else []
        costs += [_size(own)]
        drawn.add_row(stage, *(f"{n:,}" for n in numbers), *(costs if count.missing else ()))
    return drawn


def sentences(study: ResolvedStudy, plan: Plan, cost: Estimate, where: Target) -> Iterator[str]:
    """What the table comes to."""
    from coin_ray.planning.machines import shapes

    naive = sum(count.naive for count in plan.stages.values())
    if coming := to_come(study):
        known = f"{len(study.levels) - 1} of {coming + len(study.levels) - 1}"
        yield f"the table is of the baseline and the trials proposed so far: {known}"
    if naive > plan.unique:
        time = "" if cost.saved is None else f" and {cost.saved:.0%} of the time"
        saved = (naive - plan.unique) / naive
        yield f"sharing saves {saved:.0%} of the stages{time} that the cells alone would take"
    if not plan.missing and not coming:
        yield "nothing to compute: all that is needed is stored"
        return
    if cost.timings:
        parts = [f"CPU {duration(cost.total.cpu_hours)}"]
        parts += [f"GPU {duration(cost.total.gpu_hours)}"] if cost.total.gpu_hours else []
        parts += [f"{duration(cost.wall_hours)} on {shapes(where.nodes)}", size(cost.total.bytes)]
        limit = at_most(study)
        yield f"to compute: {_about(study, cost)} {', '.join(parts)}" + (
            f" ({limit})" if limit else ""
        )
        yield f"from {cost.timings} timings, half of them within {cost.spread:.0%} of the rate used"
    if cost.untimed and cost.timings:
        what = ", ".join(cost.untimed)
        yield f"not in these hours, for it was never timed on {where.device} here: {what}"
    elif cost.untimed:
        yield f"nothing of it was timed on {where.device} here: a first cell will tell the hours"


def admit(
    study: ResolvedStudy,
    data: Mapping[str, Resolved],
    workspace: Path,
    where: Target,
) -> None:
    """Before anything starts: code 1 if the study has a budget and what it lacks is estimated to
    exceed it."""
    from coin_ray.cli.results import as_known
    from coin_ray.planning.plan import plan_cells

    if study.budget == Budget():
        return
    study = as_known(study, workspace)
    cost = estimated(study, plan_cells(study.cells, data, workspace), workspace, where)
    stop_over_budget(study, cost)
    if cost.untimed:
        say("note: the budget was checked only for what was timed here before")


def stop_over_budget(study: ResolvedStudy, cost: Estimate) -> None:
    """End with code 1 if the estimate exceeds the study's budget."""
    found = {
        "gpu_hours": cost.total.gpu_hours,
        "cpu_hours": cost.total.cpu_hours,
        "wall_hours": cost.wall_hours,
    }
    for name, hours in found.items():
        limit = getattr(study.budget, name)
        if limit is not None and hours > limit:
            over = UserError(
                f"the study exceeds its budget of {name}",
                where=study.source_files[0],
                expected=f"at most {limit:g}",
                found=f"{_about(study, cost)} {hours:.3g}",
                do="raise the budget, or run fewer levels, seeds or rounds",
            )
            say(str(over), err=True)
            raise typer.Exit(1)


def _about(study: ResolvedStudy, cost: Estimate) -> str:
    return "at least" if cost.untimed else "at most" if at_most(study) else "about"


def duration(hours: float) -> str:
    """``40 s``, ``12 min``, ``3.4 h``."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.1f} h"


def size(number: float) -> str:
    """``12 kB``, ``3.4 MB``, ``1.2 GB``."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"


def _hours(cost: Cost, hours: float) -> str:
    return duration(hours) if cost.complete else f"> {duration(hours)}" if hours else "?"


def _size(cost: Cost) -> str:
    return size(cost.bytes) if cost.complete else f"> {size(cost.bytes)}" if cost.bytes else "?"
