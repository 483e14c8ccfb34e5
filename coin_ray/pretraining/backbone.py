"""Pretraining of a small ViT backbone without labels: what the families share.

The model is the one that the weights registry builds for ``<family>_mini`` (timm name, overrides),
so that the file loads through the same code as the official weights. The input mimics inference: a
window of the image at about twice its size, so that a 16-px patch covers 8 px of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coin_ray.errors import UserError
from coin_ray.pretraining import data as sources
from coin_ray.pretraining.dino import Dino
from coin_ray.pretraining.dinov2 import DinoV2
from coin_ray.pretraining.mae import Mae
from coin_ray.pretraining.pretrain import Asked, Recipe, pretrain
from coin_ray.propagation import backbones
from coin_ray.training.checkpoint import Log
from coin_ray.training.draws import generator
from coin_ray.weights.registry import entry

FAMILIES = ("mae", "dinov1", "dinov2", "dinov2_reg")
TILES = 400
_DINO = Recipe(lr=3e-4, weight_decay=0.04, clip=3.0)
RECIPES = dict.fromkeys(FAMILIES, _DINO) | {"mae": Recipe(lr=1.5e-3, weight_decay=0.05, clip=1.0)}


def build_vit(family: str, **overrides: Any) -> Any:
    """The family's small timm ViT, as the registry describes it; ``overrides`` are for tests."""
    if family not in FAMILIES:
        raise UserError(
            f"unknown backbone family {family!r}", expected="one of " + ", ".join(FAMILIES)
        )
    build = entry(f"{family}_mini").build
    return backbones.build_vit(build["model"], {**build["overrides"], **overrides})[0]


def normalise(images: torch.Tensor, family: str) -> torch.Tensor:
    """(B, 3, H, W) RGB in [0, 1] with the registry's mean and deviation taken out."""
    build = entry(f"{family}_mini").build
    mean, std = (
        torch.tensor(build[k])[:, None, None].to(images.device, non_blocking=True)
        for k in ("mean", "std")
    )
    return (images - mean) / std


def build_method(family: str, seed: int, **overrides: Any) -> Mae | Dino:
    """The training model of a family: its backbone (``.backbone``) and its loss (``.loss``)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = build_vit(family, **overrides)
        return {"mae": Mae, "dinov1": Dino}.get(family, DinoV2)(vit)


def pretrain_backbone(
    family: str,
    asked: Asked,
    data: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Log:
    """Train one small backbone and write its timm state dict, the losses of every step.

    ``family`` is mae, dinov1, dinov2 or dinov2_reg. ``data`` are real images, read without labels
    and mixed half and half with generated ones. The file holds the averaged (teacher) weights
    where the family has them. ``overrides`` of the network are for tests.
    """
    method = build_method(family, asked.seed, **(overrides or {})).to(asked.device)
    count, tiles = asked.batch or method.default_batch, asked.tiles or TILES
    crops = sources.Crops(data, asked.seed, generated=tiles, device=asked.device)

    def loss_of(step: int, done: float) -> torch.Tensor:
        rng = generator(asked.seed, step, 0)
        views = method.views(crops, rng, done, count)
        views = replace(views, images=[normalise(image, family) for image in views.images])
        with torch.autocast(asked.device, torch.bfloat16, enabled=asked.amp):
            return method.loss(views, rng, done)

    settings = {"batch": count, "tiles": tiles, "images": sources.content(crops.real)}
    return pretrain(
        asked,
        RECIPES[family],
        method,
        loss_of,
        exported=lambda: method.exported().state_dict(),
        identity={"what": family, **settings},
        after_step=method.after_step,
    )
