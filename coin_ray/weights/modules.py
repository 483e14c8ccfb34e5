"""Between weight files, plain arrays and torch modules; the input that ImageNet weights expect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray import safe
from coin_ray.errors import UserError
from coin_ray.weights.registry import locate
from coin_ray.weights.state_files import load_state

MEAN = (0.485, 0.456, 0.406)  # of ImageNet; networks from scratch do not mind
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """(B, 3, H, W) values in 0..255, any dtype -> float32 with ImageNet mean and deviation."""
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1).to(images.device, non_blocking=True)
        for values in (MEAN, STD)
    )
    return (images.float() / 255 - mean) / std


def to_arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """A state dict as plain arrays on the CPU, that :func:`load_arrays` takes back."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()}


def load_arrays(model: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copies plain arrays into a module, every name required."""
    # np.array: arrays of the store are read-only, and from_numpy shares memory.
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})


def fill(
    model: nn.Module,
    name: str,
    expected: str,
    *,
    leave: tuple[str, ...] = (),
    assign: bool = False,
) -> None:
    """Loads registered weights into ``model``, without the names that begin with one of ``leave``;
    ``assign`` puts the file's tensors in the place of the module's.

    UserError, with what was ``expected``, if the file is missing or of another network.
    """
    state = {key: value for key, value in load_state(name).items() if not key.startswith(leave)}
    again = f"fetch the file again: `coin-ray models fetch {safe.shell(name)}`"
    fit(model, state, locate(name), name, expected, assign=assign, do=again)


def fit(
    model: nn.Module,
    state: Mapping[str, Tensor],
    file: Path,
    name: str,
    expected: str,
    *,
    assign: bool = False,
    do: str = "take another file",
) -> None:
    """Loads the tensors of ``file`` into ``model``, called ``name``. UserError, with what was
    ``expected``, if they are of another network."""
    try:
        model.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise UserError(
            f"the file does not hold the weights of {name}",
            where=str(file),
            expected=expected,
            found=" ".join(" ".join(str(error).splitlines()[1:]).split())[:300],
            do=do,
        ) from error


def load_imagenet(model: nn.Module, name: str) -> None:
    """Loads the registered timm or torchvision ResNet ``name`` without its classifier."""
    fill(model, name, "the state dict of a timm or torchvision ResNet", leave=("fc.",))
