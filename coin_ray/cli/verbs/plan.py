"""``coin-ray plan``: what a study would run and cost, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coin_ray.cli import options
from coin_ray.cli.screen.output import duration, say, size

if TYPE_CHECKING:
    from rich.table import Table

    from coin_ray.execution.budget import StudyPlan
    from coin_ray.planning.estimate import Cost, Estimate
    from coin_ray.planning.plan import Plan
    from coin_ray.planning.workers import Paying


@options.takes_study()
def plan(
    asked: options.Asked,
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
) -> None:
    """Say what a study would run: its cells, their stages, what the store has already, hours.

    Hours come from what earlier stages took in this workspace. Code 1 if they exceed the budget.
    """
    from coin_ray.api import runs
    from coin_ray.api.studies import with_images
    from coin_ray.cli.screen import preamble
    from coin_ray.cli.screen.output import console
    from coin_ray.execution.trial_log import runs_folder, with_proposals

    executor = options.executor(address, workers, device)
    study = with_images(asked.resolve(), asked.workspace)
    place = runs_folder(study.resolved, asked.workspace)
    known = with_proposals(study.resolved, place)
    for text in (*preamble.opening(known), preamble.cells(known), *preamble.levels(known)):
        say(text)
    planned = runs.plan(study, executor)
    console().print(_table(planned.plan, planned.cost))
    for text in (*_sentences(planned), *preamble.power(known, study.data, place)):
        say(text)
    for text in preamble.cautions(known, study.data):
        say(f"warning: {text}")
    planned.refuse_over_budget()


def _table(plan: Plan, cost: Estimate) -> Table:
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


def _sentences(planned: StudyPlan) -> Iterator[str]:
    """What the table comes to."""
    from coin_ray.planning.machines import shapes

    study, plan, cost, where = planned.study, planned.plan, planned.cost, planned.where
    if study.cluster is not None:
        yield f"for a cluster that grows to {shapes(where.nodes)}"
    yield from planned.memory
    naive = sum(count.naive for count in plan.stages.values())
    if coming := planned.to_come:
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
        limit = planned.less
        yield f"to compute: {planned.about} {', '.join(parts)}" + (f" ({limit})" if limit else "")
        yield f"from {cost.timings} timings, half of them within {cost.spread:.0%} of the rate used"
    if planned.paying:
        yield from _workers(planned.paying, where.workers)
    if cost.untimed and cost.timings:
        what = ", ".join(cost.untimed)
        yield f"not in these hours, for it was never timed on {where.device} here: {what}"
    elif cost.untimed:
        yield f"nothing of it was timed on {where.device} here: a first cell will tell the hours"


def _workers(paying: Paying, asked: int) -> Iterator[str]:
    """Whether more workers of a round would pay, where there is room for them or they are asked
    for."""
    cells, places = f"{paying.trainings:,} to train", f"{paying.places:,} places for workers"
    if paying.trainings >= paying.places:
        if asked > 1:
            yield f"one worker a round is faster here: cells come first, {cells}, {places}"
        return
    shown = sorted({1, min(2, len(paying.hours)), paying.most, asked})
    times = ", ".join(f"{n}: {duration(paying.hours[n])}" for n in shown)
    yield (
        f"the longest training by workers of a round: {times}; more than {paying.most} stop paying "
        f"({cells}, {places}): they share crops and images to relabel, not their start and the "
        f"exchange of {size(paying.exchanged)} after every step"
    )


def _hours(cost: Cost, hours: float) -> str:
    return duration(hours) if cost.complete else f"> {duration(hours)}" if hours else "?"


def _size(cost: Cost) -> str:
    return size(cost.bytes) if cost.complete else f"> {size(cost.bytes)}" if cost.bytes else "?"
