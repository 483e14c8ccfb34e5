"""What the trainings of PSM and of the detector share, which come in turn: which crops a step sees,
and one run of the common loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from coin_ray.training import draws
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.draws import Arrays, generator
from coin_ray.training.layout import moved, placed
from coin_ray.training.loop import Limit, Training, train
from coin_ray.training.world import HERE, Progress, World

N = TypeVar("N", bound=nn.Module)
Terms = Callable[[nn.Module, list[Tensor]], dict[str, Tensor]]


class Stage(NamedTuple):
    """One of the trainings: its number, its steps, the global batch, and the parts that the images
    are dealt into. ``power``: the rate falls as (1 - t) to it; ``ema``: the decay of the averaged
    weights, which are then the result."""

    number: int
    iterations: int
    batch: int
    lr: float
    folds: int = 1
    power: float = 0.0
    ema: float = 0.0


@dataclass(frozen=True)
class Run:
    """Trainings in turn: the side of a crop, the seed, all their steps, where they run, and their
    growing log."""

    crop: int
    seed: int
    total: int
    world: World = HERE
    checkpoint: Checkpoint | None = None
    progress: Progress | None = None
    log: Log = field(default_factory=lambda: Log(loss=[]))


def fit(
    run: Run,
    stage: Stage,
    build: Callable[[], N],
    terms: Terms,
    data: Sequence[Arrays],
    draw: Callable[[Arrays, np.random.Generator, int], Arrays] | None = None,
) -> N:
    """A network after Adam steps on crops of ``data``, in evaluation mode.

    ``data`` holds the arrays (H, W, ...) of each image; ``draw(arrays, rng, run.crop)`` makes a
    crop of them, :func:`random_crop` unless it is said; ``terms(network, tensors)`` gives the
    losses of a batch (B, ...) of crops.
    """
    stream, world = draws.torch_seed(run.seed, stage.number), run.world
    before, part = run.log.steps, run.checkpoint
    if part is not None:  # the next stages stand on what this one ends with
        part = replace(
            part, path=part.path.with_name(f"{part.path.name}.{stage.number}"), last=True
        )
    with draws.seeded(world.device, stream):  # alike on every worker
        bare = placed(build(), world.device).train()
        model = world.wrap(bare)

        def losses_of(step: int, done: float) -> dict[str, Tensor]:
            torch.manual_seed(draws.torch_seed(stream, step, world.rank))
            crops = []
            for index in range(world.rank, stage.batch, world.size):
                position = step * stage.batch + index
                image = rotated_image(stream, position, len(data), stage.folds)
                rng = generator(stream, step, index)
                crops.append((draw or random_crop)(data[image], rng, run.crop))
            return terms(model, [moved(a, world.device) for a in draws.stacked(crops)])

        def report(step: int, _: int, loss: float) -> None:
            if run.progress is not None:
                run.progress(before + step, run.total, loss)

        optimiser = torch.optim.Adam(bare.parameters(), lr=stage.lr)
        average = Average(bare, stage.ema) if stage.ema else None
        training = Training(
            bare,
            optimiser,
            losses_of,
            Limit(stage.iterations),
            rate=lambda step, done: (1 - done) ** stage.power,
            average=average,
        )
        found = train(training, world, part, report)
    if average is not None:
        bare.load_state_dict(average.state())
    if torch.distributed.is_initialized():  # batch norm saw other crops on every worker
        for buffer in bare.buffers():
            torch.distributed.broadcast(buffer, 0)
    for name, values in found.items():
        run.log.setdefault(name, []).extend(values)
    return bare.eval()


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
    rng = generator(seed, lap)
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
