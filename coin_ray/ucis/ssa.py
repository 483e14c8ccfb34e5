"""SSA: coarse masks from the attention that tells the magnification of a tile.

Sahasrabudhe et al., MICCAI 2020 (arXiv 2007.08373), without its whole slides: the three
magnifications are made from 40x tiles.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.errors import UserError
from coin_ray.ucis import ssa_data, training
from coin_ray.ucis.ssa_losses import TRANSFORMS, equivariance, half, smoothness
from coin_ray.ucis.ssa_losses import scale_equivariance as scale_loss
from coin_ray.ucis.ssa_network import (
    MAGNIFICATIONS,
    AttentionNetwork,
    Ssa,
    build_classifier,
    network_input,
)
from coin_ray.weights.modules import to_arrays

Image = NDArray[np.uint8]


def train_ssa(
    images: Sequence[Image],
    *,
    scales: Sequence[float] | None = None,
    width: int = 64,
    encoder: str = "resnet34",
    encoder_width: int = 64,
    weights: str = "imagenet",
    start: str = "random",
    sparsity: float = 0.07,
    scale_equivariance: bool = True,
    iterations: int = 20000,
    batch: int = 32,
    crop: int = 160,
    lr: float = 2e-4,
    weight_decay: float = 1e-4,
    lr_drops: Sequence[int] = (30000, 60000),
    ema: float = 0.0,
    stain_jitter: float = 0.03,
    seed: int = 0,
    device: str | torch.device = "cpu",
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    rank: int = 0,
    world: int = 1,
    progress: training.Progress | None = None,
    checkpoint: Path | None = None,
    every: float = 60.0,
) -> tuple[training.Weights, training.Log]:
    """Weights of the attention network, for ``ssa_mask``, and the losses of every step.

    ``images`` (H, W, 3) uint8 of any sizes, without labels, and their ``scales`` 0.25 / mpp (all 1
    if left out); images without tissue are not drawn from. ``width`` channels in the attention
    network; ``encoder`` and ``encoder_width`` (channels of its first stage) of the classifier, from
    ``weights`` ``imagenet`` or ``none``. ``start`` of the attention: ``random`` as published, or
    ``stain`` (:meth:`AttentionNetwork.start_from_stain`) where a run is too short to find the
    nuclei. About ``sparsity`` of the pixels are attended to; ``scale_equivariance`` is the fourth
    loss. Each of ``lr_drops`` (steps) divides the learning rate by 10.

    The checkpoint rule needs no labels: the weights after the last step are taken, or their
    exponential moving average with decay min(``ema``, (1 + t) / (10 + t)).

    A worker (``rank`` of ``world``) takes every ``world``-th crop of the global ``batch``, the
    magnifications in turn; ``wrap`` makes the module data-parallel. ``checkpoint`` is continued if
    it is there (see :func:`training.train`, for ``every`` and ``progress`` too): interrupted and
    resumed, a run gives what it gives uninterrupted. UserError without tissue to train on, when a
    worker has fewer than three crops, when ImageNet weights are missing, when the loss is not
    finite, or when the checkpoint is of another run.
    """
    device = torch.device(device)
    share = range(rank, batch, world)
    if len(share) < len(MAGNIFICATIONS):
        raise UserError(
            "the batch is too small for the number of workers", where="ucis.ssa.batch",
            expected=f"a crop of each of 3 magnifications for each of {world} workers",
            found=str(batch), do="raise ucis.ssa.batch or use fewer workers",
        )  # fmt: skip
    levels, target = ssa_data.prepare(images, scales)
    level = torch.arange(len(share), device=device) % len(MAGNIFICATIONS)
    run = training.identity(
        images,
        {"scales": scales and list(scales), "width": width, "encoder": encoder, "start": start,
         "encoder_width": encoder_width, "weights": weights, "sparsity": sparsity,
         "scale_equivariance": scale_equivariance, "iterations": iterations, "batch": batch,
         "crop": crop, "lr": lr, "weight_decay": weight_decay, "lr_drops": list(lr_drops),
         "ema": ema, "stain_jitter": stain_jitter, "seed": seed},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # alike on every worker
        attention = AttentionNetwork(width, sparsity)
        attention.target.copy_(torch.from_numpy(target))
        if start == "stain":
            attention.start_from_stain()
        classifier = build_classifier(encoder=encoder, encoder_width=encoder_width, weights=weights)
        bare = Ssa(attention, classifier).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        average = copy.deepcopy(attention)
        model = wrap(bare)

        def losses_of(step: int) -> dict[str, Tensor]:
            crops = [
                ssa_data.draw_crop(
                    levels,
                    training.generator(seed, step, index),
                    level=place % len(MAGNIFICATIONS),
                    crop=crop,
                    jitter=stain_jitter,
                )
                for place, index in enumerate(share)
            ]
            x = network_input(np.stack(crops), device)
            # The step's own transform, the same on every worker.
            apply, inverse = TRANSFORMS[int(training.generator(seed, step, batch).integers(6))]
            attended, logits = model(x)
            with torch.no_grad():
                turned = attention(apply(x), running=True)
            terms = {
                "classification": F.cross_entropy(logits, level),
                "smoothness": smoothness(attended),
                "equivariance": equivariance(attended, turned, inverse),
            }
            if scale_equivariance:
                fine = level < 2
                with torch.no_grad():
                    halved = attention(half(x[fine]), running=True)
                terms["scale_equivariance"] = scale_loss(attended[fine], halved, level[fine])
            return terms

        def follow(step: int) -> None:
            _move(average, attention, min(ema, (1 + step) / (10 + step)))

        log = training.train(
            nn.ModuleList([bare, average]),
            torch.optim.Adam(bare.parameters(), lr=lr, weight_decay=weight_decay),
            losses_of,
            iterations=iterations,
            seed=seed,
            rank=rank,
            rate=lambda step: 0.1 ** bisect_right(list(lr_drops), step),
            after_step=follow,
            progress=progress,
            checkpoint=checkpoint,
            every=every,
            run=run,
        )
    return to_arrays(average.state_dict()), log


@torch.no_grad()
def _move(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, counters copied."""
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
