"""Masked autoencoder (He et al., CVPR 2022): see a quarter of the patches, draw the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from coin_ray.pretraining import data
from coin_ray.training.layout import moved
from coin_ray.training.warp import stain_shift

SIDE, KEEP = 256, 0.3  # input px, share of patches that the encoder sees


def patchify(images: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, 3, H, W) -> (B, L, patch * patch * 3), patches in raster order."""
    b, c, h, w = images.shape
    x = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def reconstruction_loss(
    predicted: torch.Tensor, images: torch.Tensor, hidden: torch.Tensor, patch: int
) -> torch.Tensor:
    """Mean squared error on the hidden patches, each normalised by its own mean and deviation.

    ``predicted`` (B, L, patch * patch * 3), ``hidden`` (B, L) bool. Scalar.
    """
    target = patchify(images, patch)
    mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
    error = (predicted - (target - mean) / (variance + 1e-4).sqrt()).square().mean(-1)
    return (error * hidden).sum() / hidden.sum().clamp(min=1)


class Mae(nn.Module):
    """A timm ViT as encoder and a light transformer as decoder."""

    default_batch = 12
    backbone: Any  # timm's vision transformers have no types

    def __init__(self, vit: Any, *, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.backbone = vit
        self.patch = vit.patch_embed.patch_size[0]
        grid = SIDE // self.patch
        self.enter = nn.Linear(vit.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, grid * grid, width))
        self.decoder = nn.ModuleList([Block(width, 4) for _ in range(depth)])
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.patch**2 * 3))

    def views(
        self, crops: data.Crops, rng: np.random.Generator, fraction: float, count: int
    ) -> data.Views:
        """One view of (count, 3, 256, 256): 86 to 214 px of the image, so a zoom of 1.2 to 3."""
        images = crops.draw(rng, fraction, count, SIDE, 86, 214)
        return data.Views([stain_shift(images, rng, 0.1)])

    def loss(self, views: data.Views, rng: np.random.Generator, fraction: float) -> torch.Tensor:
        """Hide a random 70 % of the patches and reconstruct them."""
        images, vit = views.images[0], self.backbone
        x = vit._pos_embed(vit.patch_embed(images))
        extra = vit.num_prefix_tokens
        prefix, tokens = x[:, :extra], x[:, extra:]
        b, length, dim = tokens.shape
        order = moved(rng.random((b, length)).argsort(1), images.device)
        seen = order[:, : max(1, int(length * KEEP))]
        x = torch.cat([prefix, tokens.gather(1, seen[..., None].expand(-1, -1, dim))], 1)
        for block in vit.blocks:
            x = block(x)
        code = self.enter(vit.norm(x)[:, extra:])
        full = self.mask_token.to(code.dtype).expand(b, length, -1).clone()
        full = full.scatter(1, seen[..., None].expand(-1, -1, code.shape[-1]), code) + self.place
        for block in self.decoder:
            full = block(full)
        hidden = torch.ones(b, length, dtype=torch.bool, device=images.device).scatter(
            1, seen, False
        )
        return reconstruction_loss(self.leave(full).float(), images, hidden, self.patch)

    def after_step(self, step: int, fraction: float) -> None:
        """MAE has no teacher."""

    def exported(self) -> nn.Module:
        model: nn.Module = self.backbone
        return model
