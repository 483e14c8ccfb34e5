"""When more workers of a round stop paying.

What they share: the crops of a step and the images to relabel, whole ones each. What each of them
does anew, or waits for: Ray Train's start, and the exchange of the gradients after every step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coin_ray.planning.asked import down
from coin_ray.planning.estimate import training_hours
from coin_ray.planning.ledger import Ledger
from coin_ray.planning.plan import Plan
from coin_ray.store.keys import Key

START = 12.0
"""Seconds until several workers have begun (docs/cluster.md); one needs no Ray Train."""
NEAR: Mapping[str, float] = {"cpu": 0.5e9, "cuda": 10e9}
"""Bytes a second that workers of one node exchange: gloo as measured on two cores, NCCL over PCIe 4
as it is built."""
FAR = 1e9
"""Bytes a second between nodes: a network of 10 gigabit."""
LEAST = 0.5
"""Share of the workers' time that has to be training for them to pay."""
RELABELLING = ("masks", "predict", "score", "peaks", "candidates", "mine", "select")


@dataclass(frozen=True)
class Paying:
    """``trainings`` are to be done, for whose workers there are ``places``; ``hours`` of the
    longest by the number of workers, of whom more than ``most`` do not pay. ``exchanged``: bytes of
    gradients."""

    trainings: int
    places: int
    hours: Mapping[int, float]
    most: int
    exchanged: float


def paying(
    plan: Plan, ledger: Ledger, *, device: str, places: int, near: int, workers: int
) -> Paying | None:
    """None where nothing is to be trained, or none of its kind was ever timed. ``places``: workers
    that the cluster has room for, ``near`` of them on one node."""
    known = training_hours(plan, ledger, device)
    rounds = {d: plan.keys[d] for d in plan.missing if plan.keys[d].stage == "round"}
    last = rounds.keys() - {one.digest for key in rounds.values() for one in plan.inputs(key)}
    if not last:
        return None
    longest = rounds[max(last, key=lambda digest: (known[digest], digest))]
    rate = ledger.rate("round", longest.kind, device)
    if rate is None or not known[longest.digest]:
        return None
    trainings = sum(plan.copies.get(digest, 1) for digest in last)
    mine = _missing_rounds(longest, plan)
    settings = [json.loads(key.fields)["settings"] for key in mine]
    batch, steps = settings[0]["batch"], sum(one["iterations"] for one in settings)
    relabelling = _relabelling(mine, plan, ledger, device)

    def seconds(n: int) -> float:
        each = math.ceil(batch / n) / batch
        speed = NEAR[device.partition(":")[0]] if n <= near else FAR
        exchange = steps * 2 * (n - 1) / n * rate.bytes / speed
        start = START if n > 1 else 0.0
        return start + 3600 * known[longest.digest] * each + relabelling / n + exchange

    most, asked = 1, range(1, max(workers, min(places, batch)) + 1)
    while most < asked[-1] and seconds(1) >= LEAST * (most + 1) * seconds(most + 1):
        most += 1
    return Paying(trainings, places, {n: seconds(n) / 3600 for n in asked}, most, rate.bytes)


def _missing_rounds(key: Key, plan: Plan) -> list[Key]:
    """Those of a training, its last one first."""
    before = [k for k in plan.inputs(key) if k.stage == "round" and k.digest in plan.missing]
    return [key, *(found for one in before for found in _missing_rounds(one, plan))]


def _relabelling(rounds: Sequence[Key], plan: Plan, ledger: Ledger, device: str) -> float:
    """Seconds in which the workers make labels with the student of the round before, as far as that
    was ever timed; the first labels are made before they begin."""
    later = [key for key in rounds if any(k.stage == "round" for k in plan.inputs(key))]
    labels = [k for key in later for k in plan.inputs(key) if k.stage == "select"]

    def inputs(key: Key) -> list[Key]:
        found = [k for k in plan.inputs(key) if k.stage in RELABELLING]
        return [k for k in found if k.digest in plan.missing]

    return sum(
        rate.seconds * plan.missing[key.digest].amount
        for key in down(labels, inputs).values()
        if (rate := ledger.rate(key.stage, key.kind, device)) and key.digest in plan.missing
    )
