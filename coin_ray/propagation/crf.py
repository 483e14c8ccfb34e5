"""Fully connected CRF on the refined maps (Kraehenbuehl and Koltun 2011), the extra ``crf``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.errors import UserError
from coin_ray.propagation.settings import Crf


def load_dense_crf() -> Any:
    """The class of the extra ``crf``; UserError that names the extra where it is missing."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise UserError(
            "the dense CRF is not installed",
            expected="the module pydensecrf",
            found=str(error),
            do="`pip install coin-ray[crf]` (needs a C++ compiler), or `crf.enabled: false`",
        ) from error
    return DenseCRF2D


def dense_crf(
    image: NDArray[np.uint8], probabilities: NDArray[np.floating], crf: Crf
) -> NDArray[np.float32]:
    """(2, H, W) float32 posterior of the mean field; the mask is its argmax.

    ``image`` (H, W, 3) uint8 RGB, ``probabilities`` (2, H, W) in [0, 1] (need not sum to 1); the
    sigmas of ``crf`` are px and grey levels (rgb). UserError if the extra is not installed. It
    holds the interpreter lock, so threads would run one after another; a study gives every image a
    task in a process of its own.
    """
    field_type = load_dense_crf()
    maps = np.array(probabilities, dtype=np.float32)
    maps[1] **= crf.gamma
    height, width = image.shape[:2]
    field = field_type(width, height, 2)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(np.clip(maps, 1e-5, 1)).reshape(2, -1)))
    field.addPairwiseGaussian(sxy=crf.gaussian_sigma, compat=crf.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=crf.bilateral_sigma,
        srgb=crf.bilateral_rgb,
        rgbim=np.ascontiguousarray(image),
        compat=crf.bilateral_weight,
    )
    return np.asarray(field.inference(crf.iterations), dtype=np.float32).reshape(2, height, width)
