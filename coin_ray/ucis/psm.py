"""Coarse masks by PSM: three networks trained in turn, each on labels that the last one made.

Chen et al., Unsupervised Cell Recognition with Prior Self-activation Maps, MICCAI 2023. A network
that agrees with itself under rotation -> its self-activation maps, clustered -> masks -> a network
that finds one point a nucleus in them -> Voronoi labels -> the network that segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.imaging.tiles import squares
from coin_ray.labels import BoolArray
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.draws import generator
from coin_ray.training.layout import placed
from coin_ray.training.loop import Weights
from coin_ray.training.world import HERE, Progress, World
from coin_ray.ucis.encoder import check_weights, residual_network
from coin_ray.ucis.fitting import Run, Stage, fit
from coin_ray.ucis.psm_activation import rotation_loss, self_activation_map
from coin_ray.ucis.psm_clusters import cluster_mask
from coin_ray.ucis.psm_network import ResUNet, bounded_loss
from coin_ray.ucis.psm_points import nuclear_points, voronoi_label
from coin_ray.ucis.settings import Psm
from coin_ray.ucis.ssa_data import Image, at_reference, check_tissue, has_tissue
from coin_ray.weights.modules import load_arrays, to_arrays

TILE, HALO = 1024, 256  # px, squares that a large image is predicted in, and what is seen around
_CLUSTERS = 0  # a stream of the seed beside the stages 1, 2, 3


def train_psm(
    images: Sequence[Image],
    psm: Psm,
    *,
    weights: str,
    scales: Sequence[float] | None = None,
    seed: int = 0,
    world: World = HERE,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
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

    A worker takes every ``world.size``-th crop of the global batch. ``progress(step, steps, loss)``
    counts over the three stages. ``checkpoint``, with .1, .2 and .3 behind its name, is continued
    if it is there: interrupted and resumed, a run gives what it gives uninterrupted. The log holds
    ``loss`` of all steps, ``rotation`` of stage 1, ``mask`` of stage 2, ``background`` and
    ``voronoi`` (weighted) of stage 3.

    UserError without tissue to train on, when a worker has no crop of a batch, when ImageNet
    weights are missing, when the loss is not finite, or when the checkpoint is of another run.
    """
    check_tissue(images)
    smallest = min(psm.batch, psm.activation_batch)
    world.share(smallest, 1, "a crop", "ucis.psm.batch or activation_batch")
    check_weights(psm.encoder, psm.width, weights)
    tiles = [_centre(image, psm.region) for image in at_reference(images, scales)]
    stages = (
        Stage(1, psm.activation_iterations, psm.activation_batch, psm.activation_lr),
        Stage(2, psm.point_iterations, psm.batch, psm.lr, psm.folds),
        Stage(3, psm.final_iterations, psm.batch, psm.lr, psm.folds),
    )
    total = sum(stage.iterations for stage in stages)
    run = Run(psm.crop, seed, total, world, checkpoint, progress)

    activation = fit(
        run, stages[0],
        partial(residual_network, psm.activation_encoder, psm.activation_width, num_classes=1),
        lambda model, batch: {"rotation": rotation_loss(model, _channels_first(batch[0]))},
        [(tile,) for tile in tiles],
    )  # fmt: skip
    masks = [
        cluster_mask(
            tile, self_activation_map(activation, tile), generator(seed, _CLUSTERS, i), psm
        )
        for i, tile in enumerate(tiles)
    ]
    build = partial(ResUNet, psm.encoder, psm.width, weights)
    masked = list(zip(tiles, masks, strict=True))
    finder = fit(run, stages[1], build, _mask_terms, masked)
    labels = []
    for tile in tiles:
        probability = _probability(finder, tile)
        points = nuclear_points(probability, psm.point_distance, psm.point_merge)
        labels.append(voronoi_label(points, probability.shape, psm.point_radius))
    data = [(*pair, *label) for pair, label in zip(masked, labels, strict=True)]
    final = fit(run, stages[2], build, partial(_final_terms, psm.voronoi_weight), data)
    return to_arrays(final.state_dict()), run.log


def psm_mask(
    weights: Mapping[str, NDArray[Any]],
    image: Image,
    psm: Psm,
    *,
    scale: float = 1.0,
    device: str = "cpu",
) -> BoolArray:
    """Nuclei by the network that :func:`train_psm` returned: (H, W, 3) uint8 -> (H, W) bool.

    ``psm`` as in training, ``scale`` = 0.25 / mpp of this image.
    """
    if not has_tissue(image):
        return np.zeros(image.shape[:2], dtype=bool)
    model = ResUNet(psm.encoder, psm.width, "none")
    load_arrays(model, weights)
    (fine,) = at_reference([image], [scale])
    probability = torch.from_numpy(_probability(placed(model, device).eval(), fine))[None, None]
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
    x = _signed(torch.tensor(image[None], device=next(model.parameters()).device))
    out = np.empty(image.shape[:2], dtype=np.float32)
    for seen, core, within in squares(out.shape, TILE, HALO):
        out[core] = model(x[(..., *seen)]).float().softmax(dim=1)[0, 1][within].cpu().numpy()
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
