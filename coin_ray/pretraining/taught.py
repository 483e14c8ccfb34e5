"""Real images without labels, with the instances that the built-in detector is sure of in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coin_ray.errors import UserError
from coin_ray.pretraining.data import Image, Labelled
from coin_ray.ucis.detector import load_detector
from coin_ray.ucis.self_training import taught
from coin_ray.ucis.settings import DETECTOR, Detector
from coin_ray.ucis.ssa_data import at_reference

MIN_AREA = 60  # px of an instance


class TaughtSquares:
    """Squares of ``side`` px at 0.25 um/px of ``images`` (H, W, 3) uint8 at ``mpp`` um/px.

    UserError where one is smaller than a square, or where there is no nucleus at all.
    """

    def __init__(self, images: Sequence[Image], mpp: float, *, side: int, device: str) -> None:
        self.side = side
        network, detector = load_detector(DETECTOR, device), Detector()
        self.tiles: list[Labelled] = []
        for image in at_reference(images, [0.25 / mpp] * len(images)):
            if min(image.shape[:2]) < side:
                raise UserError(
                    "an image is too small to adapt the segmenter to",
                    expected=f"{side} px a side at 0.25 um/px",
                    found=f"{image.shape[1]} x {image.shape[0]} px",
                    do="leave it out, or say what it is in --mpp",
                )
            _, label_map, ignore = taught(image, network, detector, min_area=MIN_AREA)
            self.tiles.append((image, np.where(ignore, -1, label_map).astype(np.int32)))
        if not any((label_map > 0).any() for _, label_map in self.tiles):
            raise UserError(
                "the detector is sure of no nucleus in these images",
                do="take images of H&E tissue, and say their resolution in --mpp",
            )

    def __len__(self) -> int:
        return len(self.tiles)

    def draw(self, rng: np.random.Generator) -> Labelled:
        """A random square of a random image."""
        image, label_map = self.tiles[int(rng.integers(len(self.tiles)))]
        y, x = (int(rng.integers(0, n - self.side + 1)) for n in label_map.shape)
        here = np.s_[y : y + self.side, x : x + self.side]
        return image[here], label_map[here]
