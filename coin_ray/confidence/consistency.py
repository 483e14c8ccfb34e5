"""Consistency of an instance judged without any network: cheap stand-ins for COIN's Eq. 6.

Each takes a contiguous label map and returns one number per instance 1..N; higher is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging import rings
from coin_ray.imaging.stain import jitter_stain
from coin_ray.labels import LabelMap, areas, boundaries, count, means

Scores = NDArray[np.float32]
ZOOMS = (0.8, 1.25)
REACH = 4.0  # px around the instances into which one may grow


def stain_jitter_agreement(
    image: NDArray[np.uint8],
    label_map: LabelMap,
    segment: Callable[[NDArray[np.uint8]], LabelMap],
    rng: np.random.Generator,
    *,
    draws: int = 2,
    sigma: float = 0.15,
) -> Scores:
    """Mean over ``draws`` of the best IoU with the instances that ``segment`` finds in the image
    stained (:func:`coin_ray.imaging.stain.jitter_stain` with ``sigma``) and magnified differently.

    Two magnifications are taken in turn: an instance that holds at another size does not hang on
    the pixel constants of the segmentation. ``image`` (H, W, 3) uint8; ``segment`` maps such an
    image, of any size, to a label map. (N,) in [0, 1].
    """
    total = np.zeros(count(label_map))
    for draw in range(draws):
        stained = jitter_stain(image, rng, sigma=sigma)
        zoomed = _resize(stained, ZOOMS[draw % len(ZOOMS)])
        total += best_iou(label_map, _sample(segment(zoomed), label_map.shape))
    return (total / draws).astype(np.float32)


def _resize(image: NDArray[np.uint8], zoom: float) -> NDArray[np.uint8]:
    from PIL import Image

    size = [max(1, round(side * zoom)) for side in image.shape[1::-1]]
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _sample(label_map: LabelMap, shape: tuple[int, ...]) -> LabelMap:
    """The label map at another size: each pixel takes the id under its centre."""
    y, x = ((np.arange(n) + 0.5) * m // n for n, m in zip(shape, label_map.shape, strict=True))
    return label_map[y.astype(int)[:, None], x.astype(int)]


def ring_contrast(evidence: NDArray[np.floating], label_map: LabelMap) -> Scores:
    """Mean evidence in the 3 px inside the boundary less that in the 3 px of background outside.

    In the unit of ``evidence`` (H, W), without bounds: a stage ranks it. Instances without
    background around them get the median of the others: their contrast is unknown, not high. (N,)
    finite.
    """
    contrast = rings.ring_contrast(evidence, label_map)
    known = np.isfinite(contrast)
    middle = np.median(contrast[known]) if known.any() else 0.0
    return np.where(known, contrast, middle).astype(np.float32)


def ellipse_fit(label_map: LabelMap) -> Scores:
    """IoU of each instance with the ellipse of the same centre and second moments. (N,) in [0, 1].

    The ellipse's area is exact (4 pi sqrt(det covariance)), the intersection counted in pixels.
    """
    n = count(label_map)
    y, x = np.nonzero(label_map)
    ids = label_map[y, x] - 1
    area = areas(label_map)
    dy, dx = (c - means(c, ids + 1, n)[ids] for c in (y, x))
    yy, xx, xy = (means(product, ids + 1, n) for product in (dy * dy, dx * dx, dx * dy))
    # A pixel is a unit square: 1/12 is its own variance, and keeps a single pixel from being flat.
    yy, xx = yy + 1 / 12, xx + 1 / 12
    det = yy * xx - xy * xy
    distance = (xx[ids] * dy * dy - 2 * xy[ids] * dy * dx + yy[ids] * dx * dx) / det[ids]
    inside = np.bincount(ids, weights=distance <= 4, minlength=n)
    ellipse = 4 * np.pi * np.sqrt(det)
    return np.clip(inside / np.maximum(area + ellipse - inside, 1e-9), 0, 1).astype(np.float32)


def regrowth_agreement(evidence: NDArray[np.floating], label_map: LabelMap) -> Scores:
    """IoU of each instance with what grows back from its core up to the edges of the image.

    Markers: the pixels deeper than half the instance's depth, and as background those more than
    4 px from every instance; watershed of the gradient of ``evidence`` (H, W), smoothed by 1 px. An
    instance whose outline is an edge of the image grows back as it was. (N,) in [0, 1].
    """
    from scipy.ndimage import distance_transform_edt, gaussian_gradient_magnitude
    from skimage.segmentation import watershed

    n = count(label_map)
    if n == 0:
        return np.zeros(0, dtype=np.float32)
    depth = distance_transform_edt(~boundaries(label_map)) + 1
    deepest = np.zeros(n + 1)
    np.maximum.at(deepest, label_map.ravel(), depth.ravel())
    core = np.where(depth > deepest[label_map] / 2, label_map, 0)
    gap = distance_transform_edt(label_map == 0)
    markers = np.where(gap > REACH, n + 1, core)
    slope = gaussian_gradient_magnitude(evidence.astype(np.float32), 1)
    grown = watershed(slope, markers=markers, mask=gap <= REACH + 1)
    both = np.bincount(label_map[grown == label_map], minlength=n + 1)[1:]
    union = areas(label_map) + np.bincount(grown.ravel(), minlength=n + 2)[1 : n + 1] - both
    return (both / np.maximum(union, 1)).astype(np.float32)


def mean_rank(scores: Sequence[NDArray[np.floating]]) -> Scores:
    """Mean over the scores (each (N,)) of the instance's rank, (rank - 1/2) / N; ties share one.

    (N,) in (0, 1); 1 is best in all of them.
    """
    from scipy.stats import rankdata

    ranks = [(rankdata(s) - 0.5) / max(len(s), 1) for s in scores]
    return np.mean(ranks, axis=0).astype(np.float32)


def best_iou(label_map: LabelMap, other: LabelMap) -> NDArray[np.float64]:
    """(N,) highest IoU of each instance of ``label_map`` with one of ``other``; 0 if none."""
    n, m = count(label_map), count(other)
    best = np.zeros(n)
    shared = (label_map > 0) & (other > 0)
    codes = label_map[shared].astype(np.int64) * (m + 1) + other[shared]
    pairs, both = np.unique(codes, return_counts=True)
    i, j = pairs // (m + 1) - 1, pairs % (m + 1) - 1
    union = areas(label_map)[i] + areas(other)[j] - both
    np.maximum.at(best, i, both / union)
    return best
