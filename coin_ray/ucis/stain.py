"""Coarse mask from stain separation alone: no weights, no labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.instances import clean_mask, split_instances
from coin_ray.imaging.rings import ring_contrast
from coin_ray.imaging.settings import Instances
from coin_ray.imaging.stain import Standard, evidence_maps
from coin_ray.labels import BoolArray, areas, keep_instances
from coin_ray.ucis.settings import Ucis

MIN_OD = 0.05  # of hematoxylin, that an instance has more than its surroundings
RING = 3.0  # px, width of the rings that an instance is judged by
SPLIT_FOOTPRINT = 9  # px; best radius on gated masks, only to judge instances one by one


def stain_mask(
    image: NDArray[np.uint8],
    ucis: Ucis,
    *,
    scale: float = 1.0,
    standard: Standard | None = None,
    typical: float | None = None,
) -> BoolArray:
    """Nuclei as the pixels dark in hematoxylin and darker than their surroundings, cleaned up.

    (H, W, 3) uint8 -> (H, W) bool, empty on images without stain contrast. ``sigma``,
    ``contrast_sigma``: see :func:`coin_ray.imaging.stain.EvidenceMaps`; ``opening`` radius in
    px, ``max_hole`` and ``min_area`` in px of area. Then the watershed instances of the mask are
    dropped that stand out from their surroundings (3-px rings) by less than ``min_contrast``
    standard deviations of the stain map or MIN_OD of hematoxylin OD, or that are smaller than
    ``min_share`` of the median instance. All px at 0.25 um/px; ``scale`` = 0.25 / mpp. A part of a
    slide is given the slide's ``standard`` and the ``typical`` area of its instances.
    """
    maps = evidence_maps(
        image,
        sigma=ucis.sigma,
        contrast_sigma=ucis.contrast_sigma,
        scale=scale,
        standard=standard,
    )
    mask = clean_mask(
        maps.evidence > 0,
        opening=ucis.opening,
        max_hole=ucis.max_hole,
        min_area=ucis.min_area,
        scale=scale,
    )
    label_map = split_instances(mask, Instances(footprint=SPLIT_FOOTPRINT), scale=scale)
    if not label_map.any():
        return mask
    contrast, density_contrast = ring_contrast(
        np.stack([maps.stain, maps.density]), label_map, width=max(RING * scale, 1.0)
    )
    area = areas(label_map)
    keep = (contrast >= ucis.min_contrast) & (density_contrast >= MIN_OD)
    keep &= area >= ucis.min_share * (np.median(area) if typical is None else typical)
    return keep_instances(label_map, keep) > 0
