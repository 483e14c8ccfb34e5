"""What a plan will cost on a cluster, as far as the ledger knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.ledger import Ledger
from coin_ray.planning.machines import Node, Resources, share
from coin_ray.planning.plan import Plan
from coin_ray.store.keys import Key


@dataclass
class Cost:
    """Of what is to be computed. ``complete`` is False where some of it was never timed and is not
    in the sums."""

    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    bytes: float = 0.0
    complete: bool = True


@dataclass(frozen=True)
class Estimate:
    """``stages``: cost by stage, ``total`` of all. ``wall_hours`` on the cluster at hand.

    ``saved``: share of the CPU time that sharing saves, stored or not; None where something was
    never timed. ``untimed`` names such work among what is to be computed; ``timings``: how many the
    estimate rests on, half of which are within ``spread`` of their rate.
    """

    stages: Mapping[str, Cost]
    total: Cost
    wall_hours: float
    saved: float | None
    untimed: tuple[str, ...]
    timings: int
    spread: float


@dataclass
class _Work:
    """Amounts of one kind of work."""

    alone: float = 0.0
    shared: float = 0.0
    left: float = 0.0
    count: int = 0
    uses: int = 0


def estimate(
    plan: Plan,
    ledger: Ledger,
    nodes: Sequence[Node],
    *,
    device: str,
    resources: Resources,
    workers: int = 1,
    done: Mapping[str, float] | None = None,
    further: float = 0.0,
) -> Estimate:
    """Hours and bytes of a plan. ``done``: share of a stage's missing work that will be done, for
    studies that leave levels out as they go; ``further``: cells that a search will add, alone and
    as a multiple of those planned."""
    stages: dict[str, Cost] = {stage: Cost() for stage in plan.stages}
    total, rates = Cost(), []
    untimed, known = [], True
    alone = shared = 0.0
    order = list(plan.stages)
    amounts = sorted(_amounts(plan).items(), key=lambda item: (order.index(item[0][0]), item[0]))
    for (stage, kind), amount in amounts:
        rate = ledger.rate(stage, kind, device)
        cpus, gpus = share(resources, stage, device)
        if rate is None:
            known = False
            wanted = bool(amount.left or further)
            cost = Cost(complete=not wanted)
            untimed += [f"{stage} {kind}".strip()] if wanted else []
        else:
            alone += amount.alone * rate.seconds * cpus
            shared += amount.shared * rate.seconds * cpus
            part = (done or {}).get(stage, 1.0)
            units = part * amount.left + further * amount.alone
            hours = units * rate.seconds / 3600
            rates += [(rate, hours)] if units else []
            fixed = part * amount.count + further * amount.uses
            size = units if STAGES[stage].grows else fixed
            cost = Cost(hours * cpus, hours * gpus, size * rate.bytes)
        _add(stages[stage], cost)
        _add(total, cost)
    hours = sum(weight for _, weight in rates)
    longest = max(training_hours(plan, ledger, device).values(), default=0.0)
    return Estimate(
        stages,
        total,
        max(_busy(total, nodes), longest / workers),
        1 - shared / alone if known and alone else None,
        tuple(untimed),
        sum(rate.timings for rate, _ in rates),
        sum(rate.spread * weight for rate, weight in rates) / hours if hours else 0.0,
    )


def _amounts(plan: Plan) -> dict[tuple[str, str], _Work]:
    found: dict[tuple[str, str], _Work] = {}
    for digest, key in plan.keys.items():
        work = found.get((key.stage, key.kind))
        if work is None:
            work = found[key.stage, key.kind] = _Work()
        whole, uses = plan.whole[digest], plan.uses[digest]
        work.alone += whole.amount * uses
        work.uses += whole.number * uses
        copies = plan.copies.get(digest, 1)
        work.shared += whole.amount * copies
        if digest in plan.missing:
            work.left += plan.missing[digest].amount * copies
            work.count += plan.missing[digest].number * copies
    return found


def _add(total: Cost, more: Cost) -> None:
    total.cpu_hours += more.cpu_hours
    total.gpu_hours += more.gpu_hours
    total.bytes += more.bytes
    total.complete &= more.complete


def _busy(total: Cost, nodes: Sequence[Node]) -> float:
    """Hours in which the cluster could do the work, always busy."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return max(total.cpu_hours / cpus, total.gpu_hours / gpus if gpus else 0.0)


def training_hours(plan: Plan, ledger: Ledger, device: str) -> dict[str, float]:
    """Hours of each missing training on one worker, by digest: of a coarse model, or of a round and
    all that are missing before it."""
    known: dict[str, float] = {}

    def hours(key: Key) -> float:
        if key.digest not in known:
            rate = ledger.rate(key.stage, key.kind, device)
            before = [k for k in plan.inputs(key) if k.stage == "round"]
            known[key.digest] = sum(map(hours, before))
            if rate is not None and key.digest in plan.missing:
                known[key.digest] += key.amount * rate.seconds / 3600
        return known[key.digest]

    trained = (key for d in plan.missing if STAGES[(key := plan.keys[d]).stage].trains)
    return {key.digest: hours(key) for key in trained}
