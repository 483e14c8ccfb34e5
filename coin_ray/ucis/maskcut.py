"""MaskCut: instances as normalised cuts of the tokens of a frozen transformer, one after the other.

Wang et al., Cut and Learn for Unsupervised Object Detection and Instance Segmentation, CVPR 2023;
the cut is that of Shi and Malik (2000), as TokenCut (Wang et al., CVPR 2022) takes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, InstanceMasks, LabelMap, areas, keep_instances
from coin_ray.ucis.settings import Maskcut

WEAK = 1e-5
"""Of an edge between tokens that are not alike: the graph stays in one piece."""
CORNERS = 3
"""Corners of a window that an object does not have: they are ground."""
DOUBLE = 0.3
"""IoU above which masks of two windows are the same instance."""


def maskcut(
    tokens: Iterable[NDArray[np.floating]],
    origins: NDArray[np.int64],
    window: tuple[int, int],
    shape: tuple[int, int],
    maskcut: Maskcut,
    *,
    min_area: float,
) -> LabelMap:
    """Instances (H, W) of an image of ``shape``, whose windows of ``window`` (height, width) px
    begin at ``origins`` (n, 2) yx and have ``tokens`` (D, h, w) each; they may hang over its
    border.

    Of each window the masks of :func:`cut_window`, but not those that reach a border of it which is
    none of the image: a window beside it sees them whole. Where windows overlap, what was cut
    earlier counts. Instances below ``min_area`` px are dropped.
    """
    boxes, crops, order = [], [], []
    height, width = window
    for (top, left), found in zip(origins.tolist(), tokens, strict=True):
        inner = [top > 0, left > 0, top + height < shape[0], left + width < shape[1]]
        for place, part in enumerate(cut_window(found, maskcut)):
            mask = _resized(part, window)
            mask[: max(0, -top)] = mask[shape[0] - top :] = False
            mask[:, : max(0, -left)] = mask[:, shape[1] - left :] = False
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            if not len(rows):
                continue
            y0, x0, y1, x1 = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
            if any(np.array([y0 == 0, x0 == 0, y1 == height, x1 == width]) & inner):
                continue
            boxes.append((top + y0, left + x0, top + y1, left + x1))
            crops.append(mask[y0:y1, x0:x1])
            order.append(-place)
    quality = np.zeros(len(crops), dtype=np.float32)
    masks = InstanceMasks(np.array(boxes, dtype=np.int64).reshape(-1, 4), crops, quality)
    scores = np.array(order, dtype=np.float64)
    chosen = masks.distinct(scores, DOUBLE)
    painted = masks.take(chosen).paint(shape, scores[chosen])
    return keep_instances(painted, areas(painted) >= min_area)


def cut_window(tokens: NDArray[np.floating], maskcut: Maskcut) -> list[BoolArray]:
    """Up to ``masks`` disjoint masks (h, w) of a window's tokens (D, h, w), in the order in which
    they are cut off; the grid has at most ``grid`` tokens a side, means of those that there are.

    The tokens that no mask has yet are a graph: an edge of weight 1 where the cosine is above
    ``threshold``, WEAK elsewhere. Its normalised cut, the second smallest generalised eigenvector
    split at its mean, has an object on the side of its largest absolute value, or on the other if
    that has CORNERS of the window's corners; the object is the connected part with the peak.
    """
    from scipy.ndimage import label

    pooled = _pooled(np.asarray(tokens, dtype=np.float32), maskcut.grid)
    shape = pooled.shape[1:]
    flat = pooled.reshape(len(pooled), -1).T
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    weights = np.where(flat @ flat.T > maskcut.threshold, 1.0, WEAK)
    left = np.arange(len(flat))
    masks: list[BoolArray] = []
    while len(masks) < maskcut.masks and len(left) > 2:
        graph = weights[np.ix_(left, left)]
        if graph.min() == 1:
            break  # all alike: there is nothing to cut
        root = 1 / np.sqrt(graph.sum(axis=1))
        # All of them: LAPACK's search for two may find none where many are nearly equal.
        vectors = np.linalg.eigh(root[:, None] * graph * root).eigenvectors
        value = np.zeros(shape)
        value.ravel()[left] = vectors[:, -2] * root
        value.ravel()[left] -= value.ravel()[left].mean()
        value = _object(value)
        parts, _ = label(value > 0)
        mask = parts == parts.ravel()[value.argmax()]
        if not value.max() > 0:
            break
        masks.append(mask)
        left = left[~mask.ravel()[left]]
    return masks


def _object(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cut with its object on the positive side."""
    corners = value[[0, 0, -1, -1], [0, -1, 0, -1]]
    peak = value.ravel()[np.abs(value).argmax()]
    turned = value if peak > 0 else -value
    ground = np.sign(corners) == np.sign(peak)
    return -turned if ground.sum() >= CORNERS else turned


def _pooled(tokens: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Means of blocks of tokens (D, h, w), of equal size but at the end, so that none of the sides
    has more than ``most``."""
    for axis in (1, 2):
        size = -(-tokens.shape[axis] // most)
        if size > 1:
            starts = np.arange(0, tokens.shape[axis], size)
            counts = np.diff(np.append(starts, tokens.shape[axis]))
            shape = (-1, 1) if axis == 1 else (-1,)
            tokens = np.add.reduceat(tokens, starts, axis=axis)
            tokens /= counts.reshape(shape).astype(np.float32)
    return tokens


def _resized(mask: BoolArray, shape: tuple[int, int]) -> BoolArray:
    """A mask on the grid as one of ``shape``, px: interpolated linearly, and cut in the middle."""
    from skimage.transform import resize

    full = resize(mask.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=False)
    found: BoolArray = full > 0.5
    return found
