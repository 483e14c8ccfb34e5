"""A model object for LazySlide: ``zs.seg.cells(wsi, model=NucleusModel())``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from coin_ray.api.segmenting import method_of
from coin_ray.data.resolution import REFERENCE_MPP, check_mpp, pixel_scale
from coin_ray.slides.method import Method, segment


class NucleusModel:
    """LazySlide's ``SegmentationModelProtocol``; ``mpp`` is that of its tiles (um per pixel),
    ``file`` a student of ``coin-ray export``. A tile is measured by itself."""

    name = "coin-ray"

    def __init__(self, file: Path | None = None, *, mpp: float = REFERENCE_MPP) -> None:
        check_mpp(mpp)
        self.model: Method = method_of(file)
        self.scale = pixel_scale(mpp)

    def get_transform(self) -> Callable[[Any], Any]:
        """Tiles stay (H, W, 3) of 8 bits."""
        return np.ascontiguousarray

    def to(self, device: Any) -> Self:
        """Compute there from now on."""
        self.model = replace(self.model, device=str(device))
        return self

    def try_compile(self, **settings: Any) -> None:
        """There is nothing to compile."""

    def segment(self, image: Any) -> Any:
        """Instances of tiles (B, H, W, 3), and at each of their pixels the score."""
        import torch
        from lazyslide_models.base import SegmentationOutput

        found = [segment(tile, self.model, self.scale) for tile in image.cpu().numpy()]
        maps = np.stack([label_map for label_map, _ in found])
        scores = np.stack([np.append(0.0, score)[label_map] for label_map, score in found])
        return SegmentationOutput(
            probability_map=torch.from_numpy(scores), instance_map=torch.from_numpy(maps)
        )
