"""Stain separation of H&E images: hematoxylin density, nuclear evidence, stain jitter.

Optical density OD = -ln((I + 1) / 256) per channel; a stain is a direction in OD space
(Beer-Lambert). Lengths in px at 0.25 um/px; ``scale`` = 0.25 / mpp adapts them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]
FloatMap = NDArray[np.float32]

# Hematoxylin, eosin, DAB: OD directions of Ruifrok & Johnston, Anal Quant Cytol Histol 23 (2001).
HED = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_HED = HED / np.linalg.norm(HED, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(_HED)
_OD = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)

TISSUE_OD = 0.15  # Macenko's beta: a pixel with less in any channel is background (natural log)
MIN_TISSUE = 200  # px; fewer do not fix two stain directions
MIN_CONTRAST = 0.1  # OD above the median that the darkest spot of an image with a nucleus has


def optical_density(image: Image) -> FloatMap:
    """(H, W, 3) uint8 -> (H, W, 3) float32 in [0, 5.55], natural log."""
    return _OD[image]


def hematoxylin_od(image: Image) -> FloatMap:
    """Hematoxylin density by the fixed HED directions (Ruifrok & Johnston 2001).

    (H, W, 3) uint8 -> (H, W) float32, natural-log OD along the unit stain vector; negative where
    the colour lies outside the stains' cone.
    """
    return optical_density(image) @ _UNMIX[:, 0].astype(np.float32)


def macenko_vectors(image: Image) -> NDArray[np.float64] | None:
    """(2, 3) unit OD directions of hematoxylin and eosin estimated from the image, or None.

    Macenko et al., ISBI 2009: the plane of the two largest principal directions of the tissue
    pixels' OD, in it the 1st and 99th percentile of the angle. Hematoxylin is the one with the
    larger share of red. None where too few tissue pixels exist or their colours span no plane (grey
    images).
    """
    od = optical_density(image).reshape(-1, 3)
    tissue = od[(od > TISSUE_OD).all(axis=1)].astype(np.float64)
    if len(tissue) < MIN_TISSUE:
        return None
    variance, axes = np.linalg.eigh(np.cov(tissue, rowvar=False))
    if variance[1] < 1e-4 * max(variance[2], 1e-12):
        return None
    plane = axes[:, [2, 1]]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(*(tissue @ plane).T[::-1])
    ends = np.percentile(angle, [1, 99])
    if ends[1] - ends[0] < 0.02:
        return None
    vectors = np.stack([plane @ [np.cos(a), np.sin(a)] for a in ends])
    vectors = np.clip(vectors, 0, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors if vectors[0, 0] > vectors[1, 0] else vectors[::-1]


def hematoxylin_unmixing(image: Image) -> FloatMap:
    """(3,) what the OD is multiplied by for the hematoxylin density by stain directions estimated
    from the image (Macenko et al., ISBI 2009); by the fixed ones where none can be estimated."""
    vectors = macenko_vectors(image)
    inverse = _UNMIX if vectors is None else np.linalg.pinv(vectors)
    return inverse[:, 0].astype(np.float32)


class Standard(NamedTuple):
    """What an image as a whole says of its stains; a part of it is measured by that.

    ``unmix`` as of :func:`hematoxylin_unmixing`; median and standard deviation of the ``fixed`` and
    of its ``own`` hematoxylin density; ``threshold`` and ``sd`` of the sum of both, smoothed.
    """

    unmix: FloatMap
    fixed: tuple[np.float32, float]
    own: tuple[np.float32, float]
    threshold: np.float32
    sd: float


class EvidenceMaps(NamedTuple):
    """What an image shows of its nuclei, three maps (H, W) float32.

    ``evidence``: signed evidence that a pixel is nucleus, in standard deviations of the image; > 0
    is nucleus. It is min((h - t) / sd, 2 d / sd) with q = z(HED hematoxylin) + z(Macenko
    hematoxylin), h = q smoothed by ``sigma`` px, d = h - (q smoothed by ``contrast_sigma`` px), t =
    Otsu threshold of h, sd = its standard deviation: dark enough in the image, and darker than the
    surroundings. -1 everywhere on images without stain contrast (blank, flat).
    ``stain``: the smoothed nuclear stain h / sd. ``density``: the smoothed hematoxylin OD.
    ``standard``: what they were measured by; None without stain contrast.
    """

    evidence: FloatMap
    stain: FloatMap
    density: FloatMap
    standard: Standard | None


def evidence_maps(
    image: Image,
    *,
    sigma: float,
    contrast_sigma: float,
    scale: float = 1.0,
    standard: Standard | None = None,
) -> EvidenceMaps:
    """The maps of an image (H, W, 3) uint8, measured by itself or by a ``standard``, that of the
    slide it was cut from; sigmas in px at 0.25 um/px."""
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    hed = hematoxylin_od(image)
    density = gaussian_filter(hed, sigma * scale)
    if standard is None and density.max() - np.median(density) < MIN_CONTRAST:
        none = np.full(image.shape[:2], -1, dtype=np.float32)
        return EvidenceMaps(none, np.zeros_like(none), density, None)
    unmix = hematoxylin_unmixing(image) if standard is None else standard.unmix
    own = optical_density(image) @ unmix
    of_fixed, of_own = (_spread(hed), _spread(own)) if standard is None else standard[1:3]
    q = (hed - of_fixed[0]) / of_fixed[1] + (own - of_own[0]) / of_own[1]
    h = gaussian_filter(q, sigma * scale)
    d = h - gaussian_filter(q, contrast_sigma * scale)
    if standard is None:
        cut, sd = np.float32(threshold_otsu(h)), max(float(h.std()), 1e-6)
        standard = Standard(unmix, of_fixed, of_own, cut, sd)
    evidence = np.minimum((h - standard.threshold) / standard.sd, 2 * d / standard.sd)
    return EvidenceMaps(evidence, h / standard.sd, density, standard)


def _spread(values: FloatMap) -> tuple[np.float32, float]:
    return np.median(values), max(float(values.std()), 1e-6)


def draw_stain(rng: np.random.Generator, *, sigma: float) -> FloatMap:
    """(4, 3): as if stained and scanned differently. Optical densities times the first three rows,
    plus the last, are the new ones.

    Gains N(1, sigma) and offsets N(0, sigma / 5) OD per HED stain, after Tellez et al., IEEE TMI 37
    (2018).
    """
    gain = np.maximum(rng.normal(1, sigma, 3), 0.1)
    offset = rng.normal(0, sigma / 5, 3)
    return np.concatenate([(_UNMIX * gain) @ _HED, (offset @ _HED)[None]]).astype(np.float32)


def jitter_stain(image: Image, rng: np.random.Generator, *, sigma: float) -> Image:
    """The image (H, W, 3) uint8 with the stains of :func:`draw_stain`; ``sigma`` >= 0, 0 returns it
    up to rounding."""
    stain = draw_stain(rng, sigma=sigma)
    od = optical_density(image) @ stain[:3] + stain[3]
    return np.clip(np.rint(256 * np.exp(-od) - 1), 0, 255).astype(np.uint8)


def restained(images: Tensor, stains: Tensor) -> Tensor:
    """(B, ..., 3) uint8 on any device, each by its (4, 3) of ``stains`` (B, 4, 3)."""
    od = images.view(len(images), -1, 3).float().add_(1).div_(256).log_().neg_()
    mixed = stains[:, 3:].baddbmm(od, stains[:, :3])
    out = mixed.neg_().exp_().mul_(256).sub_(1).round_().clamp_(0, 255)
    return out.view_as(images).to(images.dtype)
