"""One round of self-distillation: train the student on the current pseudo labels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.distillation import network, optimisation, sampling
from coin_ray.distillation.augment import sample_crop
from coin_ray.distillation.canny import canny_target
from coin_ray.distillation.guards import Compiled, check_batch, finite_loss
from coin_ray.distillation.losses import segmentation_loss
from coin_ray.distillation.targets import PseudoLabels
from coin_ray.labels import BoolArray
from coin_ray.weights.modules import load_arrays, normalise, to_arrays

Weights = dict[str, NDArray[Any]]


def train_round(
    images: Sequence[NDArray[np.uint8]],
    pseudo: Sequence[PseudoLabels],
    *,
    arch: str = "deeplabv3plus",
    width: int = 32,
    encoder: str = "resnet101",
    encoder_weights: str = "imagenet",
    edge: bool = True,
    initial: Mapping[str, NDArray[Any]] | None = None,
    iterations: int = 23100,
    batch: int = 16,
    crop: int = 512,
    optimiser: str = "sgd",
    lr: float = 1e-3,
    head_lr: float = 10.0,
    schedule: str = "poly",
    weight_decay: float = 4e-5,
    ema: float = 0.999,
    edge_weight: float = 1.0,
    segmentation_weight: float = 1.0,
    edge_target: str = "boundary",
    scale: tuple[float, float] = (0.5, 2.0),
    rotate: bool = False,
    color_jitter: float = 0.5,
    stain_jitter: float = 0.0,
    hue_jitter: float = 0.0,
    bf16: bool = False,
    channels_last: bool = True,
    compile: bool = False,
    seed: int = 0,
    round_index: int = 1,
    device: str | torch.device = "cpu",
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Weights, dict[str, list[float]]]:
    """EMA weights (name -> array, the whole state dict) and the losses of every step.

    ``images`` (H, W, 3) uint8 and their ``pseudo`` labels, of any sizes.  Every draw comes from
    (``seed``, ``round_index``, step, index in the global ``batch``), so the number of workers only
    shards the batch; on a CPU the same arguments and thread count give the same bytes.  ``initial``
    continues from the weights of the last round with a fresh optimiser, schedule and EMA.
    ``edge_target`` is the ``boundary`` of the crop's label map, or ``canny``, found once per image
    (:func:`coin_ray.distillation.canny.canny_target`) and cropped.  ``channels_last`` and
    ``compile`` (of the forward pass) change the speed only, up to rounding.
    ``wrap`` makes the module data-parallel (gradients averaged over ``world`` workers, batch-norm
    statistics per worker); ``workers`` threads draw crops ahead.  ``progress(step, iterations,
    loss)`` is called after every step, from 1.  The log holds ``loss``, ``segmentation`` and, with
    an edge head, ``edge``, as seen by this worker.

    UserError without images, when a worker's share of the batch is too small, when the loss is not
    finite (naming the step), or when the student cannot be compiled.
    """
    check_batch(
        len(images), len(pseudo), len(sampling.shard(batch, rank, world)), batch, world, arch
    )
    device = torch.device(device)
    log: dict[str, list[float]] = {"loss": [], "segmentation": []}
    contours: Sequence[BoolArray | None] = [None] * len(images)
    if edge:
        log["edge"] = []
        if edge_target == "canny":
            contours = [canny_target(p.label_map) for p in pseudo]

    def draw(index: int, rng: np.random.Generator) -> sampling.Arrays:
        return sample_crop(
            images[index],
            pseudo[index],
            rng,
            crop=crop,
            scale=scale,
            rotate=rotate,
            color_jitter=color_jitter,
            stain_jitter=stain_jitter,
            hue_jitter=hue_jitter,
            contours=contours[index],
        )

    def draw_step(step: int, pool: ThreadPoolExecutor | None) -> sampling.Arrays:
        where = {"seed": seed, "round_index": round_index, "step": step}
        return sampling.draw_batch(
            draw, len(images), **where, batch=batch, rank=rank, world=world, pool=pool
        )

    with _own_generator(device):
        torch.manual_seed(sampling.torch_seed(seed, round_index, -1, 0))  # alike on every worker
        source = "none" if initial is not None else encoder_weights
        bare = network.build_student(
            arch=arch, width=width, encoder=encoder, encoder_weights=source, edge=edge
        )
        if initial is not None:
            load_arrays(bare, initial)
        bare.to(device).train()
        model = wrap(network.channels_last(bare) if channels_last else bare)
        forward = Compiled(model) if compile else model
        descent = optimisation.build_optimiser(
            bare, optimiser=optimiser, lr=lr, head_lr=head_lr, weight_decay=weight_decay
        )
        base = [group["lr"] for group in descent.param_groups]
        average = {k: v.clone() for k, v in optimisation.floating_tensors(bare).items()}
        for step, arrays in enumerate(sampling.batches(draw_step, iterations, workers)):
            torch.manual_seed(sampling.torch_seed(seed, round_index, step, rank))
            for group, rate in zip(descent.param_groups, base, strict=True):
                group["lr"] = rate * optimisation.rate_factor(schedule, step, iterations)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                losses = _losses(forward, *_tensors(arrays, device, channels_last))
            weights = (segmentation_weight, edge_weight)
            loss = sum(w * term for w, term in zip(weights, losses, strict=False))
            assert isinstance(loss, Tensor)
            value = finite_loss(loss.item(), round_index, step)
            descent.zero_grad(set_to_none=True)
            loss.backward()
            descent.step()
            optimisation.update_ema(average, bare, optimisation.ema_decay(ema, step))
            for name, term in zip(log, (loss, *losses), strict=True):
                log[name].append(term.item())
            if progress:
                progress(step + 1, iterations, value)
    state = bare.state_dict() | average
    return to_arrays(state), log


def _losses(
    forward: Callable[[Tensor], Any],
    images: Tensor,
    foreground: Tensor,
    edges: Tensor,
    ignore: Tensor,
) -> list[Tensor]:
    outputs = forward(normalise(images))
    return [
        segmentation_loss(logits, target.long(), ignore)
        for logits, target in zip(outputs, (foreground, edges), strict=True)
        if logits is not None
    ]


def _tensors(arrays: sampling.Arrays, device: torch.device, channels_last: bool) -> list[Tensor]:
    image, *targets = (torch.from_numpy(a).to(device, non_blocking=True) for a in arrays)
    image = image.permute(0, 3, 1, 2)  # (B, H, W, 3) read as NCHW is channels-last
    return [image if channels_last else image.contiguous(), *targets]


@contextlib.contextmanager
def _own_generator(device: torch.device) -> Iterator[None]:
    """torch's global generators, given back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
