"""A segmenter that looks at magnified windows of an image: nuclei are small for SAM, whose masks
have a quarter of the resolution of its 1024-px input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.segmenter import PromptSegmenter
from coin_ray.confidence.settings import SMALL, SMALL_WINDOW, Sam
from coin_ray.imaging.windows import origins
from coin_ray.labels import InstanceMasks

STRIDE = 0.75
"""Of a window's side: an instance is whole in one of them if it is smaller than a quarter of it."""


def window_px(sam: Sam, scale: float) -> int | None:
    """``sam.window`` in px of an image of resolution ``scale`` = 0.25 / mpp; None: all at once.

    The small segmenter has windows of its own, which are turned one by one: they lie where they do
    without.
    """
    if sam.model in SMALL:
        return SMALL_WINDOW if sam.views > 1 else None
    return sam.window and max(1, round(sam.window * scale))


def encode(
    segmenter: PromptSegmenter, image: NDArray[np.uint8], window: int | None
) -> dict[str, NDArray[Any]]:
    """What decoding needs of an image (H, W, 3) uint8; of windows of ``window`` px a side, or as
    much of the image as there is, one after the other: each array is (n, ...), and ``windows``
    (n, 4) is their bbox_yxyx."""
    if window is None:
        return segmenter.encode(image)
    axes = []
    for length in image.shape[:2]:
        side = min(window, length)
        axes.append([(o, o + side) for o in origins(length, side, max(1, int(side * STRIDE)))])
    boxes = np.array([(y0, x0, y1, x1) for y0, y1 in axes[0] for x0, x1 in axes[1]])
    parts = [segmenter.encode(image[y0:y1, x0:x1]) for y0, x0, y1, x1 in boxes]
    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    return {**stacked, "windows": boxes.astype(np.int64)}


def decode(
    segmenter: PromptSegmenter,
    embedding: dict[str, NDArray[Any]],
    prompts: Prompts,
    shape: tuple[int, int],
) -> InstanceMasks:
    """Masks of the prompts in the image of ``shape`` (H, W) that :func:`encode` saw; each is drawn
    in the window whose middle is nearest to its point."""
    if "windows" not in embedding:
        return segmenter.decode(embedding, prompts, shape)
    windows = embedding["windows"]
    if tuple(windows[:, 2:].max(axis=0)) != tuple(shape):
        raise ValueError(f"these windows do not belong to an image of {shape[0]} x {shape[1]}")
    middles = (windows[:, :2] + windows[:, 2:] - 1) / 2
    distance = np.abs(prompts.points_yx[:, None] - middles[None]).max(axis=2)
    nearest = distance.argmin(axis=1)
    parts, order = [], []
    for i in np.unique(nearest):
        which = np.flatnonzero(nearest == i)
        y0, x0, y1, x1 = (int(n) for n in windows[i])
        own = {name: array[i] for name, array in embedding.items() if name != "windows"}
        inside = prompts.take(which).within((y0, x0), (y1 - y0, x1 - x0))
        found = segmenter.decode(own, inside, (y1 - y0, x1 - x0))
        held = np.array([crop.size > 0 for crop in found.crops])[:, None]
        moved = np.where(held, found.boxes + np.array([y0, x0, y0, x0]), 0)
        parts.append(InstanceMasks(moved, found.crops, found.predicted_iou))
        order.append(which)
    if not parts:
        return InstanceMasks(np.zeros((0, 4), np.int64), [], np.zeros(0, np.float32))
    return InstanceMasks.join(parts).take(np.argsort(np.concatenate(order), kind="stable"))
