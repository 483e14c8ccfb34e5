"""Run what a stage computes on inputs made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coin_ray.labels import InstanceMasks
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Given, Keyed, Ref, Source, Truth
from coin_ray.pipeline.stages import STAGES
from coin_ray.store.artifacts import Artifact


@dataclass(frozen=True)
class FakeImage:
    """An image by its name, of (H, W) ``size``."""

    name: str
    mpp: float | None = None
    size: tuple[int, int] = (8, 9)

    def digest(self) -> str:
        return f"content of {self.name}"

    def shape(self) -> tuple[int, int]:
        return self.size

    def load(self) -> Any:
        raise AssertionError("nobody made these pixels")


def given(
    stage: str,
    config: Cell,
    inputs: Mapping[str, Any],
    ref: Ref,
    *,
    values: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values,
    sources: Callable[[dict[str, Source]], dict[str, Source]] = lambda sources: sources,
    train: tuple[Any, ...] = (),
    upstream: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda stage, values: values,
) -> Given:
    """What a stage is handed where its inputs are these, by role; arrays, masks and dictionaries
    may stand for artifacts. ``values``, ``sources`` and ``upstream`` may take something away."""
    chain = Chain(config, 0, train or (ref.image,), str, lambda folder, name: name)
    found = chain.sources(ref)
    made: dict[int, Any] = {}
    for role, source in found.items():
        for part, value in zip(*_parts(source, inputs.get(role)), strict=True):
            made[id(part)] = _artifact(value) if isinstance(part, Ref) else value
    return Given(
        STAGES[stage],
        values(STAGES[stage].values(chain, ref)),
        sources(found),
        lambda source: made[id(source)],
        config=config,
        prompt=lambda source, points, precision: made[id(source)](points),
        upstream=lambda one: Keyed(
            one.stage, upstream(one.stage, STAGES[one.stage].values(chain, one))
        ),
    )


def compute(stage: str, config: Cell, inputs: Mapping[str, Any], size: Any = (8, 9)) -> Artifact:
    """The artifact that a stage makes of inputs by role, for an image of ``size`` (H, W)."""
    truth = Truth("truth", None) if stage == "evaluate" else None
    step = "step1" if stage == "evaluate" else ""
    ref = Ref(stage, FakeImage("a", size=tuple(size)), 1, step=step, truth=truth)
    return STAGES[stage].compute(given(stage, config, inputs, ref))


def _parts(source: Any, value: Any) -> tuple[list[Any], list[Any]]:
    return (source, value) if isinstance(source, list) else ([source], [value])


def _artifact(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return Artifact({"array": value})
    if isinstance(value, InstanceMasks):
        return Artifact(value.to_arrays())
    return Artifact(value) if isinstance(value, dict) else value
