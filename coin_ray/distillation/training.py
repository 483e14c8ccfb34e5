"""One round of self-distillation: train the student on the current pseudo labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.layout import placed
from coin_ray.training.loop import Limit, Training, Weights, train
from coin_ray.training.world import HERE, Progress, World
from coin_ray.weights.modules import load_arrays, normalise, to_arrays


def train_round(
    tiles: Sequence[tuple[Image, PseudoLabels]],
    student: Student,
    *,
    seed: int = 0,
    round_index: int = 1,
    initial: Mapping[str, NDArray[Any]] | None = None,
    world: World = HERE,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> tuple[Weights, Log]:
    """EMA weights (name -> array, the whole state dict) and the losses of every step.

    ``tiles``: images (H, W, 3) uint8 of any sizes and their pseudo labels. Every draw comes from
    (``seed``, ``round_index``, step, index in the global batch), so the number of workers only
    shards the batch; on a CPU the same arguments and thread count give the same bytes. ``initial``
    continues from the weights of the last round with a fresh optimiser, schedule and EMA.
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
    place = (seed, round_index)
    label_maps = [pseudo.label_map for _, pseudo in tiles]
    data = placed_tiles(tiles, student, torch.device(world.device))

    # Alike on every worker.
    with draws.seeded(world.device, sampling.network_seed(place, -1, 0)):
        bare = network.build_student(student, pretrained=initial is None)
        if initial is not None:
            load_arrays(bare, initial)
        model = world.wrap(placed(bare, world.device, plain=not student.channels_last).train())
        forward = network.Compiled(model) if student.compile else model
        average = Average(bare, student.ema)

        def losses_of(step: int, done: float) -> dict[str, Tensor]:
            crops = sampling.draw_crops(label_maps, student, place, step, share)
            images, *targets = make_batch(data, crops, student)
            images = images.permute(0, 3, 1, 2)  # (B, H, W, 3) read as NCHW is channels-last
            if not student.channels_last:
                images = images.contiguous()
            torch.manual_seed(sampling.network_seed(place, step, world.rank))
            return _losses(forward, images, *targets)

        training = Training(
            bare,
            optimisation.build_optimiser(bare, student),
            losses_of,
            Limit(student.iterations),
            rate=lambda step, done: optimisation.rate_factor(student.schedule, done),
            factors={"segmentation": student.segmentation_weight, "edge": student.edge_weight},
            average=average,
            name=f"round {round_index}, ",
            remedy="lower student.lr or student.head_lr, or write student.precision: fp32",
        )
        log = train(training, world, checkpoint, progress)
    return to_arrays(average.state()), log


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
