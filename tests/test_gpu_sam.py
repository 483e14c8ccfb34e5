"""Prompts of segment-anything on a CPU take no more memory than its own predictor's plain loop.

The time is the row "sam" of ``python -m benchmarks.stages``.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks.inputs import random_sam
from benchmarks.measure import _reset_peak, _resident
from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.labels import InstanceMasks

SHAPE, POINTS, REPEATS = (1000, 1000), 4, 2


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_decoding_takes_no_more_than_the_predictors_loop() -> None:
    """In the same process, in turn: equal masks and at most 1.2 times its memory."""
    sam = random_sam()
    from segment_anything import SamPredictor

    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((256, 64, 64), dtype=np.float32).astype(np.float16)
    points = rng.integers(0, SHAPE[0], (POINTS, 2)).astype(np.float64)
    segmenter, predictor = SamSegmenter(sam, batch=64), SamPredictor(sam)
    predictor.original_size, predictor.input_size = SHAPE, (1024, 1024)
    predictor.features = torch.from_numpy(embedding.astype(np.float32))[None]
    predictor.is_image_set = True

    def ours() -> InstanceMasks:
        return segmenter.decode({"embedding": embedding}, Prompts(points), SHAPE)

    def plain() -> list[np.ndarray]:
        found = (predictor.predict(np.array([[x, y]]), np.array([1])) for y, x in points)
        return [masks[quality.argmax()] for masks, quality, _ in found]

    for box, crop, mask in zip(ours().boxes, ours().crops, plain(), strict=True):
        full = np.zeros(SHAPE, dtype=bool)
        full[box[0] : box[2], box[1] : box[3]] = crop
        assert 0.01 < mask.mean() < 0.99
        assert (full != mask).sum() <= 1e-3 * mask.sum(), "equal up to rounding at the zero line"
    peaks: dict[object, list[float]] = {ours: [], plain: []}
    for _ in range(REPEATS):
        for side in (ours, plain):
            base = _reset_peak()
            side()
            peaks[side].append(_resident("VmHWM") - base)
    assert min(peaks[ours]) <= 1.2 * min(peaks[plain])
