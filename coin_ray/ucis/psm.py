"""Coarse masks by PSM: three networks trained in turn, each on labels that the last one made.

Chen et al., Unsupervised Cell Recognition with Prior Self-activation Maps, MICCAI 2023. A network
that agrees with itself under rotation -> its self-activation maps, clustered -> masks -> a network
that finds one point a nucleus in them -> Voronoi labels -> the network that segments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.errors import UserError
from coin_ray.labels import BoolArray
from coin_ray.ucis.psm_activation import activation_network, rotation_loss, self_activation_map
from coin_ray.ucis.psm_clusters import cluster_mask
from coin_ray.ucis.psm_network import ResUNet, bounded_loss, check_weights
from coin_ray.ucis.psm_points import nuclear_points, voronoi_label
from coin_ray.ucis.psm_stages import Run, fit
from coin_ray.ucis.ssa_data import has_tissue, resize
from coin_ray.ucis.training import Log, Progress, Weights, generator, identity
from coin_ray.weights.modules import load_arrays, to_arrays

Image = NDArray[np.uint8]
TILE, HALO = 1024, 256  # px, squares that a large image is predicted in, and what is seen around
_CLUSTERS = 0  # a stream of the seed beside the stages 1, 2, 3


def train_psm(
    images: Sequence[Image],
    *,
    scales: Sequence[float] | None = None,
    activation_encoder: str = "res2net101_26w_4s",
    activation_width: int = 64,
    activation_iterations: int = 3700,
    activation_batch: int = 1,
    activation_lr: float = 1e-4,
    clusters: int = 3,
    attempts: int = 10,
    max_hole: int = 64,
    min_area: int = 0,
    encoder: str = "resnet34",
    width: int = 64,
    weights: str = "imagenet",
    point_iterations: int = 900,
    final_iterations: int = 900,
    batch: int = 4,
    lr: float = 1e-4,
    region: int | None = 512,
    crop: int = 512,
    folds: int = 10,
    point_distance: int = 6,
    point_merge: float = 20.0,
    point_radius: int = 2,
    voronoi_weight: float = 1.5,
    seed: int = 0,
    device: str | torch.device = "cpu",
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    rank: int = 0,
    world: int = 1,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    every: float = 60.0,
) -> tuple[Weights, Log]:
    """Weights of the final network, for :func:`psm_mask`, and the losses of every step.

    ``images`` (H, W, 3) uint8 of any sizes, without labels, and their ``scales`` 0.25 / mpp (all 1
    if left out); lengths are px at 0.25 um/px, to which the images are resized. Of each, the centre
    square of side ``region`` is used (None = all of it), in random crops of side ``crop``, to which
    a smaller one is mirrored.

    1. ``activation_encoder`` (timm, ``activation_width`` channels in its first stage) from scratch,
       by :func:`rotation_loss`; then :func:`self_activation_map` and :func:`cluster_mask`.
    2. :class:`ResUNet` on ``encoder`` (``width`` channels, ``weights`` imagenet or none) on those
       masks. The images are dealt into ``folds`` parts, and each pass over them leaves out the next
       part. Then :func:`nuclear_points` and :func:`voronoi_label`.
    3. Such a network anew: the masks give background only, the Voronoi labels, with weight
       ``voronoi_weight``, the rest.

    Adam throughout, without decay, at constant rates. The defaults are the published ones; their
    iterations are 100 epochs of MoNuSeg's 37 training images. The checkpoint rule needs no labels:
    every stage goes on with the weights after its last step.

    A worker (``rank`` of ``world``) takes every ``world``-th crop of the global batch; ``wrap``
    makes a module data-parallel. ``progress(step, steps, loss)`` counts over the three stages.
    ``checkpoint``, with .1, .2 and .3 behind its name, is continued if it is there (see
    :func:`coin_ray.ucis.training.train`, for ``every`` too): interrupted and resumed, a run gives
    what it gives uninterrupted. The log holds ``loss`` of all steps, ``rotation`` of stage 1,
    ``mask`` of stage 2, ``background`` and ``voronoi`` (weighted) of stage 3.

    UserError without tissue to train on, when a worker has no crop of a batch, when ImageNet
    weights are missing, when the loss is not finite, or when the checkpoint is of another run.
    """
    settings = dict(locals())
    for name in ("images", "device", "wrap", "rank", "progress", "checkpoint", "every"):
        del settings[name]
    _check(images, min(batch, activation_batch), world)
    check_weights(encoder, width, weights)
    run = Run(
        crop=crop, seed=seed, device=torch.device(device), wrap=wrap, rank=rank, world=world,
        progress=progress, checkpoint=checkpoint, every=every,
        total=activation_iterations + point_iterations + final_iterations,
        identity=identity(images, settings | {"scales": scales and list(scales)}),
    )  # fmt: skip
    tiles = [
        _centre(_at_reference(image, scale), region)
        for image, scale in zip(images, scales or [1.0] * len(images), strict=True)
    ]

    activation = fit(
        run, 1, partial(activation_network, activation_encoder, activation_width),
        lambda model, batch: {"rotation": rotation_loss(model, _channels_first(batch[0]))},
        [(tile,) for tile in tiles],
        iterations=activation_iterations, batch=activation_batch, lr=activation_lr,
    )  # fmt: skip
    how = {"clusters": clusters, "attempts": attempts, "max_hole": max_hole, "min_area": min_area}
    masks = []
    for i, tile in enumerate(tiles):
        activated = self_activation_map(activation, tile)
        masks.append(cluster_mask(tile, activated, generator(seed, _CLUSTERS, i), **how))

    build = partial(ResUNet, encoder, width, weights)
    masked = list(zip(tiles, masks, strict=True))
    finder = fit(
        run, 2, build, _mask_terms, masked,
        iterations=point_iterations, batch=batch, lr=lr, folds=folds,
    )  # fmt: skip
    labels = []
    for tile in tiles:
        probability = _probability(finder, tile)
        points = nuclear_points(probability, distance=point_distance, merge=point_merge)
        labels.append(voronoi_label(points, tile.shape[:2], radius=point_radius))

    data = [(*pair, *label) for pair, label in zip(masked, labels, strict=True)]
    final = fit(
        run, 3, build, partial(_final_terms, voronoi_weight), data,
        iterations=final_iterations, batch=batch, lr=lr, folds=folds,
    )  # fmt: skip
    return to_arrays(final.state_dict()), run.log


def psm_mask(
    weights: Mapping[str, NDArray[Any]],
    image: Image,
    *,
    encoder: str = "resnet34",
    width: int = 64,
    scale: float = 1.0,
    device: str | torch.device = "cpu",
) -> BoolArray:
    """Nuclei by the network that :func:`train_psm` returned: (H, W, 3) uint8 -> (H, W) bool.

    ``encoder`` and ``width`` as in training, ``scale`` = 0.25 / mpp of this image.
    """
    if not has_tissue(image):
        return np.zeros(image.shape[:2], dtype=bool)
    model = ResUNet(encoder, width, "none")
    load_arrays(model, weights)
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    probability = torch.from_numpy(_probability(model, _at_reference(image, scale)))[None, None]
    size = image.shape[:2]
    if probability.shape[2:] != size:
        probability = F.interpolate(probability, size=size, mode="bilinear", antialias=True)
    return (probability[0, 0] > 0.5).numpy()


def _mask_terms(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
    image, mask = batch
    return {"mask": bounded_loss(model(_signed(image)), mask, torch.zeros_like(mask))}


def _final_terms(weight: float, model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
    image, mask, foreground, ignore = batch
    logits = model(_signed(image))
    return {
        "background": bounded_loss(logits, torch.zeros_like(mask), ignore=mask),
        "voronoi": weight * bounded_loss(logits, foreground, ignore),
    }


@torch.inference_mode()
def _probability(model: nn.Module, image: Image) -> NDArray[np.float32]:
    """Foreground probability (H, W) of an image (H, W, 3)."""
    height, width = image.shape[:2]
    x = _signed(torch.tensor(image[None], device=next(model.parameters()).device))
    out = np.empty((height, width), dtype=np.float32)
    for y in range(0, height, TILE):
        for x0 in range(0, width, TILE):
            top, left = max(0, y - HALO), max(0, x0 - HALO)
            part = x[..., top : y + TILE + HALO, left : x0 + TILE + HALO]
            found = model(part).softmax(dim=1)[0, 1, y - top :, x0 - left :][:TILE, :TILE]
            out[y : y + TILE, x0 : x0 + TILE] = found.cpu().numpy()
    return out


def _channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float()


def _signed(images: Tensor) -> Tensor:
    return _channels_first(images) / 127.5 - 1


def _centre(image: Image, side: int | None) -> Image:
    height, width = image.shape[:2]
    rows, columns = min(side or height, height), min(side or width, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    return np.ascontiguousarray(image[top : top + rows, left : left + columns])


def _at_reference(image: Image, scale: float) -> Image:
    return image if scale == 1 else resize(image, 1 / scale)


def _check(images: Sequence[Image], batch: int, world: int) -> None:
    if not any(map(has_tissue, images)):
        raise UserError(
            "there is no tissue to train on", found=f"{len(images)} images without tissue",
            do="check the training data",
        )  # fmt: skip
    if batch < world:
        raise UserError(
            "the batch is too small for the number of workers", where="psm batch",
            expected=f"a crop for each of {world} workers", found=str(batch),
            do="raise batch and activation_batch, or use fewer workers",
        )  # fmt: skip
