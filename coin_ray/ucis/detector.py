"""The network of the built-in detector: which pixels are of nuclei, and where their centres lie.

It has seen generated tiles, which know every pixel, and real ones without labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from coin_ray.training.layout import placed
from coin_ray.weights.modules import fill, load_arrays
from coin_ray.weights.small_encoder import encoder_input, small_encoder

WINDOW = 256  # px that it sees at once
CELL = 2  # px a value of its maps
REACH = 16.0  # px that an offset of 1 stands for
CHANNELS = 128  # of the encoder's tokens
GREY = 0.65  # about the mean of its images


class VotingNetwork(nn.Module):
    """The small segmenter's encoder, and a decoder that meets the pixels again."""

    def __init__(self, *, dim: int = 128, depth: int = 4, heads: int = 4) -> None:
        """Without weights; the defaults are the sizes of ``detector_mini``."""
        super().__init__()
        self.image_encoder = small_encoder(WINDOW, dim, depth, heads, CHANNELS)
        self.reader = Reader()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 256, 256) RGB in [0, 1] -> (B, 4, 128, 128) of cells of 2 px: logits of the shares
        of foreground and of contour, and the way (y, x) to the centre / 16 px."""
        return self.reader(self.image_encoder(encoder_input(images)), images)


class Reader(nn.Module):
    """Tokens (B, 128, 32, 32) and the pixels (B, 3, 256, 256) they were made of -> (B, 4, 128,
    128)."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            *(nn.Conv2d(CHANNELS, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.GELU()),
            *(nn.Conv2d(128, 256, 1), nn.PixelShuffle(2), nn.GELU()),
        )
        self.fine = nn.Sequential(
            *(nn.Conv2d(12, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.GELU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.GELU()),
        )
        self.coarse = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU())
        self.middle = nn.Sequential(
            *(nn.Conv2d(128, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.GELU()),
            *(nn.Conv2d(64, 128, 1), nn.PixelShuffle(2), nn.GELU()),
        )
        self.head = nn.Sequential(
            *(nn.Conv2d(64, 48, 3, padding=1), nn.GroupNorm(8, 48), nn.GELU()),
            nn.Conv2d(48, 4, 1),
        )

    def forward(self, tokens: Tensor, images: Tensor) -> Tensor:
        fine = self.fine(functional.pixel_unshuffle(images - GREY, CELL))
        deep = torch.cat([self.deep(tokens), self.coarse(fine)], dim=1)
        return self.head(torch.cat([self.middle(deep), fine], dim=1))


def detector_of(weights: Mapping[str, NDArray[Any]], device: str = "cpu") -> VotingNetwork:
    """A detector with the arrays of a training, to look at images with."""
    network = VotingNetwork()
    load_arrays(network, weights)
    return placed(network, device).float().eval().requires_grad_(False)


@lru_cache(maxsize=2)
def load_detector(name: str, device: str = "cpu") -> VotingNetwork:
    """A detector with its registered weights, loaded once a process. UserError if they are missing
    or not those of one."""
    network = VotingNetwork()
    fill(network, name, "what `coin-ray pretrain detector` writes")
    return placed(network, device).float().eval().requires_grad_(False)
