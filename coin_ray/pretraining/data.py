"""What pretraining looks at: generated tiles and, without labels, folders of real images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from coin_ray.data.synthetic import generate_tile
from coin_ray.errors import UserError
from coin_ray.training.layout import moved

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Views:
    """What a self-supervised training sees in a step: ``images``, each (N, 3, s, s) in [0, 1], and
    where the global views ``lie`` in the squares that they are cut from, (N, 2, 3) float32 as
    ``affine_grid`` takes it."""

    images: list[torch.Tensor]
    lie: torch.Tensor | None = None


SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}


Labelled = tuple[Image, NDArray[np.int32]]
"""An image (H, W, 3) and the ids of its nuclei (H, W); -1: whose a pixel is is not said."""


POOL = "every second tile varied"  # what is generated: a run goes on with what it began with


class GeneratedTiles:
    """Tiles of one seed, every second one varied, made when first asked for and kept.

    ``available(fraction)`` grows with the run, so that training starts at once and the cost of
    making tiles spreads over it.
    """

    def __init__(self, seed: int, count: int, size: int) -> None:
        self.seed, self.count, self.size = seed, count, size
        self._kept: dict[int, Labelled] = {}

    def __getitem__(self, index: int) -> Labelled:
        if index not in self._kept:
            seed = self.seed * 1_000_003 + index
            self._kept[index] = generate_tile(seed, self.size, varied=index % 2 == 1)
        return self._kept[index]

    def available(self, fraction: float) -> int:
        return max(1, min(self.count, int(self.count * (0.02 + fraction / 0.7))))

    def draw(self, rng: np.random.Generator, fraction: float) -> Labelled:
        """One of those that there are by then."""
        return self[int(rng.integers(self.available(fraction)))]


def content(images: Sequence[Image]) -> str:
    """What tells images from others: their number, and a hex digest of shapes and pixels."""
    found = hashlib.blake2b(digest_size=16)
    for image in images:
        found.update(f"{image.shape}\n".encode())
        found.update(image.tobytes())
    return f"{len(images)} {found.hexdigest()}"


def read_folders(folders: Sequence[str | Path]) -> list[Image]:
    """All images (H, W, 3) uint8 of the folders (or of their ``image`` subfolder), labels never
    read.
    """
    from PIL import Image as Reader

    images = []
    for folder in map(Path, folders):
        root = folder / "image" if (folder / "image").is_dir() else folder
        paths = sorted(p for p in root.glob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise UserError(
                "no images to pretrain on", where=str(folder), expected="png, tif or jpg"
            )
        for path in paths:
            with Reader.open(path) as opened:
                images.append(np.array(opened.convert("RGB")))
    return images


class Crops:
    """Square crops for self-supervised training, half of them from real images if there are any."""

    def __init__(
        self,
        folders: Sequence[str | Path],
        seed: int,
        *,
        generated: int = 400,
        device: str = "cpu",
    ) -> None:
        self.real, self.device = read_folders(folders), device
        self.tiles = GeneratedTiles(seed, generated, 256)

    def draw(
        self,
        rng: np.random.Generator,
        fraction: float,
        count: int,
        out: int,
        low: float,
        high: float,
    ) -> torch.Tensor:
        """(count, 3, out, out) float in [0, 1] on the device: squares of ``low`` to ``high`` px,
        resized there."""
        pictures, sides = [], np.exp(rng.uniform(np.log(low), np.log(high), count))
        for _ in sides:
            if self.real and rng.random() < 0.5:
                image = self.real[rng.integers(len(self.real))]
            else:
                image = self.tiles.draw(rng, fraction)[0]
            pictures.append(image)
        squares = [_square(p, rng, s) for p, s in zip(pictures, sides, strict=True)]
        return torch.stack([_resized(moved(square, self.device), out) for square in squares])


def _square(image: Image, rng: np.random.Generator, side: float) -> Image:
    """A random square of ``side`` px, turned and mirrored at random."""
    n = int(min(round(side), *image.shape[:2]))
    y, x = (int(rng.integers(0, length - n + 1)) for length in image.shape[:2])
    crop = np.rot90(image[y : y + n, x : x + n], int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop)


def _resized(square: torch.Tensor, out: int) -> torch.Tensor:
    pixels = square.permute(2, 0, 1)[None].float() / 255
    return functional.interpolate(pixels, (out, out), mode="bilinear", align_corners=False)[0]
