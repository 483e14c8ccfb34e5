"""PSM's first pseudo labels: k-means on the coloured self-activation map over the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.instances import clean_mask
from coin_ray.imaging.stain import MIN_CONTRAST, hematoxylin_od
from coin_ray.labels import BoolArray
from coin_ray.ucis.settings import Psm

FloatMap = NDArray[np.float32]
STEPS, TOLERANCE = 20, 0.5


def jet(values: FloatMap) -> FloatMap:
    """The jet colours (blue, green, red) in [0, 1] of values in [0, 1]: (H, W) -> (H, W, 3)."""
    peaks = np.array([1, 2, 3], dtype=np.float32)
    return np.clip(1.5 - np.abs(4 * values[..., None] - peaks), 0, 1)


def k_means(
    points: NDArray[np.float32],
    clusters: int,
    rng: np.random.Generator,
    attempts: int,
) -> NDArray[np.int32]:
    """Lloyd's algorithm: (N, D) -> (N,) ids from 0, the most compact of ``attempts`` clusterings.

    Each attempt starts from ``clusters`` points of ``rng`` and takes STEPS steps, or until no
    centre moves by more than TOLERANCE; a centre without points stays where it is.
    """
    from scipy.cluster.vq import vq

    best, compactness = np.zeros(len(points), dtype=np.int32), np.inf
    for _ in range(attempts):
        centres = points[rng.choice(len(points), clusters)]
        for _ in range(STEPS):
            found, _ = vq(points, centres, check_finite=False)
            size = np.maximum(np.bincount(found, minlength=clusters), 1)
            sums = [np.bincount(found, weights=c, minlength=clusters) for c in points.T]
            filled = np.isin(np.arange(clusters), found)[:, None]
            moved = np.where(filled, np.stack(sums, axis=1) / size[:, None], centres)
            shift = np.linalg.norm(moved - centres, axis=1).max()
            centres = moved.astype(np.float32)
            if shift <= TOLERANCE:
                break
        found, distance = vq(points, centres, check_finite=False)
        total = float(np.square(distance, dtype=np.float64).sum())
        if total < compactness:
            best, compactness = found, total
    return best


def cluster_mask(
    image: NDArray[np.uint8],
    activation: FloatMap,
    rng: np.random.Generator,
    psm: Psm,
) -> BoolArray:
    """Nuclei as one k-means cluster of 255 jet(activation) (blue, green, red) + image (RGB).

    ``image`` (H, W, 3) uint8, ``activation`` (H, W) in [0, 1] -> (H, W) bool. The public code takes
    the cluster of least blue + green of the jet plus red + green of the image: dark where active.
    The sign of the activation is an accident of the training, though, so here it is turned to agree
    with the hematoxylin density, and the cluster of the most hematoxylin is taken; none where that
    stands out by less than MIN_CONTRAST (no tissue). Then holes of up to ``max_hole`` px are filled
    and parts below ``min_area`` px dropped (the public code asks for 200, but drops none).
    """
    density = hematoxylin_od(image)
    if ((activation - activation.mean()) * density).sum() < 0:
        activation = 1 - activation
    colours = 255 * jet(activation) + image
    ids = k_means(colours.reshape(-1, 3), psm.clusters, rng, psm.attempts).reshape(density.shape)
    mask = ids == _nuclear_cluster(density, ids)
    return clean_mask(mask, opening=0, max_hole=psm.max_hole, min_area=psm.min_area)


def _nuclear_cluster(density: FloatMap, ids: NDArray[np.int32]) -> int:
    """The id of the highest mean density; -1 if it is hardly higher than elsewhere."""
    size = np.bincount(ids.ravel())
    mean = np.bincount(ids.ravel(), weights=density.ravel()) / np.maximum(size, 1)
    mean[size == 0] = -np.inf
    darkest = int(mean.argmax())
    rest = density[ids != darkest]
    return darkest if rest.size and mean[darkest] - rest.mean() >= MIN_CONTRAST else -1
