"""The training loop of the networks that make coarse masks: steps, log, checkpoint.

A step draws whatever it draws from (seed, step) alone, so a run that was interrupted and resumed
takes the same steps as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.errors import UserError
from coin_ray.files import whole

Weights = dict[str, NDArray[Any]]
Log = dict[str, list[float]]
Progress = Callable[[int, int, float], None]


def generator(seed: int, step: int, index: int = 0) -> np.random.Generator:
    """Random numbers of one item (``index`` in the global batch) of a step, from 0."""
    return np.random.default_rng([seed, step, index])


def identity(images: Sequence[NDArray[np.uint8]], settings: Mapping[str, Any]) -> str:
    """Digest (hex) of all that decides a run: its images and its settings (what JSON can hold)."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for image in images:
        found.update(str(image.shape).encode())
        found.update(image.tobytes())
    return found.hexdigest()


def train(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses_of: Callable[[int], Mapping[str, Tensor]],
    *,
    iterations: int,
    seed: int,
    rank: int = 0,
    rate: Callable[[int], float] = lambda step: 1.0,
    after_step: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    every: float = 60.0,
    run: str = "",
) -> Log:
    """Minimise the sum of ``losses_of(step)`` for ``iterations`` steps, counted from 0.

    ``model`` is the bare module that is saved (moving averages in it as buffers or submodules);
    ``losses_of`` may call it wrapped for data parallelism. torch's generator is seeded by
    (``seed``, step, ``rank``) before each call: run it under ``torch.random.fork_rng``.
    ``rate(step)`` multiplies the learning rates of the optimiser, ``after_step`` runs behind it.
    ``progress(steps done, iterations, loss)`` follows every step.

    ``checkpoint`` (model, optimiser, log so far) is written by rank 0 every ``every`` seconds and
    at the end, and continued by every rank if it is there; all ranks must see the same file.
    ``run`` is the :func:`identity` of the run. The log holds ``loss`` and each term, one value a
    step. UserError when the loss is not finite or the checkpoint is of another run.
    """
    base = [group["lr"] for group in optimiser.param_groups]
    log: Log = {"loss": []}
    if checkpoint is not None and checkpoint.exists():
        log = _load(checkpoint, model, optimiser, run)
    saved, first = time.monotonic(), len(log["loss"])
    for step in range(first, iterations):
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))
        for group, lr in zip(optimiser.param_groups, base, strict=True):
            group["lr"] = lr * rate(step)
        terms = losses_of(step)
        loss = torch.stack(list(terms.values())).sum()
        value = _finite(loss.item(), step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if after_step is not None:
            after_step(step)
        log["loss"].append(value)
        for name, term in terms.items():
            log.setdefault(name, []).append(term.item())
        last = step + 1 == iterations
        if checkpoint is not None and rank == 0 and (last or time.monotonic() - saved >= every):
            _save(checkpoint, model, optimiser, log, run)
            saved = time.monotonic()
        if progress is not None:
            progress(step + 1, iterations, value)
    return log


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise UserError(
        "the training loss is not finite", where=f"step {step + 1}", found=str(loss),
        do="lower the learning rate",
    )  # fmt: skip


def _save(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, log: Log, run: str
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    # As a file: torch.save takes no name that begins with a dot.
    with whole(path) as part, part.open("wb") as file:
        torch.save({**state, "log": log, "run": run}, file)


def _load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, run: str) -> Log:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["run"] != run:
        raise UserError(
            "the checkpoint is of another run (other images or settings)", where=str(path),
            expected=run, found=state["run"], do="delete it, or write elsewhere",
        )  # fmt: skip
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return dict(state["log"])
