"""Student output: probabilities of an image, and instances from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.distillation.settings import Infer
from coin_ray.distillation.unet import HALO, STRIDE
from coin_ray.imaging.instances import clean_mask, distance_map, find_markers, split_instances
from coin_ray.imaging.settings import Instances
from coin_ray.imaging.tiles import squares
from coin_ray.labels import LabelMap
from coin_ray.precision import computing
from coin_ray.weights.modules import normalise

FloatMap = NDArray[np.float32]


def predict_probability(
    model: nn.Module, image: NDArray[np.uint8], infer: Infer, device: str = "cpu"
) -> tuple[FloatMap, FloatMap | None]:
    """As :func:`predict_batch`, of one image (H, W, 3)."""
    (found,) = predict_batch(model, image[None], infer, device)
    return found


@torch.inference_mode()
def predict_batch(
    model: nn.Module, images: NDArray[np.uint8], infer: Infer, device: str = "cpu"
) -> list[tuple[FloatMap, FloatMap | None]]:
    """Foreground and edge probability (H, W) float32 in [0, 1] of each of ``images``
    (N, H, W, 3); edge None without an edge head.

    The mean of fp32 softmax maps over ``scales`` (the whole image resized, antialiased bicubic;
    maps resized back, bilinear), each with its mirror image when ``hflip``. With ``tile`` the
    resized image is predicted in squares of that side plus a halo of 128 px, so that memory does
    not grow with the image: equal to the whole image for the U-Net, close for a network with image-
    level pooling. Puts ``model`` into evaluation mode.
    """
    model.eval()
    height, width = images.shape[1:3]
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    original = normalise(pixels.permute(0, 3, 1, 2))
    total = original.new_zeros(())
    for scale in infer.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        x = original if scale == 1 else _resize(original, size, "bicubic")
        for flip in (False, True) if infer.hflip else (False,):
            with computing(device, infer.precision):
                maps = _tiled(model, x.flip(-1) if flip else x, infer.tile)
            maps = maps.flip(-1) if flip else maps
            maps = maps if scale == 1 else _resize(maps, (height, width), "bilinear")
            total = total + maps
    views = len(infer.scales) * (1 + infer.hflip)
    means = (total / views).clamp(0, 1).cpu().numpy()
    return [(mean[0], mean[1] if len(mean) == 2 else None) for mean in means]


def _resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(x, size=size, mode=mode, align_corners=False, antialias=mode == "bicubic")


def _tiled(model: nn.Module, x: Tensor, tile: int | None) -> Tensor:
    """(N, 1 or 2, h, w) probabilities of normalised images (N, 3, h, w)."""
    shape = x.shape[-2:]
    if tile is None or max(shape) <= tile:
        return _probabilities(model, x)
    side = tile + -tile % STRIDE  # squares start on the grid of the deepest level: same poolings
    out: Tensor | None = None
    for seen, core, within in squares(shape, side, HALO):
        maps = _probabilities(model, x[(..., *seen)])
        if out is None:
            out = maps.new_empty((*maps.shape[:2], *shape))
        out[(..., *core)] = maps[(..., *within)]
    assert out is not None
    return out


def _probabilities(model: nn.Module, x: Tensor) -> Tensor:
    outputs = model(x.contiguous(memory_format=torch.channels_last))
    return torch.cat([o.float().softmax(dim=1)[:, 1:] for o in outputs if o is not None], dim=1)


def instances_from_probability(
    seg: FloatMap,
    edge: FloatMap | None,
    infer: Infer,
    instances: Instances,
    *,
    refine: Callable[[FloatMap], FloatMap] | None = None,
    evidence: FloatMap | None = None,
    scale: float = 1.0,
) -> LabelMap:
    """Label map of a student's probability ``seg`` (H, W), and ``edge`` (H, W) or None.

    ``infer.minmax`` stretches ``seg`` to [0, 1] first (the public code does; it makes noise out of
    an image without cells), then ``refine`` (a dense CRF) gives its own map of the same shape and
    range. Foreground is logit(p) + ``stain_weight`` * ``evidence`` > 0, with
    ``evidence`` (H, W) the signed stain evidence; weight 0 is p > .5. Then holes are filled, the
    mask opened with a disk of ``infer.opening`` px (in place of that of ``instances``), and split.
    ``edge_markers`` takes the watershed's markers from the interiors seg * (1 - edge) > .5 instead
    of the whole foreground, where there is an edge map. Pixel lengths are at 0.25 um/px and
    multiplied by ``scale``. ValueError when the stain's weight lacks its map.
    """
    p = _stretch(seg) if infer.minmax else seg
    p = p if refine is None else refine(p)
    foreground = p > 0.5
    if infer.stain_weight > 0:
        if evidence is None:
            raise ValueError("stain_weight needs the stain evidence")
        clipped = np.clip(p, 1e-6, 1 - 1e-6)
        foreground = np.log(clipped / (1 - clipped)) + infer.stain_weight * evidence > 0
    if infer.fill_holes:
        from scipy.ndimage import binary_fill_holes

        foreground = binary_fill_holes(foreground)
    foreground = clean_mask(foreground, opening=infer.opening, max_hole=0, min_area=0, scale=scale)
    instances = instances.model_copy(update={"opening": 0})
    markers = None
    if infer.edge_markers and edge is not None:
        interior = foreground & (p * (1 - edge) > 0.5)
        depth = distance_map(interior, sigma=instances.sigma * scale)
        markers = find_markers(depth, interior, instances, scale=scale)
    return split_instances(foreground, instances, scale=scale, markers=markers)


def _stretch(p: FloatMap) -> FloatMap:
    low, high = float(p.min()), float(p.max())
    return (p - low) / (high - low) if high > low else p
