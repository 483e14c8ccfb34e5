"""What the pretrainings share: what is asked for, schedule, file and checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coin_ray.files import whole
from coin_ray.pretraining.data import POOL
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.loop import Limit, Training, train
from coin_ray.training.world import Progress, World
from coin_ray.weights.modules import fit
from coin_ray.weights.registry import file_digest
from coin_ray.weights.state_files import read_state


@dataclass(frozen=True)
class Asked:
    """A pretraining that somebody asks for.

    ``out`` is the ``.safetensors`` file of the weights (fp16); the checkpoint lies beside it and is
    written ``every`` so many seconds, and the file with it. One of ``minutes`` and ``steps`` limits
    the run; ``resume`` goes on from the checkpoint (UserError if it is of other settings). The
    segmenter and the detector begin with the weights of the file ``start`` if one is given. So many
    ``tiles`` are generated to train on; ``batch`` and ``lr`` are the model's own unless given;
    ``amp`` is mixed precision. Same seed, data and step limit, same weights.
    """

    out: Path
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    resume: bool = False
    device: str = "cpu"
    start: Path | None = None
    tiles: int | None = None
    batch: int | None = None
    lr: float | None = None
    amp: bool = True
    every: float = 60.0
    progress: Progress | None = None

    @property
    def checkpoint(self) -> Path:
        return self.out.with_suffix(".ckpt")


@dataclass(frozen=True)
class Recipe:
    """How a model likes to be trained: AdamW's peak rate and decay, and where gradients are cut."""

    lr: float
    weight_decay: float
    clip: float


def begin(model: nn.Module, start: Path) -> str:
    """Load the weights of the file ``start``; its digest. UserError if they are not the model's."""
    fit(model, read_state(start), start, "this network", "weights that this training writes")
    return file_digest(start)


def pretrain(
    asked: Asked,
    recipe: Recipe,
    model: nn.Module,
    loss_of: Callable[[int, float], Tensor],
    *,
    exported: Callable[[], Mapping[str, Tensor]],
    identity: Mapping[str, Any],
    average: Average | None = None,
    after_step: Callable[[int, float], None] = lambda step, done: None,
) -> Log:
    """AdamW on the trainable parameters of ``model`` until the limit; writes ``exported()``.

    ``loss_of(step, done)`` is the scalar loss of one step, at a share of the run; ``after_step``
    runs behind the optimiser (a teacher's average). ``identity``: what tells the run from others.
    """

    def export() -> None:
        save_weights(exported(), asked.out)

    if not asked.resume:
        asked.checkpoint.unlink(missing_ok=True)
    peak = asked.lr or recipe.lr
    drawn = {"pool": POOL, "seed": asked.seed, "lr": peak}
    run = json.dumps({**identity, **drawn}, sort_keys=True)
    groups = parameter_groups(model, recipe.weight_decay)
    training = Training(
        model,
        torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95)),
        lambda step, done: {"loss": loss_of(step, done)},
        Limit(asked.steps, asked.minutes),
        rate=lambda step, done: rate(done),
        average=average,
        clip=recipe.clip,
        after_step=after_step,
    )
    checkpoint = Checkpoint(asked.checkpoint, run, asked.every, saved=export)
    log = train(training, World(device=asked.device), checkpoint, asked.progress)
    export()  # also where a resumed run had nothing left to do
    return log


def ends(log: Log, share: float = 0.05) -> tuple[float, float]:
    """Mean loss of the first and of the last ``share`` of the steps; NaN without steps."""
    if not log["loss"]:
        return float("nan"), float("nan")
    n = max(1, int(share * log.steps))
    return float(np.mean(log["loss"][:n])), float(np.mean(log["loss"][-n:]))


def rate(done: float, warmup: float = 0.06, floor: float = 0.02) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine down to ``floor``."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * (done - warmup) / (1 - warmup))))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only, not on biases, norms, tokens and positions."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for p in model.parameters():
        if p.requires_grad:
            groups[p.ndim > 1 and p.shape[0] > 1].append(p)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Tensors to a safetensors file, as fp16, complete or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        half = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in state.items()}
        save_file(half, part)
