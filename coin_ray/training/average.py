"""The exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ema_decay(ema: float, step: int) -> float:
    """Decay after ``step`` (from 0): min(ema, (1 + t) / (10 + t)).

    The warm-up keeps a short schedule from averaging in its first, random weights: .999 alone would
    still give them three quarters after 300 steps.
    """
    return min(ema, (1 + step) / (10 + step))


class Average:
    """Every floating tensor of ``model`` (parameters, batch-norm statistics), averaged.

    ``tensors`` by name; :func:`ema_decay` of ``ema`` is the decay, 0 means the last weights.
    ``before``: the steps that it has followed already.
    """

    def __init__(self, model: nn.Module, ema: float, before: int = 0) -> None:
        self.model, self.ema, self.before = model, ema, before
        current = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        self.tensors = {k: v.clone() for k, v in current.items()}
        self._current = [*current.values()]  # the module's own, which are trained in place

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """average <- decay * average + (1 - decay) * model, after ``step``."""
        # Of all tensors at once: one by one they are hundreds of launches a step on a GPU.
        decay = ema_decay(self.ema, self.before + step)
        torch._foreach_lerp_([*self.tensors.values()], self._current, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The whole state dict, averaged where it is floating."""
        return self.model.state_dict() | self.tensors
