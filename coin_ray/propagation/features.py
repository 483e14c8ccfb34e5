"""Frozen features of an image, window by window on the token grid, and pixel features from them.

COIN, step 1: windows of the image are magnified, run through a self-supervised transformer, brought
back to pixel size by bilinear interpolation and averaged where they overlap. Tokens (fp16) pass
through window by window, pixel features a few rows at a time, all on the backbone's device; whoever
wants them again runs the backbone again, or keeps the tokens (a few MB to 0.5 GB an image).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.windows import grid
from coin_ray.precision import computing
from coin_ray.propagation.settings import Uss

if TYPE_CHECKING:
    from torch import Tensor

    from coin_ray.propagation.backbones import Backbone

BLOCK_BYTES = 48_000_000
"""Of pixel features at a time."""
PASS_BYTES = 256_000_000
"""Of activations in a pass of the backbone."""
ROUNDING = 1e-6
"""Of sums of squares in float32, of themselves."""
LARGEST = 65504.0
"""In float16."""


@dataclass(frozen=True)
class WindowFeatures:
    """Tokens of the windows of one image.

    ``tokens()`` goes through them, one window (D, h, w) float16 after the other, as often as it is
    asked. ``origins`` (n, 2) int64 (y, x) in raster order, ``window`` (height, width) of a window
    in image px, ``shape`` (H, W) of the image, over whose border windows may hang.
    """

    tokens: Callable[[], Iterable[Tensor]]
    origins: NDArray[np.int64]
    window: tuple[int, int]
    shape: tuple[int, int]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for the store, the tokens (n, D, h, w)."""
        kept = np.empty(0, np.float16)
        for i, window in enumerate(self.tokens()):
            if not i:
                kept = np.empty((len(self.origins), *window.shape), np.float16)
            kept[i] = window.cpu().numpy()
        height, width = self.window
        sides = [height] if height == width else [height, width]
        geometry = np.array([*sides, *self.shape], dtype=np.int64)
        return {"tokens": kept, "origins": self.origins, "geometry": geometry}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], device: str = "cpu") -> WindowFeatures:
        """Inverse of :meth:`to_arrays`; the tokens are given on ``device``."""
        from coin_ray.training.layout import moved

        *window, height, width = (int(value) for value in arrays["geometry"])
        tokens = partial(map, partial(moved, device=device), arrays["tokens"])
        return cls(tokens, arrays["origins"], (window[0], window[-1]), (height, width))


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
    window. ``batch`` windows run at a time, fewer where their activations would be large.
    """
    height, width = image.shape[:2]
    side = window_side((height, width), zoom=zoom, window=uss.window)
    origins = np.array(grid((height, width), side, max(int(side * uss.stride + 1e-9), 1)))
    zoomed = max(round(side * zoom), 1)
    length = -(-zoomed // backbone.patch)
    # At its widest a block holds its input and what it adds, and four times both in between.
    wide = 10 * backbone.dim * length**2 * (2 if uss.precision == "bf16" else 4)
    batch = max(1, min(batch, PASS_BYTES // wide))
    sides = side, zoomed, length * backbone.patch
    tokens = partial(_tokens, image, backbone, uss, origins, sides, batch)
    return WindowFeatures(tokens, origins, (side, side), (height, width))


def _tokens(
    image: NDArray[np.uint8],
    backbone: Backbone,
    uss: Uss,
    origins: NDArray[np.int64],
    sides: tuple[int, int, int],
    batch: int,
) -> Iterator[Tensor]:
    """``sides`` of a window: in the image, after the zoom, and as the backbone takes it."""
    import torch

    from coin_ray.training.layout import moved

    side, zoomed, final = sides
    statistics = np.array([backbone.mean, backbone.std], np.float32)[:, :, None, None]
    mean, std = moved(statistics, backbone.device)
    for first in range(0, len(origins), batch):
        crops = np.stack(
            [image[y : y + side, x : x + side] for y, x in origins[first : first + batch]]
        )
        pixels = moved(crops, backbone.device).permute(0, 3, 1, 2).float() / 255
        pixels = _resize((_resize(pixels, zoomed).clamp_(0, 1) - mean) / std, final)
        with computing(str(backbone.device), uss.precision):
            found = backbone.tokens(pixels).float()
            if uss.hflip:
                found = (found + backbone.tokens(pixels.flip(3)).float().flip(3)) / 2
        # As they come back from the store: the order of sums depends on where numbers lie.
        yield from found.to(torch.float16).contiguous()


def _resize(pixels: Tensor, side: int) -> Tensor:
    from torch.nn.functional import interpolate

    if pixels.shape[-1] == side:
        return pixels
    smaller = side < pixels.shape[-1]
    return interpolate(pixels, (side, side), mode="bicubic", align_corners=False, antialias=smaller)


def normalise_features(features: WindowFeatures, mode: str) -> WindowFeatures:
    """Tokens with comparable directions, from statistics over all tokens of the image, which are
    held meanwhile; those whose middle lies beyond its border count for none.

    Raw tokens share a large common direction, so that all cosines are near 1. ``standardise``
    subtracts the mean and divides by the standard deviation of each channel; ``whiten`` subtracts
    the mean and divides by the standard deviation of each principal direction; ``none`` returns the
    features. Directions below 1e-4 of the mean variance are damped instead of blown up. Tokens are
    finite whatever the image.
    """
    if mode == "none":
        return features
    import torch

    from coin_ray.training.layout import moved

    held = list(features.tokens())
    dim, device = len(held[0]), held[0].device
    total = torch.zeros(dim, dtype=torch.float64, device=device)
    moment, count = torch.zeros(dim, dim, dtype=torch.float64, device=device), 0
    for flat in _counted(features, held):
        total += flat.sum(dim=1, dtype=torch.float64)
        moment += flat @ flat.T
        count += flat.shape[1]
    mean = total.cpu().numpy() / count
    covariance = moment.cpu().numpy() / count - np.outer(mean, mean)
    if np.trace(covariance) < ROUNDING * (mean @ mean):  # what is left of an image of one colour
        centre64, moment = (total / count)[:, None], torch.zeros_like(moment)
        for flat in _counted(features, held):
            apart = flat.double() - centre64
            moment += apart @ apart.T
        covariance = moment.cpu().numpy() / count
    floor = 1e-4 * max(float(np.trace(covariance)) / dim, 1e-12)
    if mode == "standardise":
        scale = np.diag(1 / np.sqrt(np.maximum(np.diag(covariance), 0) + floor))
    else:
        values, vectors = np.linalg.eigh(covariance)
        scale = (vectors / np.sqrt(np.maximum(values, 0) + floor)) @ vectors.T
    matrix, centre = (moved(v.astype(np.float32), device) for v in (scale, mean[:, None]))

    def scaled(window: Tensor) -> Tensor:
        flat = matrix @ (window.flatten(1).float() - centre)
        return flat.clamp_(-LARGEST, LARGEST).to(torch.float16).reshape(window.shape)

    return replace(features, tokens=partial(map, scaled, held))


def _counted(features: WindowFeatures, held: Sequence[Tensor]) -> Iterator[Tensor]:
    """Tokens (D, n) float32 of each window whose middle lies in the image; all of an image that is
    so thin that none does."""
    from coin_ray.training.layout import moved

    masks = [
        _middles_inside(features, origin, window.shape[1:])
        for origin, window in zip(features.origins, held, strict=True)
    ]
    thin = not any(inside.any() for inside in masks)
    for inside, window in zip(masks, held, strict=True):
        flat = window.flatten(1).float()
        if not (thin or inside.all()):
            flat = flat[:, moved(np.flatnonzero(inside), flat.device)]
        yield flat


def _middles_inside(
    features: WindowFeatures, origin: NDArray[np.int64], grid: Sequence[int]
) -> NDArray[np.bool_]:
    """Which tokens (h, w) of a window have their middle in the image."""
    inside = []
    for start, side, n, length in zip(origin, features.window, grid, features.shape, strict=True):
        middles = start + (np.arange(n) + 0.5) * side / n
        inside.append((middles >= 0) & (middles < length))
    return np.outer(*inside)


def blocks(features: WindowFeatures, rows: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Pixel features, block by block of image rows: (row slice, (rows, W, D) float32).

    Each is the mean over the windows that cover a pixel of their bilinearly up-sampled tokens
    (half-pixel centres, clamped at the border). ``rows`` None keeps a block near 48 MB. Windows are
    held while a block needs them.
    """
    height, width = features.shape
    (side, across_side), bands = features.window, _bands(features)
    coming: _Band | None = next(bands)
    assert coming is not None
    dim, h, w = coming[1][0][1].shape
    if rows is None:
        rows = max(BLOCK_BYTES // (4 * width * dim), 1)
    down, across = _interpolation(side, h), _interpolation(across_side, w)
    held: list[_Band] = []
    for top in range(0, height, rows):
        here = slice(top, min(top + rows, height))
        while coming is not None and coming[0] < here.stop:
            held.append(coming)
            coming = next(bands, None)
        held = [band for band in held if band[0] + side > top]
        yield here, _block(held, here, width, down, across)


_Band = tuple[int, list[tuple[int, "Tensor"]]]
"""A row of windows: its y, and the x and tokens of each."""


def _bands(features: WindowFeatures) -> Iterator[_Band]:
    windows = zip(features.origins.tolist(), features.tokens(), strict=True)
    for y, group in groupby(windows, key=lambda window: window[0][0]):
        yield y, [(x, tokens) for (_, x), tokens in group]


def _interpolation(length: int, tokens: int) -> NDArray[np.float32]:
    """(length, tokens) weights of bilinear up-sampling along one axis; each row sums to 1."""
    centre = np.clip((np.arange(length) + 0.5) * tokens / length - 0.5, 0, tokens - 1)
    low = np.minimum(centre.astype(int), max(tokens - 2, 0))
    weights = np.zeros((length, tokens), dtype=np.float32)
    weights[np.arange(length), low] = 1 - (centre - low)
    weights[np.arange(length), np.minimum(low + 1, tokens - 1)] += centre - low
    return weights


def _block(
    bands: list[_Band],
    here: slice,
    width: int,
    down: NDArray[np.float32],
    across: NDArray[np.float32],
) -> Tensor:
    """(rows, W, D) pixel features of the image rows ``here``, from the rows of windows that reach
    them.

    The windows of a row share their vertical weights, so they are put side by side at token height
    first, and one product makes their share of the pixels.
    """
    import torch

    from coin_ray.training.layout import moved

    first = bands[0][1][0][1]
    dim, device, side = len(first), first.device, len(down)
    wide = moved(across, device)
    block = torch.zeros(here.stop - here.start, width * dim, device=device)
    count = np.zeros((here.stop - here.start, width, 1), dtype=np.float32)
    for y, windows in bands:
        inside = slice(max(y, here.start), min(y + side, here.stop))
        weights = down[inside.start - y : inside.stop - y]
        used = np.flatnonzero(weights.any(axis=0))
        used_rows = slice(used[0], used[-1] + 1)
        strip = torch.zeros(used_rows.stop - used_rows.start, width, dim, device=device)
        own = slice(inside.start - here.start, inside.stop - here.start)
        for x, tokens in windows:
            there = slice(max(x, 0), min(x + len(across), width))
            seen = wide[there.start - x : there.stop - x]
            strip[:, there] += seen @ tokens[:, used_rows].permute(1, 2, 0).float()
            count[own, there] += 1
        tall = moved(np.ascontiguousarray(weights[:, used_rows]), device)
        block[own].addmm_(tall, strip.flatten(1))
    return block.view(-1, width, dim).div_(moved(count, device))
