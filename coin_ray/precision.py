"""The numbers that a network computes with: 32 bits, TF32 or bfloat16, and the same every time.

TF32 rounds the factors of matrix products and convolutions to 10 bits of mantissa on a GPU, and is
fp32 elsewhere. bf16 has 7 bits there; weights, sums and everything else keep 32 (autocast).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from coin_ray.errors import UserError

Precision = Literal["fp32", "tf32", "bf16"]


DEVICE = threading.RLock()
"""Held by the thread that computes: torch's flags and threads are those of the whole process."""


@contextmanager
def arithmetic(device: str, precision: Precision, *, deterministic: bool) -> Iterator[None]:
    """What torch may round and reorder meanwhile, its flags given back as they were; one thread at
    a time.

    ``deterministic``: an operation gives the same bytes on the same card or raises RuntimeError.
    UserError for a GPU that has no bf16.
    """
    import torch

    if precision == "bf16" and device.startswith("cuda"):
        _has_bf16(device)
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    with DEVICE:
        before = products.allow_tf32, convolutions.allow_tf32
        strict = torch.are_deterministic_algorithms_enabled()
        products.allow_tf32 = convolutions.allow_tf32 = precision != "fp32"
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            products.allow_tf32, convolutions.allow_tf32 = before
            torch.use_deterministic_algorithms(strict)


def autocast(device: str, precision: Precision) -> AbstractContextManager[None]:
    """Forward passes in bf16, if that is the precision."""
    if precision != "bf16":
        return nullcontext()
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


@contextmanager
def computing(device: str, precision: Precision) -> Iterator[None]:
    """Both of these, for what is not trained. UserError as of :func:`arithmetic`."""
    with arithmetic(device, precision, deterministic=False), autocast(device, precision):
        yield


def _has_bf16(device: str) -> None:
    import torch

    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            "this GPU does not compute in bf16",
            where="precision: bf16",
            expected="compute capability 8.0 (Ampere) or newer",
            found=torch.cuda.get_device_name(device),
            do="write `precision: fp32`, or take another GPU",
        )
