"""One round of self-distillation: train the student on the current pseudo labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from coin_ray.distillation import network, optimisation, sampling
from coin_ray.distillation.augment import Image, make_batch, placed_tiles
from coin_ray.distillation.losses import segmentation_loss
from coin_ray.distillation.settings import Student
from coin_ray.distillation.targets import PseudoLabels
from coin_ray.errors import UserError
from coin_ray.training import draws
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Checkpoint, Log, restore, state_of
from coin_ray.training.layout import placed
from coin_ray.training.loop import Limit, Training, Weights, train
from coin_ray.training.world import HERE, Progress, World
from coin_ray.weights.modules import load_arrays, normalise, to_arrays


@dataclass(frozen=True)
class Part:
    """A round as a part of one long training: the steps ``before`` it, of a ``total``."""

    before: int
    total: int


def train_round(
    tiles: Sequence[tuple[Image, PseudoLabels]],
    student: Student,
    *,
    place: sampling.Place = (0, 1),
    part: Part | None = None,
    initial: Mapping[str, NDArray[Any]] | None = None,
    world: World = HERE,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> tuple[Weights, Log]:
    """EMA weights (name -> array, the whole state dict) and the losses of every step.

    ``tiles``: images (H, W, 3) uint8 of any sizes and their pseudo labels. Every draw comes from
    (seed, round, step, index in the global batch), the first two of which are the ``place``: the
    number of workers only shards the batch, and on a CPU the same arguments and thread count give
    the same bytes. ``initial`` continues from the weights of the last round with a fresh optimiser,
    schedule and EMA; as ``part`` of a long training it goes on with all that ``initial`` has of
    them, and gives it to the next: parts with the same labels are one training, bit for bit.
    Batch-norm statistics are those of this worker; ``checkpoint`` and ``progress`` as of
    :func:`coin_ray.training.loop.train`: interrupted and resumed, a round gives what it gives
    uninterrupted. The log holds ``loss``, ``segmentation`` and, with an edge head, ``edge``, as
    seen by this worker.

    UserError without images, when a worker's share of the batch is too small, when the loss is not
    finite (naming the step), or when the student cannot be compiled.
    """
    if not tiles:
        raise UserError("there is no image to train on", do="check the training data")
    least = 2 if student.arch == "deeplabv3plus" else 1  # its batch norm sees one value a sample
    share = world.share(student.batch, least, f"at least {least} crops", "student.batch")
    world = replace(world, precision=student.precision, deterministic=student.deterministic)
    name, whole = f"round {place[1]}, ", part or Part(0, student.iterations)
    if part is not None:
        place = (place[0], 1)
    label_maps = [pseudo.label_map for _, pseudo in tiles]
    data = placed_tiles(tiles, student, torch.device(world.device))

    # Alike on every worker.
    with draws.seeded(world.device, sampling.network_seed(place, -1, 0)):
        bare = network.build_student(student, pretrained=initial is None)
        if initial is not None:
            load_arrays(bare, {name: a for name, a in initial.items() if "/" not in name})
        model = world.wrap(placed(bare, world.device, plain=not student.channels_last).train())
        forward = network.Compiled(model) if student.compile else model
        optimiser = optimisation.build_optimiser(bare, student)
        average = Average(bare, student.ema, whole.before)
        if part is not None and initial is not None:
            carried = {name: torch.tensor(array) for name, array in initial.items()}
            restore(carried, bare, optimiser)

        def losses_of(step: int, done: float) -> dict[str, Tensor]:
            step += whole.before
            crops = sampling.draw_crops(label_maps, student, place, step, share)
            images, *targets = make_batch(data, crops, student)
            torch.manual_seed(sampling.network_seed(place, step, world.rank))
            return _losses(forward, _planes(images, student.channels_last), *targets)

        def rate(step: int, done: float) -> float:
            through = Limit(whole.total).done(whole.before + step, 0.0)
            return optimisation.rate_factor(student.schedule, through)

        training = Training(
            bare,
            optimiser,
            losses_of,
            Limit(student.iterations),
            rate=rate,
            factors={"segmentation": student.segmentation_weight, "edge": student.edge_weight},
            average=average,
            name=name,
            remedy="lower student.lr or student.head_lr, or write student.precision: fp32",
        )
        log = train(training, world, checkpoint, progress)
    weights = to_arrays(average.state())
    if whole.before + student.iterations < whole.total:
        weights |= to_arrays(state_of(bare, optimiser))
    return weights, log


def _planes(images: Tensor, channels_last: bool) -> Tensor:
    images = images.permute(0, 3, 1, 2)  # (B, H, W, 3) read as NCHW is channels-last
    return images if channels_last else images.contiguous()


def _losses(
    forward: Callable[[Tensor], Any],
    images: Tensor,
    foreground: Tensor,
    edges: Tensor,
    ignore: Tensor,
) -> dict[str, Tensor]:
    outputs = forward(normalise(images))
    targets = {"segmentation": foreground, "edge": edges}
    return {
        name: segmentation_loss(logits, target.long(), ignore)
        for logits, (name, target) in zip(outputs, targets.items(), strict=True)
        if logits is not None
    }
