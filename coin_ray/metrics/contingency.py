"""One table of overlaps per image, from which every metric is read.

The classic evaluators make one full-image mask per nucleus or compare every pair; here the image
is read once (a ``bincount`` of ``true * width + predicted``) and the metrics work on the few pairs
that overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coin_ray.errors import UserError
from coin_ray.labels import InstanceMasks, areas, numbered

DENSE_CELLS = 20_000_000
"""Largest table held densely (160 MB); above it the occupied cells are found by sorting."""


@dataclass(frozen=True)
class Contingency:
    """Overlaps of N true and M predicted instances, background left out of the pairs.

    ``true_ids``, ``true_areas`` (N,), ``predicted_ids``, ``predicted_areas`` (M,), ids ascending;
    ``true_index``, ``predicted_index``, ``intersection`` (K,) the pairs with a common pixel, sorted
    by true and then predicted index (both 0-based); ``pixels`` of the image. All int64.
    """

    true_ids: NDArray[np.int64]
    true_areas: NDArray[np.int64]
    predicted_ids: NDArray[np.int64]
    predicted_areas: NDArray[np.int64]
    true_index: NDArray[np.int64]
    predicted_index: NDArray[np.int64]
    intersection: NDArray[np.int64]
    pixels: int

    @property
    def union(self) -> NDArray[np.int64]:
        """(K,) pixels of the union of each pair."""
        areas = self.true_areas[self.true_index] + self.predicted_areas[self.predicted_index]
        return areas - self.intersection

    @property
    def jaccard(self) -> NDArray[np.float64]:
        """(K,) intersection over union of each pair, in (0, 1]."""
        return self.intersection / self.union

    @property
    def empty(self) -> bool:
        """True if neither map has an instance: there is nothing to measure."""
        return not len(self.true_areas) and not len(self.predicted_areas)


def contingency(
    true: NDArray[np.integer], predicted: NDArray[np.integer], *, dense_cells: int = DENSE_CELLS
) -> Contingency:
    """Overlap table of two (H, W) label maps of any integer type; 0 = background, any ids.

    Raises:
        UserError: maps of different shapes, arrays that are not (H, W), masks of bool or
            float where instances are needed, or negative ids.
    """
    check_maps(true, predicted)
    (true_ids, true_at), (predicted_ids, predicted_at) = numbered(true), numbered(predicted)
    rows, columns = len(true_ids) + 1, len(predicted_ids) + 1
    keys = true_at.ravel().astype(np.int64) * columns + predicted_at.ravel()
    if rows * columns <= dense_cells:
        cells = np.bincount(keys, minlength=rows * columns)
        occupied = np.flatnonzero(cells)
        counts = cells[occupied]
    else:
        occupied, counts = np.unique(keys, return_counts=True)
    i, j = np.divmod(occupied, columns)
    pairs = (i > 0) & (j > 0)

    def sizes(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        return np.bincount(index, counts, size)[1:].astype(np.int64)  # exact below 2^53

    return Contingency(
        true_ids=true_ids,
        true_areas=sizes(i, rows),
        predicted_ids=predicted_ids,
        predicted_areas=sizes(j, columns),
        true_index=i[pairs] - 1,
        predicted_index=j[pairs] - 1,
        intersection=counts[pairs].astype(np.int64),
        pixels=int(true.size),
    )


def best_matches(
    true: NDArray[np.integer], masks: InstanceMasks
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of N masks that may overlap: the best IoU (N,) with a nucleus of a label map (H, W) with ids
    1..N, and the nucleus; 0 and 0 for a mask that touches none."""
    sizes = np.concatenate([[0], areas(true.astype(np.int32, copy=False))])
    iou, nucleus = np.zeros(len(masks)), np.zeros(len(masks), dtype=np.int64)
    for i, (y0, x0, y1, x1) in enumerate(masks.boxes.tolist()):
        inside = true[y0:y1, x0:x1][masks.crops[i]]
        both = np.bincount(inside, minlength=len(sizes))
        either = sizes + len(inside) - both
        both[0] = 0
        found = both / np.maximum(either, 1)
        nucleus[i], iou[i] = int(found.argmax()), float(found.max())
    return iou, np.where(iou > 0, nucleus, 0)


def check_maps(true: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
    """Refuse what cannot be compared: see :func:`contingency`."""
    for name, labels in (("truth", true), ("prediction", predicted)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"the {name} is no label map",
                expected="an integer id per pixel, 0 = background",
                found=f"an array of {labels.dtype}",
                do="label the connected components of a binary mask first",
            )
        if labels.ndim != 2:
            raise UserError(
                f"the {name} is no label map",
                expected="(H, W): rows and columns of one image",
                found=f"an array of {labels.ndim} dimensions, {labels.shape}",
                do="compare one image at a time, by its ids and not by its colours",
            )
        if labels.size and np.issubdtype(labels.dtype, np.signedinteger) and labels.min() < 0:
            raise UserError(
                f"the {name} has negative ids",
                expected="0 = background, ids from 1",
                found=f"smallest value {labels.min()}",
                do="give ignored regions as a separate mask",
            )
    if true.shape != predicted.shape:
        raise UserError(
            "truth and prediction differ in size",
            expected=f"{true.shape} as the truth",
            found=f"{predicted.shape}",
            do="compare maps of the same image at the same resolution",
        )
