"""Fully connected CRF on the refined maps (Kraehenbuehl and Koltun 2011), the extra ``crf``."""

from __future__ import annotations

import io
import os
import subprocess
import sys
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


def with_gamma(probabilities: NDArray[np.floating], gamma: float) -> NDArray[np.float32]:
    """(2, H, W) in [0, 1], the foreground to the power ``gamma``: of Step 1, before its CRF."""
    maps = np.array(probabilities, dtype=np.float32)
    maps[1] **= gamma
    return maps


def dense_crf(
    image: NDArray[np.uint8], probabilities: NDArray[np.floating], crf: Crf
) -> NDArray[np.float32]:
    """(2, H, W) float32 posterior of the mean field; the mask is its argmax.

    ``image`` (H, W, 3) uint8 RGB, ``probabilities`` (2, H, W) in [0, 1] (need not sum to 1); the
    sigmas of ``crf`` are px and grey levels (rgb), its gamma is :func:`with_gamma`'s. UserError if
    the extra is not installed. It holds the interpreter lock: where other threads are at work, see
    :func:`dense_crf_apart`.
    """
    field_type = load_dense_crf()
    maps = np.array(probabilities, dtype=np.float32)
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


def dense_crf_apart(
    image: NDArray[np.uint8], probabilities: NDArray[np.floating], crf: Crf
) -> NDArray[np.float32]:
    """The same, computed by a process of its own."""
    load_dense_crf()
    sent = io.BytesIO()
    names = Crf.model_fields.keys() - {"enabled", "gamma"}
    settings = Crf(**{name: getattr(crf, name) for name in names})
    np.savez(sent, image=image, probabilities=probabilities)
    child = subprocess.run(
        [sys.executable, "-m", "coin_ray.propagation.crf", settings.model_dump_json()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        input=sent.getvalue(),
        capture_output=True,
    )
    if child.returncode:
        raise RuntimeError(f"the dense CRF failed: {child.stderr.decode(errors='replace')[-2000:]}")
    return np.frombuffer(child.stdout, dtype=np.float32).reshape(2, *image.shape[:2]).copy()


if __name__ == "__main__":
    given = np.load(io.BytesIO(sys.stdin.buffer.read()))
    found = dense_crf(given["image"], given["probabilities"], Crf.model_validate_json(sys.argv[1]))
    sys.stdout.buffer.write(found.tobytes())
