"""Cosine similarity of every pixel to the two centroids (COIN Eq. 3)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from coin_ray.propagation.features import WindowFeatures, blocks
from coin_ray.propagation.settings import Uss

Float32 = NDArray[np.float32]


def similarity_map(
    pairs: Iterable[tuple[WindowFeatures, NDArray[np.floating]]], *, relu: bool
) -> Float32:
    """(2, H, W) float32, row 0 background, row 1 foreground.

    ``pairs`` hold an image's features at each zoom with the centroids (2, D) at that zoom; their
    cosines, in [-1, 1], are averaged, and clipped at 0 with ``relu``.
    """
    cosines = [_cosine(features, centroids) for features, centroids in pairs]
    out: Float32 = np.mean(cosines, axis=0)
    return np.maximum(out, 0) if relu else out


def stretched(maps: Float32, uss: Uss) -> Float32:
    """Similarities (2, H, W) as the transport takes them.

    ``uss.minmax`` brings each channel to [0, 1] over the image (raw cosines of a masked autoencoder
    are all near 1, so this is what makes them differ), from its ``percentile`` (0 = the minimum) to
    100 minus that, ``complement`` sets background to max(background, 1 - foreground).
    """
    if uss.minmax:
        ends = [uss.percentile, 100 - uss.percentile]
        low, high = np.percentile(maps, ends, axis=(1, 2), keepdims=True).astype(np.float32)
        # A range below 1e-5 is rounding noise (a constant image) and must not be blown up.
        maps = np.clip((maps - low) / np.maximum(high - low, np.float32(1e-5)), 0, 1)
    return with_complement(maps) if uss.complement else maps


def _cosine(features: WindowFeatures, centroids: NDArray[np.floating]) -> Float32:
    import torch

    from coin_ray.training.layout import moved

    norms = np.linalg.norm(centroids, axis=1)
    unit = (centroids / np.maximum(norms, 1e-12)[:, None]).astype(np.float32)
    maps = []
    for _, block in blocks(features):
        cosines = block @ moved(unit.T.copy(), block.device)
        maps.append(cosines / block.norm(dim=2, keepdim=True).clamp_(min=1e-12))
    return np.moveaxis(torch.cat(maps).cpu().numpy(), 2, 0).copy()


def with_complement(maps: Float32) -> Float32:
    """(2, H, W) maps with background = max(background, 1 - foreground)."""
    return np.stack([np.maximum(maps[0], 1 - maps[1]), maps[1]])
