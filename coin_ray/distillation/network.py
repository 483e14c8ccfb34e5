"""Builds the student network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from coin_ray.distillation.settings import Student
from coin_ray.errors import UserError, first_line
from coin_ray.training.layout import placed
from coin_ray.weights.modules import load_arrays


def build_student(student: Student, *, pretrained: bool = True) -> nn.Module:
    """A student (``arch`` and its sizes) drawn from torch's current generator.

    Its encoder starts from ``encoder_weights`` if ``pretrained``. The module maps (B, 3, H, W)
    normalised floats to (segmentation logits (B, 2, H, W), edge logits (B, 2, H, W) or None),
    channel 1 = nucleus / contour. UserError when ImageNet weights are asked for and missing.
    """
    if student.arch == "unet":
        from coin_ray.distillation.unet import UNet

        return UNet(student.width, student.edge)
    from coin_ray.distillation.deeplab import DeepLabV3Plus

    return DeepLabV3Plus(student, student.encoder_weights if pretrained else "none")


def student_from_weights(
    weights: Mapping[str, NDArray[Any]], student: Student, device: str = "cpu"
) -> nn.Module:
    """The student of a finished round in evaluation mode; needs no ImageNet file."""
    with torch.random.fork_rng(devices=[]):
        model = build_student(student, pretrained=False)
    load_arrays(model, weights)
    return placed(model, device).eval()


class Compiled:
    """The forward pass of a module through ``torch.compile``; the module itself stays as it is.

    UserError at the first call where it cannot be compiled.
    """

    def __init__(self, module: nn.Module) -> None:
        self._forward = torch.compile(module)

    def __call__(self, x: torch.Tensor) -> Any:
        try:
            return self._forward(x)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UserError(
                "the student cannot be compiled",
                where="student.compile",
                expected="what torch.compile needs: a C++ compiler and Python's headers, and on a "
                "GPU Triton",
                found=first_line(error),
                do="install them, or `student.compile: false`",
            ) from error
