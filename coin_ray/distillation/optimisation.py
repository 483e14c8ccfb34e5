"""Optimiser and learning-rate schedule of a round."""

from __future__ import annotations

import torch
from torch import nn

from coin_ray.distillation.settings import Student


def build_optimiser(model: nn.Module, student: Student) -> torch.optim.Optimizer:
    """SGD (momentum .9, Nesterov) or AdamW; the encoder at ``lr``, all else at ``lr * head_lr``.

    A network without an encoder (the U-Net) trains as a whole at ``lr * head_lr``. Weight decay
    acts on every parameter, biases and batch norm included, as in the public code.
    """
    encoder = getattr(model, "encoder", None)
    slow = list(encoder.parameters()) if isinstance(encoder, nn.Module) else []
    known = {id(p) for p in slow}
    fast = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": slow, "lr": student.lr}] if slow else []
    groups.append({"params": fast, "lr": student.lr * student.head_lr})
    decay = student.weight_decay
    if student.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(groups, weight_decay=decay)


def rate_factor(schedule: str, done: float) -> float:
    """On the learning rate where the share ``done`` of the steps is: (1 - done) ** .9 for ``poly``,
    1 for ``constant``."""
    return (1 - done) ** 0.9 if schedule == "poly" else 1.0
