"""What an interrupted training goes on from: one file, sealed against another training's.

A line of JSON (the run, the seconds spent, the digest of the rest), then safetensors: the weights,
their average, the optimiser's moments and the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.errors import UserError
from coin_ray.files import seen, whole

if TYPE_CHECKING:
    from torch import Tensor, nn, optim


class Log(dict[str, list[float]]):
    """The losses of a training, one value a step: ``loss`` and each of its terms by name.

    ``seconds`` is how long it has trained, interrupted parts added up.
    """

    seconds: float = 0.0

    @property
    def steps(self) -> int:
        return len(self["loss"])


@dataclass(frozen=True)
class Checkpoint:
    """The file ``path`` of the training ``run``, a text that tells it from all others.

    It is written whole, ``every`` so many seconds and, if ``last``, after the last step; ``saved``
    is called after each time. A damaged file, or that of another run, is refused by a UserError,
    or, if ``anew``, the training begins anew.
    """

    path: Path
    run: str
    every: float = 60.0
    last: bool = True
    anew: bool = False
    saved: Callable[[], None] = lambda: None

    def save(
        self,
        model: nn.Module,
        optimiser: optim.Optimizer,
        average: Mapping[str, Tensor],
        log: Log,
    ) -> None:
        """Write all that a training changes."""
        import torch
        from safetensors.torch import save

        kept = {f"average/{name}": tensor for name, tensor in average.items()}
        for name, values in log.items():
            kept[f"log/{name}"] = torch.tensor(values, dtype=torch.float64)
        kept |= state_of(model, optimiser)
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()})
        head = {"run": self.run, "seconds": log.seconds, "digest": _digest(content)}
        with whole(self.path) as part, part.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            file.write(content)
        self.saved()

    def load(
        self, model: nn.Module, optimiser: optim.Optimizer, average: Mapping[str, Tensor]
    ) -> Log:
        """Put them in place; the log so far, which is empty where there is nothing to go on from.

        All processes of a training have to see the same file.
        """
        from safetensors.torch import load

        if not seen(self.path):
            return Log(loss=[])
        with self.path.open("rb") as file:
            head, content = _header(file.readline()), file.read()
        sound = head.get("digest") == _digest(content)
        if not sound or head["run"] != self.run:
            if self.anew:
                return Log(loss=[])
            found = {"expected": self.run, "found": head["run"]} if sound else {}
            raise UserError(
                "the checkpoint is of another run (other images or settings)"
                if sound
                else "this is no checkpoint, or it is damaged",
                where=str(self.path),
                do="delete it, or write elsewhere",
                **found,
            )
        kept = load(content)
        restore(kept, model, optimiser)
        for name, value in average.items():
            value.copy_(kept[f"average/{name}"])
        log = Log({name: values.tolist() for name, values in _part(kept, "log").items()})
        log.seconds = head["seconds"]
        return log


def state_of(model: nn.Module, optimiser: optim.Optimizer) -> dict[str, Tensor]:
    """The weights and the optimiser's moments, under ``model/`` and ``optimiser/``."""
    found = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimiser.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                found[f"optimiser/{index}.{name}"] = value
    return found


def restore(state: Mapping[str, Tensor], model: nn.Module, optimiser: optim.Optimizer) -> None:
    """Inverse of :func:`state_of`, in place."""
    import torch

    model.load_state_dict(_part(state, "model"))
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _part(state, "optimiser").items():
        index, _, name = key.partition(".")
        own = trained[int(index)]
        if name != "step":  # strides decide about rounding: they are those of the weights
            tensor = torch.empty_like(own).copy_(tensor)
        moments.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})


def _part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}/"): tensor
        for name, tensor in state.items()
        if name.startswith(f"{part}/")
    }


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _header(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
