"""Builds the student network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import nn

from coin_ray.weights.modules import load_arrays


def build_student(
    *, arch: str, width: int, encoder: str, encoder_weights: str, edge: bool
) -> nn.Module:
    """A student with random or ImageNet weights, drawn from torch's current generator.

    ``arch`` ``unet`` (first width ``width``) or ``deeplabv3plus`` (``encoder`` ``resnet50`` or
    ``resnet101``, ``encoder_weights`` ``imagenet`` or ``none``).  The module maps (B, 3, H, W)
    normalised floats to (segmentation logits (B, 2, H, W), edge logits (B, 2, H, W) or None),
    channel 1 = nucleus / contour.  UserError when ImageNet weights are asked for and missing.
    """
    if arch == "unet":
        from coin_ray.distillation.unet import UNet

        return UNet(width, edge)
    if arch == "deeplabv3plus":
        from coin_ray.distillation.deeplab import DeepLabV3Plus

        return DeepLabV3Plus(encoder, encoder_weights, edge)
    raise ValueError(f"unknown student architecture {arch!r}")


def student_from_weights(
    weights: Mapping[str, NDArray[Any]],
    *,
    arch: str,
    width: int,
    encoder: str,
    edge: bool,
    device: str = "cpu",
) -> nn.Module:
    """The student of a finished round in evaluation mode; needs no ImageNet file."""
    with torch.random.fork_rng(devices=[]):
        model = build_student(
            arch=arch, width=width, encoder=encoder, encoder_weights="none", edge=edge
        )
    load_arrays(model, weights)
    return channels_last(model.to(device)).eval()


def channels_last(model: nn.Module) -> nn.Module:
    """The module with its convolutions stored for channels-last inputs (faster on CPU and GPU)."""
    return cast(nn.Module, model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
