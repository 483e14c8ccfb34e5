"""What stages have cost so far, from the manifests of the store, and what others will cost.

Nothing is measured for a plan and nothing is written down twice: an artifact's manifest says how
long it took, how large it is, and how much work of which kind it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coin_ray.pipeline.stages import STAGES
from coin_ray.store.artifacts import CorruptArtifact, Store
from coin_ray.store.timing import device_of

SAMPLE = 48
"""Manifests read of each stage: opening all of a large store would take longer than the plan."""


@dataclass(frozen=True)
class Rate:
    """Medians over ``timings`` artifacts of one kind of work: seconds per unit, bytes per unit or
    per artifact; ``spread`` is the median relative distance of a timing from the rate."""

    seconds: float
    bytes: float
    timings: int
    spread: float


Kind = tuple[str, str, str]
"""Stage, kind of work, device."""


@dataclass(frozen=True)
class Ledger:
    """Rates by kind of work; what was never computed here has none."""

    rates: Mapping[Kind, Rate] = field(default_factory=dict)

    def rate(self, stage: str, kind: str, device: str) -> Rate | None:
        """Of a kind of work where ``device`` is asked for."""
        return self.rates.get((stage, kind, device_of(device, STAGES[stage].runs != "cpu")))


def read_ledger(store: Store, stages: Iterable[str]) -> Ledger:
    """The rates of these stages, from the manifests that the store holds."""
    found: dict[Kind, list[tuple[float, float]]] = {}
    for stage in stages:
        folders = store.folders(stage)
        for folder in folders[:: -(-len(folders) // SAMPLE) or 1]:
            try:
                manifest = store.manifest(stage, folder)
            except (FileNotFoundError, CorruptArtifact):
                continue  # collected since, or broken: `store verify` will tell
            amount = manifest["amount"]
            if manifest["seconds"] > 0 and amount > 0:  # a round that was stopped early took none
                size = manifest["bytes"] / (amount if STAGES[stage].grows else 1)
                kind = stage, manifest["kind"], manifest["device"]
                found.setdefault(kind, []).append((manifest["seconds"] / amount, size))
    return Ledger({kind: _rate(timings) for kind, timings in found.items()})


def _rate(timings: list[tuple[float, float]]) -> Rate:
    rate = statistics.median(seconds for seconds, _ in timings)
    spread = statistics.median(abs(seconds - rate) / rate for seconds, _ in timings)
    size = statistics.median(size for _, size in timings)
    return Rate(rate, size, len(timings), spread)
