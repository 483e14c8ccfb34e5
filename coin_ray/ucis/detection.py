"""Instances of the built-in detector: pixels vote for the centre of their nucleus.

The votes are offsets that a network has learnt, as in Kendall et al., Multi-task learning using
uncertainty to weigh losses, CVPR 2018, section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from coin_ray.imaging.instances import disk_maximum
from coin_ray.imaging.windows import grid
from coin_ray.labels import BoolArray, LabelMap, keep_instances, means
from coin_ray.precision import computing
from coin_ray.training.layout import moved
from coin_ray.ucis.detector import REACH, WINDOW, VotingNetwork
from coin_ray.ucis.settings import Detector

FloatMap = NDArray[np.float32]
STRIDE = 192  # px between windows
AT_ONCE = 4  # windows
BLUR = 2.0  # px, standard deviation of the kernel in which votes are counted
APART = 5  # px that two centres lie apart at least
ASTRAY = 8.0  # px from any centre, beyond which a vote belongs to none


def detect(
    image: NDArray[np.uint8],
    network: VotingNetwork,
    detector: Detector,
    *,
    scale: float = 1.0,
    min_area: float,
) -> tuple[LabelMap, NDArray[np.float64]]:
    """Instances (H, W) of an image (H, W, 3) uint8, which is brought to 0.25 um/px by ``scale`` =
    0.25 / mpp, and the mean probability (N,) of each; those below ``min_area`` px at that
    resolution are dropped. The network computes in fp32."""
    # `ucis.precision` is that of the training.
    with computing(str(next(network.parameters()).device), "fp32"):
        maps = read(image, network, scale=scale, views=detector.views)
    label_map, certainty = vote(maps, detector, min_area=min_area)
    if scale == 1:
        return label_map, certainty
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) / n * side, side - 1).astype(int)
        for n, side in zip(image.shape[:2], label_map.shape, strict=True)
    )
    smaller = label_map[np.ix_(rows, columns)]
    left = np.bincount(smaller.ravel(), minlength=len(certainty) + 1)[1:] > 0
    return keep_instances(smaller, left), certainty[left]


def read(
    image: NDArray[np.uint8], network: VotingNetwork, *, scale: float = 1.0, views: int
) -> FloatMap:
    """(H, W, 3) uint8 -> (3, h, w) at 0.25 um/px: probability of nucleus, and the way (y, x) to the
    centre in px; the mean over the image and ``views`` - 1 turned and mirrored ones.

    Where windows overlap, what is nearer to a window's middle counts more; an image smaller than a
    window is mirrored.
    """
    found = [turned_back(_read(turned(image, view), network, scale), view) for view in range(views)]
    return np.mean(found, axis=0, dtype=np.float32)


def turned(image: NDArray[Any], view: int) -> NDArray[Any]:
    """(H, W, ...) by ``view`` quarter turns, from the fifth on mirrored too."""
    out = np.rot90(image, view % 4)
    return np.ascontiguousarray(out[:, ::-1] if view >= 4 else out)


def turned_back(maps: FloatMap, view: int) -> FloatMap:
    """The maps (3, H, W) of a turned image as those of the image itself: ways turn with it."""
    probability, y, x = maps
    if view >= 4:
        probability, y, x = probability[:, ::-1], y[:, ::-1], -x[:, ::-1]
    for _ in range(view % 4):
        probability, y, x = np.rot90(probability, -1), np.rot90(x, -1), -np.rot90(y, -1)
    return np.stack([probability, y, x])


@torch.inference_mode()
def _read(image: NDArray[np.uint8], network: VotingNetwork, scale: float) -> FloatMap:
    device = next(network.parameters()).device
    least = int(np.ceil(WINDOW * scale))
    pads = [
        (lack // 2, lack - lack // 2) for lack in np.maximum(0, least - np.array(image.shape[:2]))
    ]
    padded = np.pad(image, (*pads, (0, 0)), "symmetric")
    pixels = moved(padded, device).permute(2, 0, 1)[None].float() / 255
    if scale != 1:
        sides = tuple(max(WINDOW, round(n / scale)) for n in padded.shape[:2])
        pixels = functional.interpolate(pixels, sides, mode="bilinear", antialias=True)
    found = _windows(pixels[0], network)
    inside = tuple(
        slice(start, start + max(1, round(n / scale)))
        for start, n in zip((round(pad[0] / scale) for pad in pads), image.shape[:2], strict=True)
    )
    return (found[:3] / found[3])[(slice(None), *inside)].cpu().numpy()


def _windows(pixels: torch.Tensor, network: VotingNetwork) -> torch.Tensor:
    """Weighted sums of the three maps over the windows of (3, H, W), and of the weights."""
    ramp = 1 - ((torch.arange(WINDOW, device=pixels.device) + 0.5) / (WINDOW / 2) - 1).abs()
    weight = torch.minimum(ramp[:, None], ramp)
    found = torch.zeros(4, *pixels.shape[1:], device=pixels.device)
    corners = grid((pixels.shape[1], pixels.shape[2]), WINDOW, STRIDE)
    for start in range(0, len(corners), AT_ONCE):
        some = corners[start : start + AT_ONCE]
        chosen = [np.s_[:, y : y + WINDOW, x : x + WINDOW] for y, x in some]
        maps = network(torch.stack([pixels[where] for where in chosen])).float()
        maps = torch.cat([maps[:, :1].sigmoid(), maps[:, 2:] * REACH], dim=1)
        full = functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
        for where, values in zip(chosen, full, strict=True):
            found[where] += torch.cat([values * weight, weight[None]])
    return found


def vote(
    maps: FloatMap, detector: Detector, *, min_area: float
) -> tuple[LabelMap, NDArray[np.float64]]:
    """Instances (H, W) of what :func:`read` gives, and the mean probability (N,) of each.

    Pixels of at least ``foreground`` vote, each as much as its probability, for the pixel that
    their offset leads to. A centre is the largest count within APART px, of ``votes`` px at least.
    A pixel belongs to the centre next to its vote, if that is within ASTRAY px. Instances whose
    mean probability is below ``certainty`` are dropped, and small ones.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    probability = maps[0]
    shape = probability.shape
    inside = np.argwhere(probability >= detector.foreground)
    weights = probability[tuple(inside.T)]
    votes = inside + maps[(slice(1, 3), *inside.T)].T
    at = np.clip(np.rint(votes), 0, np.array(shape) - 1).astype(np.int64)
    counts = np.bincount(np.ravel_multi_index(tuple(at.T), shape), weights, probability.size)
    # Of a lone pixel's votes all are counted: the kernel's peak is 1.
    counted = gaussian_filter(counts.reshape(shape), BLUR, mode="constant") * (2 * np.pi * BLUR**2)
    counted = counted.astype(np.float32)
    peaks = np.argwhere((counted == disk_maximum(counted, APART)) & (counted >= detector.votes))
    label_map = np.zeros(shape, np.int32)
    if not len(peaks):
        return label_map, np.zeros(0)
    distance, nearest = cKDTree(peaks).query(votes)
    label_map[tuple(inside.T)] = np.where(distance <= ASTRAY, nearest + 1, 0)
    area = np.bincount(label_map.ravel(), minlength=len(peaks) + 1)[1:]
    certainty = means(probability, label_map, len(peaks))
    kept = (certainty >= detector.certainty) & (area >= max(1.0, min_area))
    return keep_instances(label_map, kept), certainty[kept]


def separated(label_map: LabelMap) -> BoolArray:
    """(H, W) the instances' pixels without those that touch (4-connected) another instance, so that
    each is a component of its own."""
    touching = np.zeros(label_map.shape, dtype=bool)
    for ids, out in ((label_map, touching), (label_map.T, touching.T)):
        differs = (ids[1:] != ids[:-1]) & (ids[1:] > 0) & (ids[:-1] > 0)
        out[1:] |= differs
        out[:-1] |= differs
    return (label_map > 0) & ~touching
