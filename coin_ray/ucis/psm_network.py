"""PSM's segmentation network, a U-Net on a ResNet, and its loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coin_ray.ucis.encoder import residual_network

STRIDE = 32  # of the deepest level; inputs are padded to multiples of it


class _Up(nn.Module):
    """Twice the side by a transposed convolution, the skip beside it, two convolutions."""

    def __init__(self, deep: int, skip: int, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(deep, channels, 2, stride=2)
        layers: list[nn.Module] = []
        for first in (channels + skip, channels):
            layers += [
                nn.Conv2d(first, channels, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.BatchNorm2d(channels),
            ]
        self.convs = nn.Sequential(*layers, nn.Dropout2d(0.1))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        found: Tensor = self.convs(torch.cat([self.up(x), skip], dim=1))
        return found


class ResUNet(nn.Module):
    """U-Net whose encoder is a timm ResNet: (B, 3, H, W) in -1..1 -> logits (B, 2, H, W).

    ``width`` channels in the encoder's first stage, doubled from stage to stage; the decoder ends
    with half of it at full resolution. Sides of any size: they are padded to multiples of 32 by
    repeating the border.
    """

    def __init__(self, encoder: str, width: int, weights: str) -> None:
        super().__init__()
        self.encoder = residual_network(encoder, width, weights, features_only=True)
        skips = self.encoder.feature_info.channels()
        self.up = nn.ModuleList()
        deep, outs = skips[-1], (4 * width, 2 * width, width, width, width // 2)
        for skip, out in zip((*skips[-2::-1], 0), outs, strict=True):
            self.up.append(_Up(deep, skip, out))
            deep = out
        self.classify = nn.Conv2d(deep, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        *skips, deep = self.encoder(x)
        for up, skip in zip(self.up, (*skips[::-1], x[:, :0]), strict=True):
            deep = up(deep, skip)
        logits: Tensor = self.classify(deep)[..., :height, :width]
        return logits


def bounded_loss(logits: Tensor, foreground: Tensor, ignore: Tensor) -> Tensor:
    """Mean of -log softmax(softmax(z))[target] over the pixels that have a target.

    ``logits`` (B, 2, H, W), ``foreground`` and ``ignore`` (B, H, W) bool. The softmax is taken
    twice, as in the public code: a pixel's loss then lies between log(1 + 1 / e) = .313 and log(1 +
    e) = 1.313, however sure the network is, which bounds what a wrong label can do. 0 without a
    target.
    """
    per_pixel = F.cross_entropy(logits.softmax(dim=1), foreground.long(), reduction="none")
    valid = ~ignore
    return torch.where(valid, per_pixel, 0).sum() / valid.sum().clamp(min=1)
