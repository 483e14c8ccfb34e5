"""What the built-in detector learns of a label map, and its loss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from coin_ray.labels import BoolArray, LabelMap, boundaries
from coin_ray.ucis.detector import CELL, REACH


def dense_targets(label_map: LabelMap) -> NDArray[np.float32]:
    """(4, H/2, W/2) of the 2-px cells of a label map (H, W): shares of foreground and of contour,
    and the way (y, x) to the instance's centre / 16 px."""
    coverage = [_cells(m).mean((1, 3)) for m in (label_map > 0, boundaries(label_map))]
    _, inverse = np.unique(label_map, return_inverse=True)
    inverse = inverse.ravel()
    area = np.bincount(inverse)
    way = [
        ((np.bincount(inverse, c.ravel()) / area)[inverse].reshape(c.shape) - c)[::CELL, ::CELL]
        / REACH
        for c in np.indices(label_map.shape)
    ]
    inside = label_map[::CELL, ::CELL] > 0
    return np.stack([*coverage, *(w * inside for w in way)]).astype(np.float32)


def untaught(ignore: BoolArray) -> BoolArray:
    """(H/2, W/2) cells of which any pixel of ``ignore`` (H, W) is."""
    return np.any(_cells(ignore), axis=(1, 3))


def _cells(values: BoolArray) -> BoolArray:
    height, width = values.shape
    cells: BoolArray = values.reshape((height // CELL, CELL, width // CELL, CELL))
    return cells


def dense_loss(predicted: Tensor, dense: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Cross-entropy of foreground and contour plus half the L1 error of the way to the centre,
    scalar.

    ``predicted`` (B, 4, h, w) of the network, ``dense`` (B, 4, h, w) of :func:`dense_targets`;
    cells of ``ignore`` (B, h, w) bool count for nothing.
    """
    taught = torch.ones_like(dense[:, 0]) if ignore is None else (~ignore).float()
    entropy = functional.binary_cross_entropy_with_logits(
        predicted[:, :2], dense[:, :2], taught[:, None].expand_as(dense[:, :2]), reduction="sum"
    )
    inside = (dense[:, 0] > 0.5) * taught
    error = (predicted[:, 2:] - dense[:, 2:]).abs().sum(1)
    return entropy / (2 * taught.sum()).clamp(min=1) + (
        0.5 * (error * inside).sum() / inside.sum().clamp(min=1)
    )
