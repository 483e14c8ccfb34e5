"""The losses of SSA on its attention maps, and the transforms that a map must follow.

Sahasrabudhe et al., MICCAI 2020 (arXiv 2007.08373). Maps are (B, 1, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Transform = Callable[[Tensor], Tensor]


def _turn(quarters: int) -> Transform:
    return lambda x: torch.rot90(x, quarters, (-2, -1))


# Each with its inverse: both flips, the transpose, the three rotations.
TRANSFORMS: tuple[tuple[Transform, Transform], ...] = (
    (lambda x: x.flip(-1), lambda x: x.flip(-1)),
    (lambda x: x.flip(-2), lambda x: x.flip(-2)),
    (lambda x: x.transpose(-2, -1), lambda x: x.transpose(-2, -1)),
    *((_turn(quarters), _turn(-quarters)) for quarters in (1, 2, 3)),
)


def half(x: Tensor) -> Tensor:
    """Bilinear down-sampling by 2: means of 2x2 px."""
    return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)


def smoothness(attention: Tensor) -> Tensor:
    """Mean absolute difference of horizontal neighbours plus that of vertical ones."""
    across = (attention[..., 1:] - attention[..., :-1]).abs().mean()
    return across + (attention[..., 1:, :] - attention[..., :-1, :]).abs().mean()


def equivariance(attention: Tensor, transformed: Tensor, inverse: Transform) -> Tensor:
    """Mean squared difference to ``transformed``, the attention of the transformed images, after
    it was turned back."""
    return F.mse_loss(attention, inverse(transformed))


def scale_equivariance(attention: Tensor, halved: Tensor, levels: tuple[Tensor, Tensor]) -> Tensor:
    """Half of: the mean squared difference between the halved attention of the 40x images and the
    attention of the halved images, plus the same of the 20x images.

    ``attention`` (N, 1, H, W), ``halved`` (N, 1, H // 2, W // 2); ``levels``: int64 indices of the
    images at 40x and of those at 20x, none empty.
    """
    error = (half(attention) - halved).square().mean(dim=(1, 2, 3))
    return 0.5 * (error[levels[0]].mean() + error[levels[1]].mean())
