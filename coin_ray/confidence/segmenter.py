"""The one interface behind which every promptable segmenter stands."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.settings import SMALL, segmenter_name
from coin_ray.errors import UserError
from coin_ray.labels import InstanceMasks


class PromptSegmenter(Protocol):
    """Draws an instance from one point inside it, or what else it takes."""

    def encode(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """What decoding needs of an image (H, W, 3) uint8, computed once; plain arrays, fp16."""
        ...

    def decode(
        self, embedding: dict[str, NDArray[Any]], prompts: Prompts, shape: tuple[int, int]
    ) -> InstanceMasks:
        """One mask a prompt of the image of ``shape`` (H, W): the best of the segmenter's
        candidates by its own predicted IoU."""
        ...


@lru_cache(maxsize=2)
def load_segmenter(model: str, *, batch: int, device: str = "cpu") -> PromptSegmenter:
    """A segmenter (``sam.model``) with its registered weights.

    Loaded once a process. ``batch`` prompts are decoded at a time. UserError if the model is
    unknown, its package or weights are missing, these are not the official ones, or the device does
    not exist.
    """
    import torch

    from coin_ray.weights.modules import fill

    name = segmenter_name(model)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "no GPU is available to the promptable segmenter",
            expected=f"a CUDA device ({device})",
            found="PyTorch sees none",
            do="run on the CPU, or install a CUDA build of PyTorch on a machine with a GPU",
        )
    if model in SMALL:
        from coin_ray.confidence.small import SmallSegmenter
        from coin_ray.confidence.small_model import SmallSam

        small = SmallSam()
        fill(small, name, "what `coin-ray pretrain segmenter` writes")
        return SmallSegmenter(small, device=device, batch=batch)
    if name.startswith("sam2_"):
        from coin_ray.confidence.sam2 import Sam2Segmenter, load_sam2

        return Sam2Segmenter(load_sam2(name), device=device, batch=batch)
    from coin_ray.confidence.sam import SamSegmenter, load_sam

    return SamSegmenter(load_sam(name), device=device, batch=batch)
