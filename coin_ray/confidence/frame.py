"""Between an image and the square that SAM sees: prompts on the way in, masks on the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from coin_ray.confidence.prompts import Prompts
from coin_ray.labels import BoolArray, InstanceMasks

FLOOR = 1e-3
"""Probability of what a mask leaves out: SAM takes masks as logits, which are finite."""


@dataclass(frozen=True)
class Frame:
    """An image of ``shape`` (H, W) that fills ``used`` (h, w) px of a square of ``side`` px, from
    its upper left corner. Logits have ``low`` px a side; they are resized to the square first, or
    (``direct``) to the image at once."""

    shape: tuple[int, int]
    used: tuple[int, int]
    side: int
    low: int
    direct: bool = False

    def points(self, prompts: Prompts) -> Tensor:
        """(N, 1, 2) positions (x, y) in the square."""
        return self._scaled(prompts.points_yx)[:, None]

    def negatives(self, prompts: Prompts) -> Tensor:
        """(N, K, 2) positions (x, y) of the points outside, of which all have K."""
        count = int(prompts.negatives().max(initial=0))
        if prompts.negatives_yx is None or not count:
            return torch.zeros(len(prompts), 0, 2)
        outside = prompts.negatives_yx[:, :count].reshape(-1, 2)
        return self._scaled(outside).reshape(-1, count, 2)

    def boxes(self, prompts: Prompts) -> Tensor:
        """(N, 2, 2) positions (x, y) of a box's first and last pixel."""
        assert prompts.boxes_yxyx is not None
        corners = prompts.boxes_yxyx.reshape(-1, 2, 2) - np.array([[0, 0], [1, 1]])
        return self._scaled(corners.reshape(-1, 2)).reshape(-1, 2, 2)

    def _scaled(self, yx: NDArray[np.generic]) -> Tensor:
        ratio = np.array([used / full for used, full in zip(self.used, self.shape, strict=True)])
        return torch.from_numpy((np.asarray(yx, dtype=np.float64) * ratio)[:, ::-1].copy()).float()

    def logits(self, masks: InstanceMasks) -> Tensor:
        """(N, 1, low, low) of masks in the image: log-odds of the share of a pixel that each
        covers, at least FLOOR and at most 1 - FLOOR."""
        rows, columns = (
            _averaging(full, self.low * used / self.side, self.low)
            for full, used in zip(self.shape, self.used, strict=True)
        )
        out = np.zeros((len(masks), 1, self.low, self.low), dtype=np.float32)
        for i, (y0, x0, y1, x1) in enumerate(masks.boxes.tolist()):
            out[i, 0] = rows[:, y0:y1] @ masks.crops[i].astype(np.float32) @ columns[:, x0:x1].T
        share = np.clip(out, FLOOR, 1 - FLOOR)
        return torch.from_numpy(np.log(share / (1 - share)))

    @cached_property
    def upsampling(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(H, low) and (W, low) matrices of SAM's interpolations along each axis."""
        side = self.low if self.direct else self.side
        used = (self.low, self.low) if self.direct else self.used
        rows, columns = (
            _upsampling(self.low, side, part, full)
            for part, full in zip(used, self.shape, strict=True)
        )
        return rows, columns

    def draw(
        self,
        prompts: Prompts,
        decode: Callable[[Prompts], tuple[Tensor, Tensor]],
        *,
        batch: int,
        threshold: float,
    ) -> InstanceMasks:
        """Masks at the image's shape; ``decode`` gives the candidates of up to ``batch`` prompts,
        logits (n, m, low, low), and their predicted IoU (n, m).

        The choice among the candidates comes before the upsampling, and only the part of a mask's
        box is upsampled, so memory does not grow with N and little with the image. A batch has as
        many points outside of each: SAM has no filler for a point that changes nothing.
        """
        boxes = np.zeros((len(prompts), 4), dtype=np.int64)
        crops = [np.zeros((0, 0), dtype=bool)] * len(prompts)
        predicted = np.zeros(len(prompts), dtype=np.float32)
        for part in _batches(prompts.negatives(), batch):
            logits, iou = decode(prompts.take(part))
            best = iou.argmax(dim=1)
            which = torch.arange(len(best), device=best.device)
            chosen = logits[which, best].float().cpu().numpy()
            predicted[part] = iou[which, best].float().cpu().numpy()
            for i, low in zip(part.tolist(), chosen - threshold, strict=True):
                boxes[i], crops[i] = _cut(low, *self.upsampling)
        return InstanceMasks(boxes, crops, np.clip(predicted, 0, 1))


def _batches(kinds: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    """Indices of up to ``most`` of one kind at a time, in order."""
    for kind in np.unique(kinds):
        which = np.flatnonzero(kinds == kind)
        for start in range(0, len(which), most):
            yield which[start : start + most]


def _averaging(full: int, used: float, low: int) -> NDArray[np.float32]:
    """(low, full) matrix of means over the part of an axis that a low pixel covers; the axis lies
    on the first ``used`` of them, the others get 0."""
    edges = np.clip(np.arange(low + 1) * (full / used), 0, full)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(full)
    covered = np.clip(np.minimum(stop, pixel + 1) - np.maximum(start, pixel), 0, None)
    return (covered / (full / used)).astype(np.float32)


def _upsampling(low: int, side: int, used: int, full: int) -> NDArray[np.float32]:
    """(full, low) matrix of SAM's two linear interpolations along an axis with the cut between.

    Logits of ``low`` px are resized to the encoder's ``side``, the padding beyond ``used`` is cut
    off, and the rest is resized to the image's ``full`` px. Bilinear is separable, so a mask is
    rows @ logits @ columns.T, and any box of it costs only that box.
    """
    basis = torch.eye(low)[None]
    wide = functional.interpolate(basis, size=side, mode="linear", align_corners=False)
    out = functional.interpolate(wide[..., :used], size=full, mode="linear", align_corners=False)
    return np.ascontiguousarray(out[0].numpy().T)


def _cut(
    low: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> tuple[tuple[int, int, int, int], BoolArray]:
    """Box (half-open) and crop of the upsampled ``low`` > 0; all zero and (0, 0) if empty.

    An interpolated value is positive only where a positive one takes part in it.
    """
    positive = low > 0
    spans, nothing = [], ((0, 0, 0, 0), np.zeros((0, 0), dtype=bool))
    for matrix, hit in ((rows, positive.any(axis=1)), (columns, positive.any(axis=0))):
        reached = np.flatnonzero((matrix[:, hit] > 0).any(axis=1))
        if not len(reached):
            return nothing
        full = slice(reached[0], reached[-1] + 1)
        used = np.flatnonzero((matrix[full] > 0).any(axis=0))
        spans.append((full, slice(used[0], used[-1] + 1)))
    (y, ly), (x, lx) = spans
    mask = rows[y, ly] @ low[ly, lx] @ columns[x, lx].T > 0
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return nothing
    crop = np.ascontiguousarray(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1])
    y0, x0 = int(y.start + ys[0]), int(x.start + xs[0])
    return (y0, x0, y0 + crop.shape[0], x0 + crop.shape[1]), crop
