"""Make ``torchvision`` importable beside a PyTorch build that its operators do not load into.

The default Linux wheels of torchvision are CUDA builds; beside a CPU-only torch their ``_C.so``
cannot be loaded and ``import torchvision`` dies with "operator torchvision::nms does not exist".
timm and segment-anything need only its Python part and ``nms``, so the two operators that the
import insists on are declared here, ``nms`` with a plain implementation. A matching build is left
exactly as it is.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_library: torch.library.Library | None = None  # must outlive the operators that it declares


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression.

    ``boxes`` (N, 4) float as (x0, y0, x1, y1), ``scores`` (N,) float; a box is dropped if its IoU
    with a kept, better one exceeds the threshold. Returns the kept indices (int64), best first.
    """
    import torch

    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order].to(torch.float32)
    area = (ranked[:, 2] - ranked[:, 0]) * (ranked[:, 3] - ranked[:, 1])
    alive = torch.ones(len(ranked), dtype=torch.bool, device=ranked.device)
    keep = []
    for i in range(len(ranked)):
        if not alive[i]:
            continue
        keep.append(i)
        top_left = torch.maximum(ranked[i, :2], ranked[i + 1 :, :2])
        sides = (torch.minimum(ranked[i, 2:], ranked[i + 1 :, 2:]) - top_left).clamp_(min=0)
        overlap = sides[:, 0] * sides[:, 1]
        alive[i + 1 :] &= overlap <= iou_threshold * (area[i] + area[i + 1 :] - overlap)
    return order[torch.tensor(keep, dtype=torch.long, device=order.device)]


def ensure_torchvision() -> bool:
    """Import torchvision; True if its compiled operators are there, False if they are stood in for.

    To be called in every process before the first import of timm or segment_anything.
    """
    global _library
    import torch

    if _library is not None:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed")
    native = False
    for file in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(file))
            native = True
        except OSError:
            continue  # built for another torch: the reason for this module
    if not native:
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.impl("nms", nms, "CompositeExplicitAutograd")
    import torchvision.ops.boxes

    if not native:
        torchvision.ops.boxes._assert_has_ops = lambda: None
    return native
