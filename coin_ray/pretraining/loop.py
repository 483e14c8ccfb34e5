"""The training loop that every pretraining shares: limits, schedule, checkpoints.

A step's data, augmentation and masks are drawn from (seed, step), so a run that was interrupted and
resumed takes the same steps as one that was not (with a step limit; a time limit ties the learning
rate to the clock).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coin_ray.errors import UserError
from coin_ray.files import whole

Progress = Callable[[int, float, float], None]


@dataclass
class Limit:
    """When to stop: after ``steps``, or after ``minutes`` of training (resumed parts added)."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UserError(
                "a pretraining run needs one limit", expected="steps or minutes",
                found="both" if self.steps is not None else "neither",
            )  # fmt: skip

    def fraction(self, step: int, elapsed: float) -> float:
        """Share of the run that is done, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, step / max(1, self.steps))
        assert self.minutes is not None
        return min(1.0, elapsed / max(1e-9, 60 * self.minutes))


@dataclass
class History:
    """What a run leaves: its losses (one a step), its length and training time in seconds."""

    losses: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.losses)

    def ends(self, share: float = 0.05) -> tuple[float, float]:
        """Mean loss of the first and of the last ``share`` of the steps; NaN without steps."""
        if not self.losses:
            return float("nan"), float("nan")
        n = max(1, int(share * len(self.losses)))
        return float(np.mean(self.losses[:n])), float(np.mean(self.losses[-n:]))


def generator(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """The random numbers of one step."""
    return np.random.default_rng([seed, step, stream])


def rate(fraction: float, warmup: float = 0.06, floor: float = 0.02) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine down to ``floor``."""
    if fraction < warmup:
        return (fraction + 1e-3) / (warmup + 1e-3)
    return floor + (1 - floor) * 0.5 * (
        1 + float(np.cos(np.pi * (fraction - warmup) / (1 - warmup)))
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only, not on biases, norms, tokens and positions."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1 and p.shape[0] > 1]
    rest = [
        p for p in model.parameters() if p.requires_grad and not (p.ndim > 1 and p.shape[0] > 1)
    ]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def train(
    model: nn.Module,
    loss_of: Callable[[int, float], torch.Tensor],
    *,
    limit: Limit,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    clip: float = 1.0,
    after_step: Callable[[int, float], None] | None = None,
    checkpoint: Path | None = None,
    every: float = 60.0,
    identity: dict[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    on_checkpoint: Callable[[History], None] | None = None,
) -> History:
    """AdamW on the trainable parameters of ``model`` until the limit.

    ``loss_of(step, fraction)`` is the scalar loss of one step, ``after_step`` runs behind the
    optimiser (a teacher's average). ``checkpoint`` is written every ``every`` seconds and at the
    end; ``resume`` continues it (UserError if its ``identity``, the run's settings, differs).
    ``progress`` gets (step, fraction, loss).
    """
    optimiser = torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas)
    history = History()
    if resume and checkpoint is not None and checkpoint.exists():
        history = _load(checkpoint, model, optimiser, identity or {})
    began, before = time.monotonic(), history.elapsed
    saved = began
    while (fraction := limit.fraction(history.steps, history.elapsed)) < 1:
        step = history.steps
        for group in optimiser.param_groups:
            group["lr"] = lr * rate(fraction)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(step, fraction)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        if after_step is not None:
            after_step(step, fraction)
        history.losses.append(float(loss.detach()))
        if not np.isfinite(history.losses[-1]):
            raise FloatingPointError(f"the loss is not finite at step {step}")
        now = time.monotonic()
        history.elapsed = before + now - began
        if progress is not None:
            progress(
                history.steps, limit.fraction(history.steps, history.elapsed), history.losses[-1]
            )
        if checkpoint is not None and now - saved > every:
            _save(checkpoint, model, optimiser, history, identity or {})
            if on_checkpoint is not None:
                on_checkpoint(history)
            saved = time.monotonic()
    if checkpoint is not None:
        _save(checkpoint, model, optimiser, history, identity or {})
    return history


def _save(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: History,
    identity: dict[str, Any],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(), "optimiser": optimiser.state_dict(), "losses": history.losses,
        "elapsed": history.elapsed, "identity": identity,
    }  # fmt: skip
    # As a file: torch.save takes no name that begins with a dot.
    with whole(path) as part, part.open("wb") as file:
        torch.save(state, file)


def _load(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> History:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["identity"] != identity:
        raise UserError(
            "the checkpoint is of another run", where=str(path), expected=str(identity),
            found=str(state["identity"]), do="resume with the same settings or write elsewhere",
        )  # fmt: skip
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return History(list(state["losses"]), float(state["elapsed"]))


def save_weights(state: dict[str, torch.Tensor], path: Path, *, half: bool = True) -> None:
    """Tensors to a safetensors file (fp16 by default), complete or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    kind = torch.float16 if half else torch.float32
    with whole(path) as part:
        save_file({k: v.detach().to("cpu", kind).contiguous() for k, v in state.items()}, part)
