"""What a segmenter's encoder saw of an image as windows of tokens, from its embedding alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.settings import SMALL, segmenter_name
from coin_ray.confidence.views import unturned


class TokenWindows(NamedTuple):
    """``tokens`` (n, D, h, w) float16 of n windows that begin at ``origins`` (n, 2) int64 yx, in
    raster order, and have ``window`` (height, width) px. They may hang over the image's border."""

    tokens: NDArray[np.float16]
    origins: NDArray[np.int64]
    window: tuple[int, int]


def token_windows(
    model: str, embedding: Mapping[str, NDArray[Any]], shape: tuple[int, int]
) -> TokenWindows:
    """The tokens of ``sam.model`` for an image of ``shape`` (H, W), where the encoder laid them.

    The small segmenter: 8 px each, in its windows of 256 px. SAM: 64 x 64 over the square whose
    side is the longer one of what it looked at, from the upper left corner (its padding, and up to
    half of a px of its input where it rounds). SAM 2.1: 64 x 64 over what it squeezed; its finer
    levels are left aside. What they looked at is the image, or each window of ``sam.window``.
    """
    embedding = unturned(embedding)
    name, found = segmenter_name(model), np.asarray(embedding["embedding"])
    if model in SMALL:
        from coin_ray.confidence.small import window_corners
        from coin_ray.confidence.small_model import WINDOW

        found = found.reshape(-1, *found.shape[-3:])  # views are of one window each
        return TokenWindows(found, window_corners(shape), (WINDOW, WINDOW))
    if "windows" in embedding:
        boxes = embedding["windows"]
        height, width = (int(n) for n in boxes[0, 2:] - boxes[0, :2])
        origins = boxes[:, :2]
    else:
        found, (height, width) = found[None], shape
        origins = np.zeros((1, 2), dtype=np.int64)
    if not name.startswith("sam2_"):
        height = width = max(height, width)
    return TokenWindows(found, origins, (height, width))
