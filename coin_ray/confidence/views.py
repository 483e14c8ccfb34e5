"""A segmenter that looks at an image turned and mirrored, and draws what most of its looks see.

Nothing in tissue says which way is up, so what changes with it is the segmenter's own doubt
(test-time augmentation; Moshkov et al., 2020, have it for nuclei).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.segmenter import PromptSegmenter
from coin_ray.labels import InstanceMasks

ORDER = ((0, False), (2, False), (0, True), (2, True), (1, False), (3, False), (1, True), (3, True))
"""Quarter turns and whether mirrored before them; so many as asked for are taken from the left."""


@dataclass(frozen=True)
class View:
    """An image of ``shape`` (H, W), mirrored left to right and then turned by ``quarters``."""

    shape: tuple[int, int]
    quarters: int
    mirrored: bool

    @property
    def seen(self) -> tuple[int, int]:
        """(H, W) of the view."""
        return self.shape[::-1] if self.quarters % 2 else self.shape

    @property
    def back(self) -> View:
        """The view of the view that is the image again."""
        return View(self.seen, self.quarters if self.mirrored else -self.quarters, self.mirrored)

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """``array`` (H, W, ...) of the image, or of a part of it, as it is seen."""
        return np.ascontiguousarray(
            np.rot90(array[:, ::-1] if self.mirrored else array, self.quarters)
        )

    def points(self, points_yx: NDArray[Any]) -> NDArray[Any]:
        """Pixel positions (..., 2) of the image in the view."""
        (height, width), y, x = self.shape, points_yx[..., 0], points_yx[..., 1]
        if self.mirrored:
            x = width - 1 - x
        for _ in range(self.quarters % 4):
            y, x, height, width = width - 1 - x, y, width, height
        return np.stack([y, x], axis=-1)

    def boxes(self, boxes_yxyx: NDArray[np.int64]) -> NDArray[np.int64]:
        """Half-open boxes (N, 4) in the view."""
        corners = self.points(boxes_yxyx[:, :2]), self.points(boxes_yxyx[:, 2:] - 1)
        return np.hstack([np.minimum(*corners), np.maximum(*corners) + 1])

    def masks(self, masks: InstanceMasks) -> InstanceMasks:
        """Masks in the view; an empty one stays empty."""
        held = np.array([crop.size > 0 for crop in masks.crops], dtype=bool)[:, None]
        boxes = np.where(held, self.boxes(masks.boxes), 0)
        return InstanceMasks(boxes, [self.of(crop) for crop in masks.crops], masks.predicted_iou)

    def prompts(self, prompts: Prompts) -> Prompts:
        """Prompts in the view."""
        boxes = None if prompts.boxes_yxyx is None else self.boxes(prompts.boxes_yxyx)
        masks = None if prompts.masks is None else self.masks(prompts.masks)
        outside = None if prompts.negatives_yx is None else self.points(prompts.negatives_yx)
        return Prompts(self.points(prompts.points_yx), boxes, masks, outside)


@dataclass(frozen=True)
class Viewed:
    """A ``segmenter`` that looks from ``views`` sides (2, 4 or 8); see ``PromptSegmenter``."""

    segmenter: PromptSegmenter
    views: int

    def _of(self, shape: tuple[int, int]) -> list[View]:
        return [View(shape, *side) for side in ORDER[: self.views]]

    def encode(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays of each view, under its number."""
        return {
            f"{i} {name}": array
            for i, view in enumerate(self._of((image.shape[0], image.shape[1])))
            for name, array in self.segmenter.encode(view.of(image)).items()
        }

    def decode(
        self, embedding: dict[str, NDArray[Any]], prompts: Prompts, shape: tuple[int, int]
    ) -> InstanceMasks:
        """What more than half of the views hold, each counted by its own predicted IoU, whose mean
        is that of the mask."""
        found = []
        for i, view in enumerate(self._of(shape)):
            start = f"{i} "
            own = {n.removeprefix(start): a for n, a in embedding.items() if n.startswith(start)}
            masks = self.segmenter.decode(own, view.prompts(prompts), view.seen)
            found.append(view.back.masks(masks))
        return majority(found)


def seen_from(segmenter: PromptSegmenter, views: int) -> PromptSegmenter:
    """The segmenter as ``sam.views`` says."""
    return segmenter if views == 1 else Viewed(segmenter, views)


def unturned(embedding: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Of an embedding, what the segmenter saw of the image as it is."""
    first = {n.removeprefix("0 "): a for n, a in embedding.items() if n.startswith("0 ")}
    whole = {n: a for n, a in embedding.items() if " " not in n}
    return whole | first


def majority(drawn: Sequence[InstanceMasks]) -> InstanceMasks:
    """Of N instances that were drawn several times, N masks each: the pixels that more than half
    of its masks hold, weighted by their predicted IoU; the mean predicted IoU.

    A mask without a predicted IoU counts next to nothing. Empty where no pixel has a majority.
    """
    quality = np.stack([masks.predicted_iou for masks in drawn])
    weights = quality.astype(np.float64) + 1e-6
    boxes, crops = np.zeros((quality.shape[1], 4), np.int64), []
    for i, half in enumerate(weights.sum(axis=0) / 2):
        held = [(m.boxes[i], m.crops[i], w) for m, w in zip(drawn, weights[:, i], strict=True)]
        held = [one for one in held if one[1].size]
        if not held:
            crops.append(np.zeros((0, 0), dtype=bool))
            continue
        around = np.stack([box for box, _, _ in held])
        (top, left), (bottom, right) = around[:, :2].min(axis=0), around[:, 2:].max(axis=0)
        votes = np.zeros((bottom - top, right - left))
        for (y0, x0, y1, x1), crop, weight in held:
            votes[y0 - top : y1 - top, x0 - left : x1 - left] += weight * crop
        boxes[i], crop = _trimmed(votes > half, (top, left))
        crops.append(crop)
    return InstanceMasks(boxes, crops, quality.mean(axis=0))


def _trimmed(
    mask: NDArray[np.bool_], corner: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(4, np.int64), np.zeros((0, 0), dtype=bool)
    (y0, y1), (x0, x1) = ((found[0], found[-1] + 1) for found in (rows, columns))
    return np.array([y0, x0, y1, x1]) + np.tile(corner, 2), mask[y0:y1, x0:x1]
