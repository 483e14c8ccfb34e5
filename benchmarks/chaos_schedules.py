"""What a chaos schedule does and when: a pure function of the seed and the schedule's number."""

from __future__ import annotations

import random
from dataclasses import dataclass

KILLS = ("driver", "group", "worker", "segmenter", "training", "hub")
TRACKER = ("tracker dead", "tracker 500", "tracker slow", "tracker restart")
KINDS = (*KILLS, "pause", "damage", "disk", *TRACKER)
DAMAGE = (
    *("truncate data", "truncate manifest", "delete data", "delete manifest"),
    *("flip data", "flip manifest", "swap values"),
)
LEASE = {"HEARTBEAT": 0.3, "STALE": 2.0}
"""Seconds that the leases of the attacked runs have instead of their own."""
KEPT = {"damage": (0.3, 0.6, 1.0, 1.0), "training": (0.0, 0.4), "pause": (0.0, 0.4)}
"""Shares of the undisturbed run's artifacts that a schedule begins with, where it matters which:
damage is found by whoever reads it, in a full store at the end. The first round comes at 0.3, the
last before 0.6: to train is most of what a run costs, and being killed while one waits for it is
little of an attack."""
SLOW = 5.0
"""Seconds that a slow tracker takes for a request."""


@dataclass(frozen=True)
class Fault:
    """One fault, which belongs to one run of the command.

    ``when``: share of all stages that are stored as it comes; of a disk, the share of what the
    study will write that finds room. ``seconds``: how long a pause or an ill tracker lasts, and how
    long after it was first seen a training worker is killed.
    ``what``: whom a pause stops, and each damage. ``draw`` seeds what is drawn on the spot: which
    of several processes or artifacts.
    """

    kind: str
    when: float
    seconds: float = 0.0
    what: tuple[str, ...] = ()
    draw: int = 0

    def __str__(self) -> str:
        about = f" ({', '.join(self.what)})" if self.what else ""
        long = f" {'after' if self.kind in KILLS else 'for'} {self.seconds:.1f} s"
        return f"{self.kind}{about}{long if self.seconds else ''}"


@dataclass(frozen=True)
class Schedule:
    """``kept``: share of the undisturbed run's artifacts, the first that it made, that the first
    run finds in its store; what a later run finds is what the faults have left."""

    seed: int
    number: int
    kept: float
    faults: tuple[Fault, ...]

    @property
    def tracked(self) -> bool:
        """Whether its tracker is a server."""
        return any(fault.kind in TRACKER for fault in self.faults)


def schedule(seed: int, number: int) -> Schedule:
    """Schedule ``number`` of a seed. ``len(KINDS)`` in a row begin with each kind once; after a
    kill a second fault meets the run that goes on from there."""
    order = list(KINDS)
    random.Random(f"chaos {seed}").shuffle(order)
    draw = random.Random(f"chaos {seed} {number}")
    kind = order[number % len(order)]
    kept = draw.choice(KEPT.get(kind, (0.0, 0.3, 0.6, 0.6)))
    faults = [_fault(kind, kept, draw)]
    if kind in ("driver", "group") and draw.random() < 0.6:
        faults.append(_fault(draw.choice(("damage", "driver", "group")), faults[0].when, draw))
    return Schedule(seed, number, kept, tuple(faults))


def _fault(kind: str, kept: float, draw: random.Random) -> Fault:
    when, seconds = draw.uniform(kept, 0.95), 0.0
    what: tuple[str, ...] = ()
    if kind == "pause":
        seconds = draw.uniform(1.5, 3) * LEASE["STALE"]
        what = (draw.choice(("driver", "worker", "segmenter", "trial", "training")),)
    elif kind == "damage":
        when = kept
        what = tuple(draw.choice(DAMAGE) for _ in range(draw.randint(1, 4)))
    elif kind == "disk":
        when = draw.choice((0.0, draw.uniform(0.05, 0.9)))
    elif kind in ("tracker slow", "tracker restart"):
        seconds = draw.uniform(10, 25)
    # What lives for a part of a run has to be met in it.
    whom = what[0] if kind == "pause" else kind
    if whom in ("worker", "segmenter"):
        when = draw.uniform(kept, kept + 0.2)
    elif whom == "training":
        when = kept
        seconds = seconds or draw.uniform(0, 1)  # the shortest of a fast machine
    return Fault(kind, round(when, 3), round(seconds, 1), what, draw.randrange(2**31))
