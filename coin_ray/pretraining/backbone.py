"""Pretraining of a small ViT backbone without labels: what the families share.

The model is the one that the weights registry builds for ``<family>_mini`` (timm name, overrides),
so that the file loads through the same code as the official weights. The input mimics inference: a
window of the image at about twice its size, so that a 16-px patch covers 8 px of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coin_ray.compat import ensure_torchvision
from coin_ray.errors import UserError
from coin_ray.pretraining import data as sources
from coin_ray.pretraining import loop
from coin_ray.pretraining.dino import Dino
from coin_ray.pretraining.dinov2 import DinoV2
from coin_ray.pretraining.mae import Mae
from coin_ray.weights.registry import entry

FAMILIES = ("mae", "dinov1", "dinov2", "dinov2_reg")
SETTINGS: dict[str, dict[str, float]] = {
    "mae": {"lr": 1.5e-3, "weight_decay": 0.05, "clip": 1.0},
    "dinov1": {"lr": 8e-4, "weight_decay": 0.04, "clip": 3.0},
    "dinov2": {"lr": 8e-4, "weight_decay": 0.04, "clip": 3.0},
    "dinov2_reg": {"lr": 8e-4, "weight_decay": 0.04, "clip": 3.0},
}


def build_vit(family: str, **overrides: Any) -> nn.Module:
    """The family's small timm ViT, as the registry describes it; ``overrides`` are for tests."""
    if family not in FAMILIES:
        raise UserError(
            f"unknown backbone family {family!r}", expected="one of " + ", ".join(FAMILIES)
        )
    ensure_torchvision()
    import timm

    build = entry(f"{family}_mini").build
    options = {"num_classes": 0, "dynamic_img_size": True, **build["overrides"], **overrides}
    return timm.create_model(build["model"], pretrained=False, **options)


def normalise(images: torch.Tensor, family: str) -> torch.Tensor:
    """(B, 3, H, W) RGB in [0, 1] with the registry's mean and deviation taken out."""
    build = entry(f"{family}_mini").build
    mean, std = (
        torch.tensor(build[k], device=images.device)[:, None, None] for k in ("mean", "std")
    )
    return (images - mean) / std


def build_method(family: str, seed: int, **overrides: Any) -> Mae | Dino:
    """The training model of a family: its backbone (``.backbone``) and its loss (``.loss``)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = build_vit(family, **overrides)
        if family == "mae":
            return Mae(vit)
        if family == "dinov1":
            return Dino(vit)
        return DinoV2(vit)


def pretrain_backbone(
    family: str,
    out: str | Path,
    *,
    data: Sequence[str | Path] = (),
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    batch: int | None = None,
    tiles: int = 400,
    lr: float | None = None,
    amp: bool = True,
    resume: bool = False,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    every: float = 60.0,
    overrides: dict[str, Any] | None = None,
    progress: loop.Progress | None = None,
) -> loop.History:
    """Train one small backbone and write its timm state dict to ``out`` (``.safetensors``, fp16).

    ``family`` is mae, dinov1, dinov2 or dinov2_reg. ``data`` are real images, read without
    labels and mixed half and half with ``tiles`` generated ones. One of ``steps`` and ``minutes``
    limits the run; the checkpoint lies beside ``out`` unless named and is written every ``every``
    seconds. The file holds the averaged
    (teacher) weights where the family has them. Same seed, data and step limit, same weights.
    """
    path = Path(out)
    method = build_method(family, seed, **(overrides or {})).to(device)
    settings = SETTINGS[family]
    count = batch or method.default_batch
    crops = sources.Crops(data, seed, generated=tiles)

    def loss_of(step: int, fraction: float) -> torch.Tensor:
        rng = loop.generator(seed, step)
        views = [normalise(v, family).to(device) for v in method.views(crops, rng, fraction, count)]
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return method.loss(views, rng, fraction)

    def export(_: loop.History | None = None) -> None:
        loop.save_weights(method.exported().state_dict(), path)

    identity = {
        "what": family, "seed": seed, "batch": count, "tiles": tiles, "images": len(crops.real),
    }  # fmt: skip
    history = loop.train(
        method, loss_of, limit=loop.Limit(steps, minutes), lr=lr or settings["lr"],
        weight_decay=settings["weight_decay"], clip=settings["clip"], after_step=method.after_step,
        checkpoint=Path(checkpoint) if checkpoint else path.with_suffix(".ckpt"), every=every,
        identity=identity, resume=resume, progress=progress, on_checkpoint=export,
    )  # fmt: skip
    export()
    return history
