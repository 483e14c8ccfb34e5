"""The image encoder of the built-in networks that know nuclei: segment-anything's own, small.

It sees a window at the image's own resolution, 8 px a token.
"""

from __future__ import annotations

import torch
from torch import nn

from coin_ray.compat import ensure_torchvision

PATCH = 8  # px a token
MEAN, STD = (0.70, 0.56, 0.68), (0.20, 0.22, 0.18)


class Stem(nn.Module):
    """Convolutions instead of a linear patch embedding: (B, 3, H, W) -> (B, H/8, W/8, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (3, 32, 64, dim)
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1)]
            layers += [nn.GroupNorm(8, widths[i + 1]), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(dim, dim, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).permute(0, 2, 3, 1)


def small_encoder(window: int, dim: int, depth: int, heads: int, channels: int) -> nn.Module:
    """Without weights: normalised windows (B, 3, ``window``, ``window``) px -> (B, ``channels``, h,
    w) tokens."""
    ensure_torchvision()
    from segment_anything.modeling import ImageEncoderViT
    from segment_anything.modeling.image_encoder import Block

    encoder = ImageEncoderViT(
        img_size=window, patch_size=PATCH, embed_dim=dim, depth=depth, num_heads=heads,
        out_chans=channels, use_abs_pos=False, use_rel_pos=True, window_size=8,
    )  # fmt: skip
    encoder.patch_embed = Stem(dim)
    grid = window // PATCH
    for i in range(1, depth, 2):
        # Windows of 11 tokens have other borders than those of 8, so that news travels across.
        encoder.blocks[i] = Block(
            dim, heads, use_rel_pos=True, window_size=11, input_size=(grid, grid)
        )
    return encoder


def encoder_input(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) RGB in [0, 1] -> what the encoder was trained with."""
    mean, std = (
        torch.tensor(values)[:, None, None].to(images.device, non_blocking=True)
        for values in (MEAN, STD)
    )
    return (images - mean) / std
