"""The small student: a U-Net that starts at half resolution (0.92 M parameters at width 32)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 16  # of the deepest level; inputs are padded to multiples of it
HALO = 128  # more than the receptive field reaches, so that tiles agree with the whole image


def _block(channels_in: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first in (channels_in, channels):
        layers += [
            nn.Conv2d(first, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _head(width: int) -> nn.Sequential:
    # Four sub-pixel logits a class at half resolution, shuffled back to full resolution.
    return nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.PixelShuffle(2))


class UNet(nn.Module):
    """Pixel-unshuffle stem, widths w, 2w, 3w, 4w at strides 2, 4, 8, 16, one head per task.

    ``forward`` takes (B, 3, H, W) normalised floats of any size (sides are padded to multiples of
    16 by repeating the border) and returns segmentation logits (B, 2, H, W) and edge logits of the
    same shape, or None without an edge head.
    """

    def __init__(self, width: int, edge: bool) -> None:
        super().__init__()
        widths = [width * k for k in (1, 2, 3, 4)]
        self.down = nn.ModuleList(
            _block(a, b) for a, b in zip([12, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            _block(deep + skip, skip)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.segmentation = _head(width)
        self.edge = _head(width) if edge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        x = F.pixel_unshuffle(x, 2)
        skips: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        segmentation = self.segmentation(x)[..., :height, :width]
        return segmentation, None if self.edge is None else self.edge(x)[..., :height, :width]
