"""Class centroids: the mean direction of the features inside and outside the coarse mask.

COIN's class-level average pooling: pixel features are L2-normalised, then averaged. The foreground
may be averaged over all training images (the published setting), the background is always the
image's own. Sums and counts are kept, so that any number of images merges without a second pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coin_ray.propagation.features import WindowFeatures, blocks


@dataclass(frozen=True)
class ClassSums:
    """``sums`` (2, D) float64 of the unit pixel features of background and foreground, ``counts``
    (2,) int64 of their pixels."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


def class_sums(features: WindowFeatures, foreground: NDArray[np.bool_]) -> ClassSums:
    """Sums of one image, streamed over blocks of rows; ``foreground`` (H, W) bool."""
    import torch

    from coin_ray.training.layout import moved

    if foreground.shape != features.shape:
        raise ValueError(f"mask {foreground.shape}, features of {features.shape}")
    sums: list[torch.Tensor] = []
    for rows, block in blocks(features):
        flat = block.flatten(0, 1)
        inside = moved(foreground[rows].ravel(), flat.device)
        weight = 1 / flat.norm(dim=1).clamp_(min=1e-12)
        member = torch.stack([~inside, inside]) * weight
        # float32 inside a few thousand pixels, float64 between them: a sum over 10^8 pixels of a
        # data set must not lose its last terms.
        parts = zip(member.split(8192, dim=1), flat.split(8192), strict=True)
        sums.append(torch.stack([m @ f for m, f in parts]).sum(dim=0, dtype=torch.float64))
    inside_count = int(foreground.sum())
    counts = np.array([foreground.size - inside_count, inside_count])
    return ClassSums(torch.stack(sums).sum(dim=0).cpu().numpy(), counts)


def merge(parts: Sequence[ClassSums], weight: str) -> ClassSums:
    """The sums of several images together, added in the order given.

    ``weight`` "pixel" lets every pixel count alike. "image" lets every image count alike that has
    the class: the sums are then those of the images' means, the counts numbers of images. An image
    without a pixel of a class adds nothing to it.
    """
    sums, counts = (np.stack([getattr(p, name) for p in parts]) for name in ("sums", "counts"))
    # Stored by earlier versions, those of an image of one colour may be NaN.
    sums = np.where(counts[..., None] > 0, sums, 0)
    if weight == "image":
        sums, counts = sums / np.maximum(counts, 1)[..., None], np.minimum(counts, 1)
    return ClassSums(sums.sum(axis=0), counts.sum(axis=0))


def centroids(image_sums: ClassSums, dataset_sums: ClassSums | None = None) -> NDArray[np.float64]:
    """(2, D) centroids, row 0 background, row 1 foreground; not re-normalised (the cosine does it).

    The foreground is that of ``dataset_sums`` (:func:`merge` of all images) where there are some,
    else the image's. A class without a pixel gives zeros, to which everything has cosine 0.
    """
    own, everyone = (
        sums.sums / np.maximum(sums.counts, 1)[:, None]
        for sums in (image_sums, dataset_sums or image_sums)
    )
    return np.stack([own[0], everyone[1]])
