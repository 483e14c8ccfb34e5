"""Prompts of segment-anything on a CPU cost no more than the plain loop of its own predictor."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch

from benchmarks.inputs import random_sam
from benchmarks.measure import _reset_peak, _resident
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.labels import InstanceMasks

SHAPE, POINTS, REPEATS = (1000, 1000), 4, 3


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_decoding_takes_no_more_than_the_predictors_loop() -> None:
    """In the same process, in turn: at most its time and 1.2 times its memory, equal masks."""
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
        return segmenter.decode({"embedding": embedding}, points, SHAPE)

    def plain() -> list[np.ndarray]:
        found = (predictor.predict(np.array([[x, y]]), np.array([1])) for y, x in points)
        return [masks[quality.argmax()] for masks, quality, _ in found]

    for box, crop, mask in zip(ours().boxes, ours().crops, plain(), strict=True):
        full = np.zeros(SHAPE, dtype=bool)
        full[box[0] : box[2], box[1] : box[3]] = crop
        assert 0.01 < mask.mean() < 0.99
        assert (full != mask).sum() <= 1e-3 * mask.sum(), "equal up to rounding at the zero line"
    seconds: dict[object, list[float]] = {ours: [], plain: []}
    peaks: dict[object, list[float]] = {ours: [], plain: []}
    for _ in range(REPEATS):
        for side in (ours, plain):
            base, began = _reset_peak(), time.process_time()
            side()
            seconds[side].append(time.process_time() - began)
            peaks[side].append(_resident("VmHWM") - base)
    assert min(seconds[ours]) <= 1.0 * min(seconds[plain])
    assert min(peaks[ours]) <= 1.2 * min(peaks[plain])
