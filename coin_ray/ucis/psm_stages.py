"""What PSM's three trainings share: which crops a step sees, and one run of the common loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.ucis import training

Arrays = tuple[NDArray[Any], ...]
Terms = Callable[[nn.Module, list[Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Run:
    """One call of ``train_psm``: its arguments, all its steps, its identity and growing log."""

    crop: int
    seed: int
    device: torch.device
    wrap: Callable[[nn.Module], nn.Module]
    rank: int
    world: int
    progress: training.Progress | None
    checkpoint: Path | None
    every: float
    total: int
    identity: str
    log: training.Log = field(default_factory=lambda: {"loss": []})


def fit(
    run: Run,
    stage: int,
    build: Callable[[], nn.Module],
    terms: Terms,
    data: Sequence[Arrays],
    *,
    iterations: int,
    batch: int,
    lr: float,
    folds: int = 1,
) -> nn.Module:
    """A new network after Adam steps on crops of ``data``, in evaluation mode.

    ``data`` holds the arrays (H, W, ...) of each image; ``terms(network, tensors)`` gives the
    losses of a batch (B, crop, crop, ...) of them.
    """
    stream = int(np.random.SeedSequence([run.seed, stage]).generate_state(1)[0])
    before = len(run.log["loss"])
    part = run.checkpoint and run.checkpoint.with_name(f"{run.checkpoint.name}.{stage}")
    cuda = run.device.type == "cuda"
    with torch.random.fork_rng(devices=[run.device] if cuda else []):
        torch.manual_seed(stream)  # alike on every worker
        bare = build().to(run.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        model = run.wrap(bare)

        def losses_of(step: int) -> dict[str, Tensor]:
            crops = []
            for index in range(run.rank, batch, run.world):
                image = rotated_image(stream, step * batch + index, len(data), folds)
                rng = training.generator(stream, step, index)
                crops.append(random_crop(data[image], rng, run.crop))
            stacked = [np.stack(arrays) for arrays in zip(*crops, strict=True)]
            return terms(model, [torch.from_numpy(a).to(run.device) for a in stacked])

        def report(step: int, _: int, loss: float) -> None:
            if run.progress is not None:
                run.progress(before + step, run.total, loss)

        found = training.train(
            bare,
            torch.optim.Adam(bare.parameters(), lr=lr),
            losses_of,
            iterations=iterations,
            seed=stream,
            rank=run.rank,
            progress=report,
            checkpoint=part,
            every=run.every,
            run=run.identity,
        )
    if torch.distributed.is_initialized():  # batch norm saw other crops on every worker
        for buffer in bare.buffers():
            torch.distributed.broadcast(buffer, 0)
    run.log["loss"] += found.pop("loss")
    run.log.update(found)
    trained: nn.Module = bare.eval()
    return trained


def rotated_image(seed: int, position: int, n_images: int, folds: int) -> int:
    """Image of a run's crop at ``position``: every pass leaves out the next of ``folds`` parts.

    Image i is in part i mod folds; a pass takes the other parts in random order. With one fold, or
    one image, nothing is left out; there are never more folds than images.
    """
    folds = min(folds, n_images)
    everyone = np.arange(n_images)
    passes = [everyone[everyone % folds != part] for part in range(folds)]
    if folds == 1:
        passes = [everyone]
    lap, place = divmod(position, sum(map(len, passes)))
    rng = training.generator(seed, lap)
    return int(np.concatenate([rng.permutation(kept) for kept in passes])[place])


def random_crop(arrays: Arrays, rng: np.random.Generator, side: int) -> Arrays:
    """The same random square of every array (H, W, ...), mirrored where it is too small."""
    height, width = arrays[0].shape[:2]
    below, right = max(0, side - height), max(0, side - width)
    y, x = rng.integers((height + below - side + 1, width + right - side + 1))
    padded = (
        np.pad(a, ((0, below), (0, right), *((0, 0),) * (a.ndim - 2)), mode="symmetric")
        for a in arrays
    )
    return tuple(a[y : y + side, x : x + side] for a in padded)
