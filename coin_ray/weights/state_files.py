"""Reading a weight file, whichever of the two formats it is in, without running code from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.errors import UserError, first_line
from coin_ray.weights.registry import digest, locate

if TYPE_CHECKING:
    import torch


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file or of a ``.pth`` / ``.pt`` state dict, on the CPU.

    A state dict one level down (``model``, ``state_dict``, ``teacher``: the official releases
    differ) is taken out. UserError if the file is neither.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise _unreadable(path, "a folder" if path.is_dir() else "no file")
    if not path.stat().st_size:
        raise _unreadable(path, "0 bytes")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise  # the machine, not the file
    except Exception as error:  # a broken pickle raises anything; the cause is kept
        raise _unreadable(path, first_line(error)) from error
    for inner in ("state_dict", "model", "teacher"):
        if isinstance(loaded, dict) and isinstance(loaded.get(inner), dict):
            loaded = loaded[inner]
    if not isinstance(loaded, dict):
        raise _unreadable(path, type(loaded).__name__)
    state = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise _unreadable(path, "no tensors in it")
    return state


def load_state(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a registered weight file, after checking its digest where one is known."""
    digest(name)
    return read_state(locate(name))


def _unreadable(path: Path, found: str) -> UserError:
    return UserError(
        "not a readable weight file",
        where=str(path),
        expected="a .safetensors file, or a PyTorch state dict (.pth, .pt) of plain tensors",
        found=found,
        do="fetch it again, or convert it to safetensors",
    )
