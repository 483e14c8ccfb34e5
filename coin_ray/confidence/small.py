"""The small promptable segmenter on images of any size: windows, prompts in batches, masks as
crops.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.small_model import SIDE, WINDOW, SmallSam
from coin_ray.imaging.windows import origins
from coin_ray.labels import InstanceMasks

STRIDE = 192  # px: a prompt is at most 96 px from the centre of its window
ENCODE_BATCH = 4  # windows


class SmallSegmenter:
    """``encode(image)`` once, then ``decode`` any number of points, ``batch`` at a time; see
    ``PromptSegmenter``."""

    def __init__(self, model: SmallSam, *, batch: int, device: str = "cpu") -> None:
        self.device, self.batch = torch.device(device), batch
        self.model = model.to(self.device).float().eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """image (H, W, 3) uint8 -> ``embedding`` (n, C, 32, 32) fp16 of n overlapping 256-px
        windows.

        Their places follow from the image's shape. An image smaller than a window is mirrored.
        """
        height, width = image.shape[:2]
        lack = [max(0, WINDOW - n) for n in (height, width)]
        around = [(n // 2, n - n // 2) for n in lack]
        pixels = torch.from_numpy(np.pad(image, (*around, (0, 0)), "symmetric")).permute(2, 0, 1)
        corners = window_corners((height, width)) + np.array([n // 2 for n in lack])
        parts = []
        for start in range(0, len(corners), ENCODE_BATCH):
            chosen = corners[start : start + ENCODE_BATCH]
            windows = torch.stack([pixels[:, y : y + WINDOW, x : x + WINDOW] for y, x in chosen])
            found = self.model.embed(windows.to(self.device).float() / 255)
            parts.append(found.half().cpu().numpy())
        return {"embedding": np.concatenate(parts)}

    @torch.inference_mode()
    def decode(
        self, embedding: dict[str, NDArray[np.generic]], prompts: Prompts, shape: tuple[int, int]
    ) -> InstanceMasks:
        """One mask a point: the best of three by predicted IoU, the piece under the prompt, holes
        filled.

        Points in px of the image whose ``shape`` (H, W) was encoded; ValueError for other prompts,
        which it was not trained with. A point's mask does not depend on the other points. Empty
        where the model sees nothing at the prompt.
        """
        if not prompts.ambiguous:
            raise ValueError("the small segmenter takes points alone")
        height, width = (int(n) for n in shape[:2])
        corners = window_corners((height, width))
        tokens = torch.from_numpy(np.asarray(embedding["embedding"]))
        if len(tokens) != len(corners):
            raise ValueError(
                f"{len(tokens)} windows do not belong to an image of {height} x {width}"
            )
        points = np.asarray(prompts.points_yx, dtype=np.float64).reshape(-1, 2)
        offset = points[:, None] - (corners[None] + WINDOW / 2)
        which = np.abs(offset).max(axis=2).argmin(axis=1) if len(points) else np.zeros(0, int)
        # Pixel (0, 0) has its middle at (0.5, 0.5) of the model's continuous coordinates.
        local = torch.from_numpy(points + 0.5 - corners[which]).float()
        boxes = np.zeros((len(points), 4), dtype=np.int64)
        crops: list[NDArray[np.bool_]] = [np.zeros((0, 0), dtype=bool)] * len(points)
        quality = np.zeros(len(points), dtype=np.float32)
        # Prompts of one window lie together, so that a batch reads few windows.
        order = np.argsort(which, kind="stable")
        for start in range(0, len(order), self.batch):
            ids = order[start : start + self.batch]
            used, row = np.unique(which[ids], return_inverse=True)
            masks, starts, iou = self._masks(tokens[used], torch.from_numpy(row), local[ids])
            for k, i in enumerate(ids):
                quality[i] = iou[k]
                corner = starts[k] + corners[which[i]]
                boxes[i], crops[i] = _place(masks[k], corner, points[i], (height, width))
        return InstanceMasks(boxes, crops, quality)

    def _masks(
        self, windows: torch.Tensor, row: torch.Tensor, points_yx: torch.Tensor
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float32]]:
        """Best mask (N, 80, 80) of each point, where it starts in its window, and its predicted
        IoU.
        """
        around, starts, points_xy = self.model.neighbourhoods(
            windows.to(self.device).float(), row.to(self.device), points_yx.to(self.device)
        )
        logits, predicted = self.model.predict(around, points_xy)
        iou, best = predicted.max(dim=1)
        chosen = logits[torch.arange(len(best), device=best.device), best][:, None]
        full = functional.interpolate(chosen, (SIDE, SIDE), mode="bilinear", align_corners=False)
        quality = iou.float().clamp(0, 1).cpu().numpy()
        return (full[:, 0] > 0).cpu().numpy(), starts.cpu().numpy(), quality


def window_corners(shape: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 2) yx of the windows in the image; negative where the image is smaller and was padded."""
    axes = []
    for length in shape:
        lack = max(0, WINDOW - length)
        axes.append([o - lack // 2 for o in origins(max(length, WINDOW), WINDOW, STRIDE)])
    return np.array([(y, x) for y in axes[0] for x in axes[1]], dtype=np.int64)


def _place(
    mask: NDArray[np.bool_],
    corner: NDArray[np.int64],
    point: NDArray[np.float64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The piece of a decoded mask at the prompt as (bbox_yxyx, crop) in the image."""
    from scipy.ndimage import binary_fill_holes, find_objects, label

    y0, x0 = (int(v) for v in corner)
    inside = np.zeros_like(mask)
    window = np.s_[max(0, -y0) : max(0, shape[0] - y0), max(0, -x0) : max(0, shape[1] - x0)]
    # Filled first: a prompt in the pale centre of a nucleus belongs to the ring around it.
    inside[window] = binary_fill_holes(mask)[window]
    pieces, n = label(inside)
    if n == 0:
        return np.zeros(4, dtype=np.int64), np.zeros((0, 0), dtype=bool)
    at = np.clip(np.rint(point).astype(int) - (y0, x0), 0, np.array(mask.shape) - 1)
    own = int(pieces[at[0], at[1]]) or int(np.bincount(pieces[pieces > 0]).argmax())
    box = find_objects(pieces)[own - 1]
    crop = pieces[box] == own
    top, left = box[0].start + y0, box[1].start + x0
    return np.array([top, left, top + crop.shape[0], left + crop.shape[1]]), crop
