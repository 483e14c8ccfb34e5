"""What stages have cost so far, from the manifests of the store, and what others will cost.

Nothing is measured for a plan and nothing is written down twice: an artifact's manifest says how
long it took, how large it is, and how much work of which kind it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coin_ray.pipeline.coarse_settings import Ucis
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.store import CorruptArtifact, Store, device_of

SAMPLE = 48
"""Manifests read of each stage: opening all of a large store would take longer than the plan."""
ONE_SIZE = ("ucis_model", "round", "evaluate", "centroids")
"""Stages whose artifacts do not grow with the work."""


def work(stage: str, config: Cell) -> tuple[str, float]:
    """Kind and amount of a stage's work: within a kind, seconds grow in proportion to the amount.

    The amount is that of one pixel of the stage's image (of ``features`` at zoom 1), and of one
    training step for ``round`` and, if it counts all its steps as ``iterations``, ``ucis_model``.
    """
    if stage == "ucis_model":
        return _coarse(config.ucis)
    if stage == "ucis":
        trained = config.ucis.trained
        return config.ucis.model + (f" {trained.width}" if trained else ""), 1.0
    if stage == "features":
        uss = config.uss
        return f"{uss.family} {uss.size}", (1 + uss.hflip) / uss.stride**2
    if stage == "refine":
        return "crf" if config.crf.enabled else "", 1.0
    if stage in ("embed", "masks"):
        return config.sam.model, 1.0
    if stage == "score":
        return "+".join(config.score.terms), 1.0
    if stage == "round":
        return _student(config), float(config.student.batch * config.student.crop**2)
    if stage == "predict":
        infer = config.infer
        views = sum(scale**2 for scale in infer.scales) * (1 + infer.hflip)
        return _student(config) + (" crf" if infer.crf else ""), views
    return "", 1.0


def _coarse(ucis: Ucis) -> tuple[str, float]:
    if ucis.model == "psm":
        psm = ucis.psm
        crops = psm.activation_iterations * psm.activation_batch
        crops += (psm.point_iterations + psm.final_iterations) * psm.batch
        kind = f"psm {psm.activation_encoder} {psm.activation_width} {psm.encoder} {psm.width}"
        return kind, float(crops * psm.crop**2)
    ssa = ucis.ssa
    kind = f"ssa {ssa.width} {ssa.encoder} {ssa.encoder_width}"
    return kind, float(ssa.batch * ssa.crop**2)


def _student(config: Cell) -> str:
    student = config.student
    return f"{student.arch} {student.width if student.arch == 'unet' else student.encoder}"


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
        return self.rates.get((stage, kind, device_of(stage, device)))


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
                size = manifest["bytes"] / (1 if stage in ONE_SIZE else amount)
                kind = stage, manifest["kind"], manifest["device"]
                found.setdefault(kind, []).append((manifest["seconds"] / amount, size))
    return Ledger({kind: _rate(timings) for kind, timings in found.items()})


def _rate(timings: list[tuple[float, float]]) -> Rate:
    rate = statistics.median(seconds for seconds, _ in timings)
    spread = statistics.median(abs(seconds - rate) / rate for seconds, _ in timings)
    size = statistics.median(size for _, size in timings)
    return Rate(rate, size, len(timings), spread)
