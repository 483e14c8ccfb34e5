"""How networks and arrays lie in memory."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def placed(model: M, device: str, *, plain: bool = False) -> M:
    """The module on ``device``; its convolutions stored for channels-last inputs, which is faster
    on CPU and GPU, unless ``plain``."""
    layout = torch.preserve_format if plain else torch.channels_last
    return cast(M, model.to(device, memory_format=layout))  # type: ignore[call-overload]


def moved(array: NDArray[Any], device: str | torch.device) -> Tensor:
    """An array on ``device``; nobody waits until what a GPU still has to do before is done."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
