"""Label maps and instance masks: the two forms in which instances travel between the steps.

A label map is (H, W) int32, 0 = background, ids 1..N without gaps. ``InstanceMasks`` holds masks
that may overlap (a promptable segmenter draws each instance on its own), cropped to their boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
LabelMap = NDArray[np.int32]


def numbered(label_map: NDArray[np.integer]) -> tuple[NDArray[np.int64], LabelMap]:
    """The ids (N,) of a map but 0, ascending, and the map with 1..N in their place.

    (H, W) of any integer type; 0 stays background.
    """
    flat = label_map.ravel()
    largest, smallest = int(flat.max(initial=0)), int(flat.min(initial=0))
    if smallest >= 0 and largest <= 4 * flat.size + 1024:  # counting beats sorting
        present = np.bincount(flat.astype(np.int64, copy=False), minlength=largest + 1) > 0
        present[0] = False
        new = np.cumsum(present, dtype=np.int32) * present
        return np.flatnonzero(present), new[label_map]
    ids, inverse = np.unique(label_map, return_inverse=True)
    new = np.zeros(len(ids), dtype=np.int32)
    new[ids != 0] = np.arange(1, np.count_nonzero(ids) + 1)
    return ids[ids != 0].astype(np.int64), new[inverse.reshape(label_map.shape)]


def relabel(label_map: NDArray[np.integer]) -> LabelMap:
    """Ids made contiguous, 1..N in their old order; 0 stays background. (H, W) int -> (H, W)
    int32."""
    return numbered(label_map)[1]


def keep_instances(label_map: LabelMap, keep: BoolArray) -> LabelMap:
    """The instances i + 1 with ``keep[i]`` (N,), renumbered without gaps. (H, W) int32."""
    table = np.zeros(len(keep) + 1, dtype=np.int32)
    table[1:] = np.where(keep, np.cumsum(keep), 0)
    return table[label_map]


def count(label_map: LabelMap) -> int:
    """Number of instances N of a contiguous label map."""
    return int(label_map.max(initial=0))


def areas(label_map: LabelMap) -> NDArray[np.int64]:
    """(N,) pixels of the instances 1..N."""
    return np.bincount(label_map.ravel(), minlength=count(label_map) + 1)[1:]


def means(values: NDArray[Any], ids: NDArray[np.integer], n: int) -> NDArray[np.float64]:
    """(n,) mean of the values whose id, of the same shape, is 1..n; NaN for an id without any."""
    flat = ids.ravel()
    sums = np.bincount(flat, weights=values.ravel(), minlength=n + 1)[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / np.bincount(flat, minlength=n + 1)[1:]


def centroids(label_map: LabelMap) -> NDArray[np.float64]:
    """(N, 2) mean (y, x) of the pixels of the instances 1..N; NaN for an id without pixels."""
    at = np.nonzero(label_map)
    return np.stack([means(c, label_map[at], count(label_map)) for c in at], axis=1)


def first_pixels(label_map: LabelMap, *order: NDArray[Any]) -> NDArray[np.int64]:
    """(N,) flat index of the pixel of each id that comes first by ``order``, maps (H, W): the
    smallest of the first one, of equal ones the smallest of the next, then in raster order."""
    at = np.flatnonzero(label_map)
    ids = label_map.ravel()[at]
    sort = np.lexsort((at, *(keys.ravel()[at] for keys in order[::-1]), ids))
    return at[sort][np.unique(ids[sort], return_index=True)[1]]


def boxes(label_map: LabelMap) -> NDArray[np.int64]:
    """(N, 4) bbox_yxyx, half-open; zeros for an id without pixels."""
    from scipy.ndimage import find_objects

    found = find_objects(label_map)
    out = np.zeros((len(found), 4), dtype=np.int64)
    for i, box in enumerate(found):
        if box is not None:
            out[i] = box[0].start, box[1].start, box[0].stop, box[1].stop
    return out


def boundaries(label_map: LabelMap) -> BoolArray:
    """(H, W) True on the pixels of an instance that touch (4-connected) another id or
    background."""
    edge = np.zeros(label_map.shape, dtype=bool)
    for ids, out in ((label_map, edge), (label_map.T, edge.T)):
        differs = ids[1:] != ids[:-1]
        out[1:] |= differs
        out[:-1] |= differs
    return edge & (label_map > 0)


@dataclass(frozen=True)
class InstanceMasks:
    """N binary masks that may overlap, each cropped to its box.

    ``boxes`` (N, 4) int64 bbox_yxyx half-open (all zero for an empty mask), ``crops`` N bool arrays
    of the boxes' sizes, ``predicted_iou`` (N,) float32, the segmenter's own estimate in [0, 1].
    """

    boxes: NDArray[np.int64]
    crops: list[BoolArray]
    predicted_iou: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.crops)

    def areas(self) -> NDArray[np.int64]:
        """(N,) pixels of each mask."""
        return np.array([int(c.sum()) for c in self.crops], dtype=np.int64)

    def take(self, which: NDArray[np.integer]) -> InstanceMasks:
        """The masks at the indices ``which``, in that order."""
        crops = [self.crops[i] for i in which.tolist()]
        return InstanceMasks(self.boxes[which], crops, self.predicted_iou[which])

    def paint(self, shape: tuple[int, ...], scores: NDArray[np.floating]) -> LabelMap:
        """All masks in one label map of ``shape`` (H, W), ids and layers in ascending score (N,).

        So the best one wins where masks overlap, and of equal scores the last. A mask that others
        cover completely is gone; the ids have no gap.
        """
        return relabel(self.layers(shape, scores))

    def layers(self, shape: tuple[int, ...], scores: NDArray[np.floating]) -> LabelMap:
        """As :meth:`paint`, each id the place of a mask in ascending score, from 1."""
        out = np.zeros(shape, dtype=np.int32)
        for new_id, i in enumerate(np.argsort(scores, kind="stable").tolist(), start=1):
            y0, x0, y1, x1 = self.boxes[i].tolist()
            out[y0:y1, x0:x1][self.crops[i]] = new_id
        return out

    def best_iou(self, label_map: LabelMap) -> NDArray[np.float64]:
        """(N,) highest IoU of each mask with an instance of a contiguous label map; 0 if none."""
        size, own, best = areas(label_map), self.areas(), np.zeros(len(self))
        for i, (y0, x0, y1, x1) in enumerate(self.boxes.tolist()):
            both = np.bincount(label_map[y0:y1, x0:x1][self.crops[i]], minlength=len(size) + 1)[1:]
            if both.any():
                best[i] = (both / (size + own[i] - both)).max()
        return best

    def distinct(
        self, scores: NDArray[np.floating], max_iou: float, *, max_contained: float = 1.0
    ) -> NDArray[np.int64]:
        """Indices of the masks that no better one covers, best first.

        Greedy, in descending score (N,), of equal scores the first: a mask is left out if its IoU
        with one already taken is above ``max_iou``, or if both share more than ``max_contained``
        of the smaller one: a part of a nucleus, or two nuclei drawn as one, has a low IoU with it.
        """
        areas = self.areas()
        taken = np.zeros(0, dtype=np.int64)
        for i in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist():
            for j in taken[self.near(i, taken)].tolist():
                both = self.shared(i, j)
                smaller = max_contained * min(areas[i], areas[j])
                if both > max_iou * (areas[i] + areas[j] - both) or both > smaller:
                    break
            else:
                taken = np.append(taken, i)
        return taken

    def near(self, i: int, others: NDArray[np.integer]) -> BoolArray:
        """Which of ``others`` (M,) have a box that shares a pixel with that of mask ``i``."""
        own, boxes = self.boxes[i], self.boxes[others]
        found: BoolArray = (
            np.minimum(own[2:], boxes[:, 2:]) > np.maximum(own[:2], boxes[:, :2])
        ).all(axis=1)
        return found

    def shared(self, i: int, j: int) -> int:
        """Pixels that masks ``i`` and ``j`` have in common; their boxes share some."""
        start = np.maximum(self.boxes[i, :2], self.boxes[j, :2])
        stop = np.minimum(self.boxes[i, 2:], self.boxes[j, 2:])
        return int(np.count_nonzero(self._within(i, start, stop) & self._within(j, start, stop)))

    def _within(self, i: int, start: NDArray[np.int64], stop: NDArray[np.int64]) -> BoolArray:
        """Mask ``i`` in a window of the image that lies in its box."""
        (y0, x0), (y1, x1) = start - self.boxes[i, :2], stop - self.boxes[i, :2]
        return self.crops[i][y0:y1, x0:x1]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays for the store: boxes, predicted_iou and all crops bit-packed in a row."""
        flat = np.concatenate([c.ravel() for c in self.crops]) if self.crops else np.zeros(0, bool)
        return {"boxes": self.boxes, "predicted_iou": self.predicted_iou, "bits": np.packbits(flat)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> InstanceMasks:
        """Inverse of :meth:`to_arrays`."""
        bbox = np.asarray(arrays["boxes"], dtype=np.int64)
        shapes = bbox[:, 2:] - bbox[:, :2]
        ends = np.cumsum(shapes.prod(axis=1))
        total = int(ends[-1]) if len(ends) else 0
        flat = np.unpackbits(np.asarray(arrays["bits"], dtype=np.uint8), count=total).astype(bool)
        # np.split makes one piece even of nothing.
        pieces = np.split(flat, ends[:-1]) if len(bbox) else []
        crops = [c.reshape(s) for c, s in zip(pieces, shapes, strict=True)]
        return cls(bbox, crops, np.asarray(arrays["predicted_iou"], dtype=np.float32))

    @classmethod
    def join(cls, parts: Sequence[InstanceMasks]) -> InstanceMasks:
        """All masks of ``parts`` (at least one) in a row."""
        return cls(
            np.concatenate([p.boxes for p in parts]),
            [crop for p in parts for crop in p.crops],
            np.concatenate([p.predicted_iou for p in parts]),
        )

    @classmethod
    def from_label_map(cls, label_map: LabelMap) -> InstanceMasks:
        """The instances of a label map as masks, predicted IoU 1."""
        bbox = boxes(label_map)
        crops = [
            label_map[y0:y1, x0:x1] == i + 1 for i, (y0, x0, y1, x1) in enumerate(bbox.tolist())
        ]
        return cls(bbox, crops, np.ones(len(bbox), dtype=np.float32))
