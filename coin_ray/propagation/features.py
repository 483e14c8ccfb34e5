"""Frozen features of an image, window by window on the token grid, and pixel features from them.

COIN, step 1: windows of the image are magnified, run through a self-supervised transformer, brought
back to pixel size by bilinear interpolation and averaged where they overlap. The tokens are what is
kept (fp16, a few MB to 0.5 GB an image); pixel features are made a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.windows import grid
from coin_ray.precision import computing
from coin_ray.propagation.settings import Uss

if TYPE_CHECKING:
    import torch

    from coin_ray.propagation.backbones import Backbone

Float32 = NDArray[np.float32]
BLOCK_BYTES = 48_000_000


@dataclass(frozen=True)
class WindowFeatures:
    """Tokens of the windows of one image.

    ``tokens`` (n, D, h, w) float16, ``origins`` (n, 2) int64 (y, x) in raster order, ``window``
    side of a window in image px, ``shape`` (H, W) of the image.
    """

    tokens: NDArray[np.float16]
    origins: NDArray[np.int64]
    window: int
    shape: tuple[int, int]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for the store."""
        geometry = np.array([self.window, *self.shape], dtype=np.int64)
        return {"tokens": self.tokens, "origins": self.origins, "geometry": geometry}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> WindowFeatures:
        """Inverse of :meth:`to_arrays`."""
        window, height, width = (int(value) for value in arrays["geometry"])
        return cls(arrays["tokens"], arrays["origins"], window, (height, width))


def window_side(shape: tuple[int, int], *, zoom: float, window: int | None) -> int:
    """Side of a window in image px.

    ``window`` is its side after the zoom, so ``window / zoom`` image px; None is COIN's rule,
    ``floor(min(H, W) / zoom)``. At least 1, at most the shorter side of the image.
    """
    shorter = min(shape)
    side = shorter / zoom if window is None else window / zoom
    return min(max(int(side + 1e-9), 1), shorter)


def extract_features(
    image: NDArray[np.uint8], backbone: Backbone, uss: Uss, *, zoom: float, batch: int
) -> WindowFeatures:
    """Tokens of every window of ``image`` (H, W, 3) uint8 RGB, at one ``zoom`` of those of ``uss``.

    A window is magnified (bicubic), normalised, and resized (bicubic) so that its side is a
    multiple of the patch; with ``uss.hflip`` the tokens are averaged with those of the mirrored
    window. ``batch`` windows run at a time.
    """
    import torch

    height, width = image.shape[:2]
    side = window_side((height, width), zoom=zoom, window=uss.window)
    origins = np.array(grid((height, width), side, max(int(side * uss.stride + 1e-9), 1)))
    zoomed = max(round(side * zoom), 1)
    final = -(-zoomed // backbone.patch) * backbone.patch
    mean, std = (
        torch.tensor(v, device=backbone.device)[:, None, None]
        for v in (backbone.mean, backbone.std)
    )
    tokens = np.empty((len(origins), backbone.dim, *(2 * [final // backbone.patch])), np.float16)
    for first in range(0, len(origins), batch):
        crops = np.stack(
            [image[y : y + side, x : x + side] for y, x in origins[first : first + batch]]
        )
        pixels = torch.from_numpy(crops).to(backbone.device).permute(0, 3, 1, 2).float() / 255
        pixels = _resize((_resize(pixels, zoomed).clamp_(0, 1) - mean) / std, final)
        with computing(str(backbone.device), uss.precision):
            found = backbone.tokens(pixels).float()
            if uss.hflip:
                found = (found + backbone.tokens(pixels.flip(3)).float().flip(3)) / 2
        tokens[first : first + batch] = found.to(torch.float16).cpu().numpy()
    return WindowFeatures(tokens, origins, side, (height, width))


def _resize(pixels: torch.Tensor, side: int) -> torch.Tensor:
    from torch.nn.functional import interpolate

    if pixels.shape[-1] == side:
        return pixels
    smaller = side < pixels.shape[-1]
    return interpolate(pixels, (side, side), mode="bicubic", align_corners=False, antialias=smaller)


def normalise_features(features: WindowFeatures, mode: str) -> WindowFeatures:
    """Tokens with comparable directions, from statistics over all tokens of the image.

    Raw tokens share a large common direction, so that all cosines are near 1. ``standardise``
    subtracts the mean and divides by the standard deviation of each channel; ``whiten`` subtracts
    the mean and divides by the standard deviation of each principal direction; ``none`` returns the
    features. Directions below 1e-4 of the mean variance are damped instead of blown up.
    """
    if mode == "none":
        return features
    n, dim = features.tokens.shape[:2]
    total, moment, count = np.zeros(dim), np.zeros((dim, dim)), 0
    for window in features.tokens:
        flat = window.reshape(dim, -1).astype(np.float32)
        total += flat.sum(axis=1, dtype=np.float64)
        moment += flat @ flat.T
        count += flat.shape[1]
    mean = total / count
    covariance = moment / count - np.outer(mean, mean)
    floor = 1e-4 * max(float(np.trace(covariance)) / dim, 1e-12)
    if mode == "standardise":
        scale = np.diag(1 / np.sqrt(np.maximum(np.diag(covariance), 0) + floor))
    else:
        values, vectors = np.linalg.eigh(covariance)
        scale = (vectors / np.sqrt(np.maximum(values, 0) + floor)) @ vectors.T
    matrix, centre = scale.astype(np.float32), mean.astype(np.float32)[:, None]
    tokens = np.empty_like(features.tokens)
    for i in range(n):
        flat = features.tokens[i].reshape(dim, -1).astype(np.float32)
        tokens[i] = (matrix @ (flat - centre)).reshape(tokens.shape[1:])
    return replace(features, tokens=tokens)


def blocks(features: WindowFeatures, rows: int | None = None) -> Iterator[tuple[slice, Float32]]:
    """Pixel features, block by block of image rows: (row slice, (D, rows, W) float32).

    Each is the mean over the windows that cover a pixel of their bilinearly up-sampled tokens
    (half-pixel centres, clamped at the border). ``rows`` None keeps a block near 48 MB.
    """
    height, width = features.shape
    dim, h, w = features.tokens.shape[1:]
    if rows is None:
        rows = max(BLOCK_BYTES // (4 * width * dim), 1)
    down, across = _interpolation(features.window, h), _interpolation(features.window, w)
    for top in range(0, height, rows):
        here = slice(top, min(top + rows, height))
        yield here, np.moveaxis(_block(features, here, down, across), 2, 0)


def _interpolation(length: int, tokens: int) -> Float32:
    """(length, tokens) weights of bilinear up-sampling along one axis; each row sums to 1."""
    centre = np.clip((np.arange(length) + 0.5) * tokens / length - 0.5, 0, tokens - 1)
    low = np.minimum(centre.astype(int), max(tokens - 2, 0))
    weights = np.zeros((length, tokens), dtype=np.float32)
    weights[np.arange(length), low] = 1 - (centre - low)
    weights[np.arange(length), np.minimum(low + 1, tokens - 1)] += centre - low
    return weights


def _block(features: WindowFeatures, here: slice, down: Float32, across: Float32) -> Float32:
    """(rows, W, D) pixel features of the image rows ``here``.

    The windows of one row of the grid share their vertical weights, so they are put side by side at
    token height first, and one product over all grid rows then makes the pixels.
    """
    side, dim, width = features.window, features.tokens.shape[1], features.shape[1]
    vertical, strips = [], []
    count = np.zeros((here.stop - here.start, width, 1), dtype=np.float32)
    numbered = enumerate(features.origins.tolist())
    for y, group in groupby(numbered, key=lambda item: item[1][0]):
        first, last = max(y, here.start), min(y + side, here.stop)
        if first >= last:
            continue
        weights = down[first - y : last - y]
        used = np.flatnonzero(weights.any(axis=0))
        window_rows = slice(used[0], used[-1] + 1)
        strip = np.zeros((len(range(*window_rows.indices(down.shape[1]))), width, dim), np.float32)
        for i, (_, x) in group:
            tokens = features.tokens[i, :, window_rows].transpose(1, 2, 0).astype(np.float32)
            strip[:, x : x + side] += across @ tokens
            count[first - here.start : last - here.start, x : x + side] += 1
        rows = np.zeros((len(count), len(strip)), dtype=np.float32)
        rows[first - here.start : last - here.start] = weights[:, window_rows]
        vertical.append(rows)
        strips.append(strip.reshape(len(strip), -1))
    block = np.concatenate(vertical, axis=1) @ np.concatenate(strips)
    block = block.reshape(len(count), width, dim)
    block /= count
    return block
