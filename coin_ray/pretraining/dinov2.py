"""DINOv2-style self-distillation (Oquab et al., 2023): DINO on the class token and iBOT (Zhou et
al., 2022) on masked patches, on a ViT with layer scale and perhaps register tokens (Darcet et al.,
2023).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from coin_ray.pretraining import data
from coin_ray.pretraining.dino import TEACHER_TEMPERATURE, Dino, class_loss, distillation_loss
from coin_ray.training.layout import moved

KOLEO = 0.1


def block_mask(rng: np.random.Generator, grid: int, share: float) -> np.ndarray:
    """(grid * grid,) bool: random rectangles until at least ``share`` of the patches are hidden."""
    mask = np.zeros((grid, grid), dtype=bool)
    while mask.mean() < share:
        h, w = rng.integers(1, max(2, grid // 2 + 1), 2)
        y, x = rng.integers(0, grid - h + 1), rng.integers(0, grid - w + 1)
        mask[y : y + h, x : x + w] = True
    return mask.ravel()


def koleo_loss(features: torch.Tensor) -> torch.Tensor:
    """Spread of a batch (Kozachenko-Leonenko): - mean log distance to the nearest other, unit
    vectors.
    """
    z = functional.normalize(features.float(), dim=-1)
    with torch.no_grad():
        near = (z @ z.T).fill_diagonal_(-2).argmax(1)
    return -torch.log((z - z[near]).norm(dim=-1) + 1e-6).mean()


@torch.no_grad()
def balanced(
    logits: torch.Tensor, temperature: float = TEACHER_TEMPERATURE, iterations: int = 3
) -> torch.Tensor:
    """Sinkhorn-Knopp targets (N, K): rows sum to 1, all prototypes are used equally."""
    q = torch.exp((logits.float() - logits.float().amax(-1, keepdim=True)) / temperature)
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True).clamp(min=1e-12) / q.shape[1]
        q = q / q.sum(1, keepdim=True).clamp(min=1e-12)
    return q


class DinoV2(Dino):
    """DINO plus the patch loss: the student's hidden patches predict the teacher's seen ones."""

    locals_ = 3

    def __init__(self, vit: Any) -> None:
        super().__init__(vit)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, vit.embed_dim))

    def loss(self, views: data.Views, rng: np.random.Generator, fraction: float) -> torch.Tensor:
        """DINO + iBOT + 0.1 KoLeo; half of the global views have 10 to 50 % of their patches
        hidden.
        """
        big, small = views.images
        grid, extra = (
            big.shape[-1] // self.backbone.patch_embed.patch_size[0],
            self.backbone.num_prefix_tokens,
        )
        hidden = np.zeros((len(big), grid * grid), dtype=bool)
        for i in range(0, len(big), 2):
            hidden[i] = block_mask(rng, grid, rng.uniform(0.1, 0.5))
        # Not by the mask: a step would wait for a GPU to say how many it chooses.
        mask, chosen = (moved(a, big.device) for a in (hidden, np.flatnonzero(hidden)))
        with torch.no_grad():
            seen = self.teacher.forward_features(big)
            teacher = self.teacher_head(seen[:, 0])
            patches = self.teacher_patch_head(seen[:, extra:].flatten(0, 1)[chosen])
        ours = self.masked_features(big, mask)
        local = self.backbone.forward_features(small)[:, 0]
        student = self.head(torch.cat([ours[:, 0], local]))
        predicted = self.patch_head(ours[:, extra:].flatten(0, 1)[chosen])
        total = class_loss(student, balanced(teacher), len(big) // 2)
        total = total + distillation_loss(predicted, balanced(patches)).mean()
        half = len(big) // 2
        return total + KOLEO * 0.5 * sum(koleo_loss(c) for c in ours[:, 0].split(half))

    def masked_features(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, prefix + L, D) of the student with a token for each ``mask``ed (B, L) patch."""
        vit = self.backbone
        x = vit.patch_embed(images)
        shape = x.shape
        flat = x.reshape(shape[0], -1, shape[-1])
        flat = torch.where(mask[..., None], self.mask_token.to(flat.dtype), flat)
        x = vit._pos_embed(flat.reshape(shape))
        for block in vit.blocks:
            x = block(x)
        return vit.norm(x)
