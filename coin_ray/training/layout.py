"""How networks lie in memory."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def placed(model: M, device: str, channels_last: bool = True) -> M:
    """The module on ``device``; its convolutions stored for channels-last inputs, which is faster
    on CPU and GPU."""
    layout = torch.channels_last if channels_last else torch.preserve_format
    return cast(M, model.to(device, memory_format=layout))  # type: ignore[call-overload]
