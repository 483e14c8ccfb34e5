"""The residual networks that SSA and PSM stand on."""

from __future__ import annotations

from typing import Any

from coin_ray.compat import ensure_torchvision
from coin_ray.errors import UserError
from coin_ray.weights.modules import load_imagenet
from coin_ray.weights.registry import locate

PUBLISHED_WIDTH = 64


def check_weights(encoder: str, width: int, weights: str) -> None:
    """UserError if an :func:`encoder` cannot start from ``weights`` (``imagenet`` or ``none``): the
    file is missing, or ``width`` is not the published one."""
    if weights != "imagenet":
        return
    if width != PUBLISHED_WIDTH:
        raise UserError(
            "ImageNet weights are of the network's published width", where="width of the encoder",
            expected=str(PUBLISHED_WIDTH), found=str(width), do="take ucis.weights none",
        )  # fmt: skip
    locate(f"{encoder}_imagenet")


def residual_network(name: str, width: int, weights: str = "none", **options: Any) -> Any:
    """A timm ResNet or Res2Net with ``width`` channels in its first stage, doubled from stage to
    stage; 64 as published. From the registered ImageNet file (:func:`check_weights`) or drawn from
    torch's generator. ``options`` of timm: its head, or none of it."""
    check_weights(name, width, weights)
    ensure_torchvision()
    import timm

    channels = tuple(width * k for k in (1, 2, 4, 8))
    model = timm.create_model(name, pretrained=False, channels=channels, **options)
    if weights == "imagenet":
        load_imagenet(model, f"{name}_imagenet")
    return model
