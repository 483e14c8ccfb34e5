"""What a training round refuses, before it starts and while it runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from coin_ray.errors import UserError


class Compiled:
    """The forward pass of a module through ``torch.compile``; the module itself stays as it is.

    UserError at the first call where it cannot be compiled.
    """

    def __init__(self, module: nn.Module) -> None:
        self._forward = torch.compile(module)

    def __call__(self, x: Tensor) -> Any:
        try:
            return self._forward(x)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UserError(
                "the student cannot be compiled",
                where="student.compile",
                expected="what torch.compile needs: a C++ compiler and Python's headers, and on a "
                "GPU Triton",
                found=str(error).strip().splitlines()[0],
                do="install them, or `student.compile: false`",
            ) from error


def finite_loss(loss: float, round_index: int, step: int) -> float:
    """The loss itself; UserError naming the step (from 0) if it is not finite."""
    if math.isfinite(loss):
        return loss
    raise UserError(
        "the training loss is not finite",
        where=f"round {round_index}, step {step + 1}",
        found=str(loss),
        do="lower student.lr or student.head_lr, or turn student.bf16 off",
    )


def check_batch(
    n_images: int, n_pseudo: int, share: int, batch: int, world: int, arch: str
) -> None:
    """Refuse what cannot train: no image, or a worker whose ``share`` of the batch is too small.

    Two crops a worker are needed where batch norm sees one value a sample (DeepLabv3+).
    """
    if n_images != n_pseudo:
        raise ValueError(f"{n_images} images, but {n_pseudo} pseudo labels")
    if n_images == 0:
        raise UserError("there is no image to train on", do="check the training data")
    need = 2 if arch == "deeplabv3plus" else 1
    if share < need:
        raise UserError(
            "the batch is too small for the number of workers",
            where="student.batch",
            expected=f"at least {need} crops for each of {world} workers",
            found=f"student.batch {batch}",
            do="raise student.batch or use fewer workers",
        )
