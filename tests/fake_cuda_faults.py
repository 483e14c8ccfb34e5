"""Code that is wrong on a GPU, one fault each, for the test of the tracer."""

from __future__ import annotations

import json
from typing import Any

import torch

from tests.fake_cuda import patch, report


def card() -> torch.Tensor:
    return torch.ones(4, 3, device="cuda:0")


def waits() -> None:
    x = card()
    _ = x.sum().item(), bool(x.any()), x.cpu().numpy(), x[x > 0]
    x[x < 0] = 1
    _ = torch.ones(2).to("cuda:0"), torch.tensor([1.0], device="cuda:0")
    _ = torch.ones(2).to("cuda:0", non_blocking=True)  # waits for nothing


def times(other: torch.Tensor) -> Any:
    return card() @ other


FAULTS = {
    "numpy": lambda: card().numpy(),
    "two devices": lambda: card() + torch.ones(4, 3),
    "index": lambda: torch.ones(4, 3)[torch.zeros(2, dtype=torch.int64, device="cuda:0")],
    "dtypes": lambda: times(torch.ones(3, 2, device="cuda:0", dtype=torch.bfloat16)),
    "waits": waits,
}

if __name__ == "__main__":
    patch()
    print(json.dumps({name: report(fault) for name, fault in FAULTS.items()}))
