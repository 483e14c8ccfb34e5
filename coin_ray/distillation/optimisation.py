"""Optimiser, learning-rate schedule and moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build_optimiser(
    model: nn.Module, *, optimiser: str, lr: float, head_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD (momentum .9, Nesterov) or AdamW; the encoder at ``lr``, all else at ``lr * head_lr``.

    A network without an encoder (the U-Net) trains as a whole at ``lr * head_lr``. Weight decay
    acts on every parameter, biases and batch norm included, as in the public code.
    """
    encoder = getattr(model, "encoder", None)
    slow = list(encoder.parameters()) if isinstance(encoder, nn.Module) else []
    known = {id(p) for p in slow}
    fast = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": slow, "lr": lr}] if slow else []
    groups.append({"params": fast, "lr": lr * head_lr})
    if optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    if optimiser == "adamw":
        return torch.optim.AdamW(groups, weight_decay=weight_decay)
    raise ValueError(f"unknown optimiser {optimiser!r}")


def rate_factor(schedule: str, step: int, steps: int) -> float:
    """On the learning rate of ``step`` (from 0): (1 - step / steps) ** .9 for ``poly``, 1 for
    ``constant``."""
    if schedule == "poly":
        return (1 - step / steps) ** 0.9
    if schedule == "constant":
        return 1.0
    raise ValueError(f"unknown schedule {schedule!r}")


def ema_decay(ema: float, step: int) -> float:
    """Decay after ``step`` (from 0): min(ema, (1 + t) / (10 + t)).

    The warm-up keeps a short schedule from averaging in its first, random weights: .999 alone would
    still give them three quarters after 300 steps.
    """
    return min(ema, (1 + step) / (10 + step))


def floating_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every floating tensor of the state, parameters and batch-norm statistics, by name."""
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


@torch.no_grad()
def update_ema(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, in place."""
    current = floating_tensors(model)
    for name, value in average.items():
        value.lerp_(current[name], 1 - decay)
