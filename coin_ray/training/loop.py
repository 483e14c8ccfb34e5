"""The one training loop: steps, schedule, moving average, log, checkpoint.

A step draws whatever it draws from (seed, step), so a training that was interrupted and goes on
takes the same steps as one that was not (with a limit of steps; a limit of time ties it to the
clock).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.errors import UserError
from coin_ray.precision import arithmetic, autocast
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.world import Progress, World

Weights = dict[str, NDArray[Any]]
"""A state dict as plain arrays."""


READ_EVERY = 20
"""Steps on a GPU after which their losses are read; on a CPU nothing waits for them."""
SOON = 10.0
"""At most so many seconds between two checkpoints of a training whose machine is about to go."""


@dataclass(frozen=True)
class Limit:
    """When to stop: after ``steps``, or after ``minutes`` of training (interrupted parts added)."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UserError(
                "a training needs one limit",
                expected="steps or minutes",
                found="both" if self.steps is not None else "neither",
            )

    def done(self, steps: int, seconds: float) -> float:
        """Share of the training that is done after so many steps and seconds, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, steps / max(1, self.steps))
        assert self.minutes is not None
        return min(1.0, seconds / max(1e-9, 60 * self.minutes))

    def total(self, steps: int, seconds: float) -> int:
        """Steps that it comes to; with a limit of time as far as can be told."""
        if self.steps is not None:
            return self.steps
        return math.ceil(steps / max(self.done(steps, seconds), 1e-9))


@dataclass(frozen=True)
class Training:
    """What is trained, and how.

    ``model`` is the bare module whose state is kept; ``losses_of`` may call it wrapped for data
    parallelism. ``losses_of(step, done)``, the step from 0 and the share of the training that is
    done, gives the terms of the loss by name, which are added up with their ``factors`` (1 unless
    named). ``rate(step, done)`` multiplies the learning rates of the optimiser; gradients longer
    than ``clip`` are cut. ``after_step(step, done)`` runs behind the optimiser and the ``average``.
    ``name`` and ``remedy`` are for the message of a loss that is not finite.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    losses_of: Callable[[int, float], Mapping[str, Tensor]]
    limit: Limit
    rate: Callable[[int, float], float] = lambda step, done: 1.0
    factors: Mapping[str, float] = field(default_factory=dict)
    average: Average | None = None
    clip: float | None = None
    after_step: Callable[[int, float], None] = lambda step, done: None
    name: str = ""
    remedy: str = "lower the learning rate"


def train(
    training: Training,
    world: World,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Log:
    """Minimise the loss up to the limit. Rank 0 writes the ``checkpoint`` and tells ``progress``
    whenever losses are read; all go on from a checkpoint that is there. UserError when the loss is
    not finite, or as of :class:`Checkpoint`."""
    model, optimiser, average = training.model, training.optimiser, training.average
    limit, base = training.limit, [group["lr"] for group in optimiser.param_groups]
    kept = (model, optimiser, average.tensors if average else {})
    log = checkpoint.load(*kept) if checkpoint else Log(loss=[])
    unread = _Unread(training, 1 if world.device == "cpu" else READ_EVERY)
    began = saved = time.monotonic()
    before, step = log.seconds, log.steps
    with arithmetic(world.device, world.precision, deterministic=world.deterministic):
        while (done := limit.done(step, log.seconds)) < 1:
            for group, lr in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = lr * training.rate(step, done)
            with autocast(world.device, world.precision), _saving(world):
                terms = training.losses_of(step, done)
            loss = torch.stack([training.factors.get(k, 1.0) * v for k, v in terms.items()]).sum()
            unread.add(step, {"loss": loss, **terms})
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if training.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            optimiser.step()
            if average:
                average.follow(step)
            training.after_step(step, done)
            step, now = step + 1, time.monotonic()
            log.seconds = before + now - began
            over = limit.done(step, log.seconds) >= 1
            due = checkpoint is not None and now - saved >= _every(checkpoint, world)
            if not (over or due or unread.full):
                continue
            unread.read(log)
            if checkpoint and world.rank == 0 and (checkpoint.last if over else due):
                checkpoint.save(*kept, log)
                saved = time.monotonic()
            if progress and world.rank == 0:
                progress(step, limit.total(step, log.seconds), log["loss"][-1])
    return log


def _every(checkpoint: Checkpoint, world: World) -> float:
    """Seconds between two checkpoints."""
    return min(checkpoint.every, SOON) if world.leaving() else checkpoint.every


def _saving(world: World) -> AbstractContextManager[object]:
    """Where a step's saved tensors wait for its backward pass."""
    if not world.spills:
        return nullcontext()
    return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())


class _Unread:
    """Losses that are still on the device: to read one is to wait for it."""

    def __init__(self, training: Training, most: int) -> None:
        self._training, self._most = training, most
        self._steps: list[tuple[int, dict[str, Tensor]]] = []

    @property
    def full(self) -> bool:
        return len(self._steps) >= self._most

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        self._steps.append((step, {name: value.detach() for name, value in losses.items()}))

    def read(self, log: Log) -> None:
        """Into the log. UserError for a loss that is not finite, by the step."""
        for step, losses in self._steps:
            for name, value in zip(losses, torch.stack([*losses.values()]).tolist(), strict=True):
                log.setdefault(name, []).append(value)
            if not math.isfinite(log["loss"][-1]):
                raise UserError(
                    "the training loss is not finite",
                    where=f"{self._training.name}step {step + 1}",
                    found=str(log["loss"][-1]),
                    do=self._training.remedy,
                )
        self._steps.clear()
