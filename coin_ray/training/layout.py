"""How networks lie in memory."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def placed(model: M, device: str, *, plain: bool = False) -> M:
    """The module on ``device``; its convolutions stored for channels-last inputs, which is faster
    on CPU and GPU, unless ``plain``."""
    layout = torch.preserve_format if plain else torch.channels_last
    return cast(M, model.to(device, memory_format=layout))  # type: ignore[call-overload]
