"""Windows of images and of their label maps as a training sees them: turned, scaled, stained and
blurred at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from coin_ray.training.layout import moved

SCALES = (0.7, 1.45)


def warped(
    image: NDArray[np.uint8],
    label_map: NDArray[np.int32],
    rng: np.random.Generator,
    *,
    side: int,
    device: str,
) -> tuple[torch.Tensor, NDArray[np.int32]]:
    """A window (3, ``side``, ``side``) in [0, 1] of a square image (S, S, 3) at a random place,
    scale and angle, mirrored at random, and its labels; outside is mirrored. Its pixels are on the
    device, its labels, of which targets are made, here."""
    scale, angle = float(np.exp(rng.uniform(*np.log(SCALES)))), rng.uniform(0, 2 * np.pi)
    flip = rng.choice([-1.0, 1.0])
    zoom = side / len(image) / scale
    turn = zoom * np.array(
        [[np.cos(angle) * flip, -np.sin(angle)], [np.sin(angle) * flip, np.cos(angle)]]
    )
    slack = max(0.0, 1 - zoom)
    matrix = np.concatenate([turn, rng.uniform(-slack, slack, (2, 1))], axis=1)
    grid = functional.affine_grid(
        torch.from_numpy(matrix).float()[None], [1, 1, side, side], align_corners=False
    )
    pixels = moved(image, device).permute(2, 0, 1)[None].float() / 255
    ids = torch.from_numpy(label_map)[None, None].float()
    kwargs: dict[str, Any] = {"padding_mode": "reflection", "align_corners": False}
    there = moved(grid.numpy(), device)
    window = functional.grid_sample(pixels, there, mode="bilinear", **kwargs)[0]
    return window, functional.grid_sample(ids, grid, mode="nearest", **kwargs)[0, 0].int().numpy()


def disturbed(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1] with other dyes, in a third of all batches blurred, and with
    noise."""
    images = stain_shift(images, rng, 0.25)
    if rng.random() < 0.35:
        images = blur(images, float(rng.uniform(0.4, 1.6)))
    noise = moved(rng.standard_normal(tuple(images.shape), dtype=np.float32), images.device)
    return (images + float(rng.uniform(0, 0.02)) * noise).clamp(0, 1)


def stain_shift(images: torch.Tensor, rng: np.random.Generator, strength: float) -> torch.Tensor:
    """Random dyes: (B, 3, H, W) in [0, 1], each optical density mixed by a matrix near the
    identity.
    """
    count = len(images)
    mix = np.eye(3) * np.exp(rng.normal(0, strength, (count, 1, 1)))
    mix = mix + rng.normal(0, strength / 2, (count, 3, 3))
    gain = np.exp(rng.normal(0, strength / 2, (count, 3)))
    lift = rng.normal(0, strength / 10, (count, 3))
    density = -torch.log(images.clamp(min=1 / 255))
    mixes, gains, lifts = (
        moved(drawn.astype(np.float32), images.device) for drawn in (mix, gain, lift)
    )
    density = torch.einsum("bij,bjhw->bihw", mixes, density)
    density = density * gains[:, :, None, None]
    return torch.exp(-(density + lifts[:, :, None, None])).clamp(0, 1)


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur (B, 3, H, W), sigma in px."""
    reach = max(1, int(np.ceil(2.5 * sigma)))
    x = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1)
    padded = functional.pad(images, (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(padded, kernel[:, None, :, None], groups=images.shape[1])
    return functional.conv2d(rows, kernel[:, None, None, :], groups=images.shape[1])
