"""SSA: coarse masks from the attention that tells the magnification of a tile.

Sahasrabudhe et al., MICCAI 2020 (arXiv 2007.08373), without its whole slides: the three
magnifications are made from 40x tiles.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coin_ray.labels import BoolArray
from coin_ray.training import draws
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.layout import placed
from coin_ray.training.loop import Limit, Training, Weights, train
from coin_ray.training.world import HERE, Progress, World
from coin_ray.ucis import settings, ssa_data
from coin_ray.ucis.ssa_data import Image
from coin_ray.ucis.ssa_losses import TRANSFORMS, equivariance, half, smoothness
from coin_ray.ucis.ssa_losses import scale_equivariance as scale_loss
from coin_ray.ucis.ssa_network import (
    MAGNIFICATIONS,
    Ssa,
    build_attention,
    build_classifier,
    network_input,
)
from coin_ray.weights.modules import to_arrays


def train_ssa(
    images: Sequence[Image],
    ssa: settings.Ssa,
    *,
    weights: str,
    scales: Sequence[float] | None = None,
    seed: int = 0,
    world: World = HERE,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> tuple[Weights, Log]:
    """Weights of the attention network, for ``ssa_mask``, and the losses of every step.

    ``images`` (H, W, 3) uint8 of any sizes, without labels, and their ``scales`` 0.25 / mpp (all 1
    if left out); images without tissue are not drawn from. The classifier's encoder starts from
    ``weights`` ``imagenet`` or ``none``. ``start`` of the attention: ``random`` as published, or
    ``stain`` (:meth:`AttentionNetwork.start_from_stain`) where a run is too short to find the
    nuclei. About ``sparsity`` of the pixels are attended to; ``scale_equivariance`` is the fourth
    loss. Each of ``lr_drops`` (steps) divides the learning rate by 10.

    The checkpoint rule needs no labels: the weights after the last step are taken, or their
    exponential moving average with decay min(``ema``, (1 + t) / (10 + t)).

    A worker takes every ``world.size``-th crop of the global batch, the magnifications in turn.
    ``checkpoint`` and ``progress`` as of :func:`coin_ray.training.loop.train`: interrupted and
    resumed, a run gives what it gives uninterrupted. UserError without tissue to train on, when a
    worker has fewer than three crops, when ImageNet weights are missing, when the loss is not
    finite, or when the checkpoint is of another run.
    """
    each = "a crop of each of 3 magnifications"
    share = world.share(ssa.batch, len(MAGNIFICATIONS), each, "ucis.ssa.batch")
    levels, target = ssa_data.prepare(images, scales)
    level, fine, by_level = _magnifications(len(share), world.device)
    with draws.seeded(world.device, seed):  # alike on every worker
        attention = build_attention(ssa, target)
        classifier = build_classifier(ssa, weights)
        bare = placed(Ssa(attention, classifier), world.device).train()
        model = world.wrap(bare)

        def losses_of(step: int, done: float) -> dict[str, Tensor]:
            torch.manual_seed(draws.torch_seed(seed, step, world.rank))
            crops = [
                ssa_data.draw_crop(
                    levels,
                    draws.generator(seed, step, index),
                    level=place % len(MAGNIFICATIONS),
                    crop=ssa.crop,
                    jitter=ssa.stain_jitter,
                )
                for place, index in enumerate(share)
            ]
            x = network_input(np.stack(crops), world.device)
            # The step's own transform, the same on every worker.
            apply, inverse = TRANSFORMS[int(draws.generator(seed, step, ssa.batch).integers(6))]
            attended, logits = model(x)
            with torch.no_grad():
                turned = attention(apply(x), running=True)
            terms = {
                "classification": F.cross_entropy(logits, level),
                "smoothness": smoothness(attended),
                "equivariance": equivariance(attended, turned, inverse),
            }
            if ssa.scale_equivariance:
                with torch.no_grad():
                    halved = attention(half(x[fine]), running=True)
                terms["scale_equivariance"] = scale_loss(attended[fine], halved, by_level)
            return terms

        average = Average(attention, ssa.ema)
        training = Training(
            bare,
            torch.optim.Adam(bare.parameters(), lr=ssa.lr, weight_decay=ssa.weight_decay),
            losses_of,
            Limit(ssa.iterations),
            rate=lambda step, done: 0.1 ** bisect_right(ssa.lr_drops, step),
            average=average,
        )
        log = train(training, world, checkpoint, progress)
    return to_arrays(average.state()), log


def _magnifications(crops: int, device: str) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The class of each crop of a step, which of them are at 40x and 20x, and of those each."""
    level = np.arange(crops) % len(MAGNIFICATIONS)

    def places(chosen: BoolArray) -> Tensor:
        # Not a mask: a step would wait for a GPU to say how many it chooses.
        return torch.from_numpy(np.flatnonzero(chosen)).to(device)

    fine = level[level < 2]
    by_level = places(fine == 0), places(fine == 1)
    return torch.from_numpy(level).to(device), places(level < 2), by_level
