"""Frozen self-supervised vision transformers: windows in, tokens out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from coin_ray.compat import ensure_torchvision
from coin_ray.errors import UserError
from coin_ray.weights.modules import fill
from coin_ray.weights.registry import digest, entry

Tokens = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Backbone:
    """A frozen transformer with patches of ``patch`` px and tokens of ``dim`` channels.

    ``tokens`` takes (B, 3, h, w) float32 on ``device``, normalised by ``mean`` and ``std`` (RGB in
    [0, 1]), h and w multiples of ``patch``, and gives (B, dim, h / patch, w / patch): one block's
    output after the final LayerNorm, without class and register tokens.
    """

    patch: int
    dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    tokens: Tokens


def load_backbone(name: str, *, layer: int, device: str = "cpu") -> Backbone:
    """The backbone of that name in the registry (``<family>_<size>``, and ``_fit3d`` for the
    3D-aware fine-tuned weights of Yue et al. 2024); the last two of a process are kept.

    ``layer`` -1 gives the last block's tokens, -2 those of the block before, and so on; the final
    LayerNorm comes after each. UserError if the name is unknown, the file is missing or does not
    fit the architecture, or there is no such block.
    """
    return _load(name, digest(name), layer, device)


@lru_cache(maxsize=2)
def _load(name: str, sha256: str, layer: int, device: str) -> Backbone:
    build = entry(name).build
    model, cfg = build_vit(build["model"], build.get("overrides", {}))
    # The masked-image token of pretraining and a classification head are no part of the features.
    fill(model, name, f"the timm state dict of {build['model']}", leave=("mask_token", "head."))
    model.eval().requires_grad_(False).to(device)
    patch, depth = int(model.patch_embed.patch_size[0]), len(model.blocks)
    if not -depth <= layer <= -1:
        raise UserError(
            f"{name} has no such block",
            where="uss.layer",
            expected=f"-{depth} (its first block) to -1 (its last)",
            found=str(layer),
        )

    @torch.inference_mode()
    def tokens(batch: torch.Tensor) -> torch.Tensor:
        (found,) = model.forward_intermediates(
            batch, indices=[depth + layer], norm=True, stop_early=True, intermediates_only=True
        )
        return found

    mean, std = (tuple(build.get(key) or cfg[key]) for key in ("mean", "std"))
    return Backbone(patch, int(model.embed_dim), mean, std, torch.device(device), tokens)


def build_vit(model: str, overrides: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An untrained timm transformer without a head, any input size, and its input configuration.

    The position embedding is resampled to the token grid of each input.
    """
    ensure_torchvision()
    import timm

    built = timm.create_model(
        model, pretrained=False, num_classes=0, dynamic_img_size=True, **overrides
    )
    return built, dict(built.pretrained_cfg)
