"""What the public code of COIN does, done literally: slow, whole-image, one thing at a time.

Written from a description of its behaviour, to measure against and to compare results with. Never
imported by the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

Bool = NDArray[np.bool_]
Labels = NDArray[np.int32]
EPSILON = 1e-5


# Step 1: features at pixel resolution, centroids, similarity, transport.


def windows(shape: tuple[int, int], side: int, stride: int) -> Iterator[tuple[int, int]]:
    """(y, x) of the windows in raster order, the last of a row or column shifted to the border."""
    tops: list[int] = []
    lefts: list[int] = []
    for length, starts in ((shape[0], tops), (shape[1], lefts)):
        at = 0
        while True:
            starts.append(min(at, length - side))
            if starts[-1] + side >= length:
                break
            at += stride
    for y in tops:
        for x in lefts:
            yield y, x


def window_tokens(
    image: NDArray[np.uint8],
    tokens: Callable[[Tensor], Tensor],
    *,
    zoom: float,
    side: int,
    stride: int,
    patch: int,
    mean: Sequence[float],
    std: Sequence[float],
    hflip: bool,
) -> Iterator[tuple[int, int, Tensor]]:
    """(y, x, (D, h, w)) window by window: bicubic zoom of the 8-bit crop, then to whole patches."""
    from PIL import Image

    for y, x in windows(image.shape[:2], side, stride):
        zoomed = round(side * zoom)
        crop = Image.fromarray(image[y : y + side, x : x + side])
        crop = crop.resize((zoomed, zoomed), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255
        pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        final = -(-zoomed // patch) * patch
        pixels = interpolate(pixels[None], (final, final), mode="bicubic", align_corners=False)
        if hflip:
            both = tokens(torch.cat([pixels, pixels.flip(3)]))
            yield y, x, (both[0] + both[1].flip(2)) / 2
        else:
            yield y, x, tokens(pixels)[0]


def accumulate(
    parts: Iterable[tuple[int, int, Tensor]], shape: tuple[int, int], side: int, dim: int
) -> Tensor:
    """(D, H, W) float32: every window's tokens up-sampled to its pixels and averaged."""
    total = torch.zeros(dim, *shape)
    count = torch.zeros(1, *shape)
    for y, x, tokens in parts:
        up = interpolate(tokens[None].float(), (side, side), mode="bilinear", align_corners=False)[
            0
        ]
        total[:, y : y + side, x : x + side] += up
        count[:, y : y + side, x : x + side] += 1
    total /= count
    return total


def centroids(features: Sequence[Tensor], masks: Sequence[Bool], image: int) -> Tensor:
    """(2, D): background of one image, foreground of all, every foreground feature in one array."""
    foreground, background = [], None
    for i, (pixel, mask) in enumerate(zip(features, masks, strict=True)):
        unit = pixel / pixel.norm(dim=0, keepdim=True).clamp(min=1e-12)
        inside = torch.from_numpy(mask)
        foreground.append(unit[:, inside])
        if i == image:
            background = unit[:, ~inside].mean(dim=1)
    assert background is not None
    return torch.stack([background, torch.cat(foreground, dim=1).mean(dim=1)])


def similarity(features: Tensor, vectors: Tensor) -> NDArray[np.float32]:
    """(2, H, W) cosines, each channel to [0, 1], background = max(background, 1 - foreground)."""
    unit = features / features.norm(dim=0, keepdim=True).clamp(min=1e-12)
    maps = torch.einsum("cd,dhw->chw", vectors / vectors.norm(dim=1, keepdim=True), unit)
    return _complement(_unit(maps.numpy()))


def transport(maps: NDArray[np.float32], *, lambda_: float = 0.1) -> NDArray[np.float32]:
    """(2, H, W) S^OT of the Sinkhorn loop with its absolute tolerance (so, two iterations)."""
    s = maps.reshape(2, -1).T
    m = len(s)
    kernel = np.exp(-(1 - s) / lambda_)
    u, v = np.float32(1 / m), np.full(2, 0.5, dtype=np.float32)
    r, c = np.ones(m, dtype=np.float32), np.ones(2, dtype=np.float32)
    for _ in range(100):
        old = r
        r = u / (kernel @ c)
        c = v / (kernel.T @ r)
        if np.abs(r - old).mean() < 1e-2:
            break
    plan = r[:, None] * kernel * c
    low = plan.min(axis=0)
    plan = (plan - low) / np.maximum(plan.max(axis=0) - low, EPSILON)
    return _complement(_unit((s * plan).T.reshape(maps.shape)))


def _unit(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    low = maps.min(axis=(1, 2), keepdims=True)
    return np.clip((maps - low) / (maps.max(axis=(1, 2), keepdims=True) - low), 0, 1)


def _complement(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([np.maximum(maps[0], 1 - maps[1]), maps[1]])


# Step 2: instances, prompts, scores, pseudo labels, edge targets.


def instances(
    mask: Bool, *, footprint: int = 12, sigma: float = 1.0, dtype: type = np.float64
) -> Labels:
    """Watershed of the distance map from the peaks of a disk footprint.

    ``dtype`` of the map: float64 is what SciPy makes; rounding decides between equal peaks.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label
    from skimage.feature import peak_local_max
    from skimage.morphology import disk
    from skimage.segmentation import watershed

    distance = gaussian_filter(distance_transform_edt(mask).astype(dtype), sigma)
    at = peak_local_max(distance, footprint=disk(footprint), labels=mask.astype(int))
    peaks = np.zeros(mask.shape, dtype=bool)
    peaks[tuple(at.T)] = True
    return watershed(-distance, markers=label(peaks)[0], mask=mask).astype(np.int32)


def prompts(label_map: Labels) -> NDArray[np.float64]:
    """(N, 2) yx, the truncated mean position of each instance, read off the full image."""
    points = []
    for i in np.unique(label_map)[1:]:
        y, x = np.where(label_map == i)
        points.append((int(y.mean()), int(x.mean())))
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def prompt_one_by_one(
    decode: Callable[[NDArray[np.float64]], Any],
    points: NDArray[np.float64],
    shape: tuple[int, int],
) -> list[Bool]:
    """N full-size masks (H, W), one call of the segmenter for each point."""
    masks = []
    for point in points:
        found = decode(point[None])
        full = np.full(shape, False)  # np.zeros would not touch the memory
        y0, x0, y1, x1 = found.boxes[0].tolist()
        full[y0:y1, x0:x1] = found.crops[0]
        masks.append(full)
    return masks


def sam_one_by_one(
    sam: Any, embedding: Tensor, points: NDArray[np.float64], shape: tuple[int, int]
) -> list[Bool]:
    """N full-size masks of a segment-anything model: all three candidates at full size, best kept.

    ``embedding`` (1, 256, 64, 64); images no larger than the encoder's input are assumed square.
    """
    side = sam.image_encoder.img_size
    masks = []
    for y, x in points:
        xy = torch.tensor([[[x, y]]], dtype=torch.float32) * (side / shape[0])
        sparse, dense = sam.prompt_encoder(
            points=(xy, torch.ones(1, 1, dtype=torch.int)), boxes=None, masks=None
        )
        logits, quality = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        full = sam.postprocess_masks(logits, (side, side), shape)[0] > sam.mask_threshold
        masks.append(full[int(quality[0].argmax())].numpy())
    return masks


def scores(label_map: Labels, masks: Sequence[Bool]) -> NDArray[np.float64]:
    """(N,) IoU of each instance with its mask over the full image."""
    out = []
    for i, mask in enumerate(masks, start=1):
        own = label_map == i
        out.append((own & mask).sum() / ((own | mask).sum() + EPSILON))
    return np.array(out)


def pseudo_labels(
    label_map: Labels, masks: Sequence[Bool], scores: NDArray[Any], accepted: Bool
) -> tuple[Labels, Bool]:
    """(ids, ignore): accepted masks painted in ascending score over the ignored predictions."""
    ignore_id = np.iinfo(np.int32).max
    painted = np.zeros_like(label_map)
    for i in np.unique(label_map)[1:]:
        painted[label_map == i] = ignore_id
    new = 0
    for i in np.argsort(scores, kind="stable"):
        if accepted[i]:
            new += 1
            painted[masks[i]] = new
    ignore = painted == ignore_id
    return np.where(ignore, 0, painted).astype(np.int32), ignore


def edge_target(label_map: Labels) -> Bool:
    """Union of the Canny edges (100, 200) of every instance of a training crop."""
    edge = np.zeros(label_map.shape, dtype=bool)
    detect = _opencv_canny() or canny
    for i in np.unique(label_map)[1:]:
        edge |= detect((label_map == i).astype(np.uint8) * 255)
    return edge


def _opencv_canny() -> Callable[[NDArray[np.uint8]], Bool] | None:
    try:
        import cv2  # type: ignore[import-not-found]
    except ImportError:
        return None
    cv2.setNumThreads(1)
    return lambda mask: cv2.Canny(mask, 100, 200) > 0


def canny(mask: NDArray[np.uint8], low: int = 100, high: int = 200) -> Bool:
    """Canny's edges as OpenCV defines them: 3x3 Sobel, |dx| + |dy|, thinning, hysteresis."""
    from scipy.ndimage import correlate, label

    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    dx = correlate(mask.astype(np.int32), kernel, mode="nearest")
    dy = correlate(mask.astype(np.int32), kernel.T, mode="nearest")
    strength = np.abs(dx) + np.abs(dy)
    padded = np.pad(strength, 1)

    def beside(y: int, x: int) -> NDArray[np.int32]:
        return padded[1 + y : 1 + y + mask.shape[0], 1 + x : 1 + x + mask.shape[1]]

    across, down = np.abs(dx) * np.tan(np.pi / 8), np.abs(dx) * np.tan(3 * np.pi / 8)
    horizontal, vertical = np.abs(dy) < across, np.abs(dy) > down
    same_sign = (dx < 0) == (dy < 0)
    keep = np.where(
        horizontal,
        (strength > beside(0, -1)) & (strength >= beside(0, 1)),
        np.where(
            vertical,
            (strength > beside(-1, 0)) & (strength >= beside(1, 0)),
            np.where(
                same_sign,
                (strength > beside(-1, -1)) & (strength > beside(1, 1)),
                (strength > beside(-1, 1)) & (strength > beside(1, -1)),
            ),
        ),
    )
    candidates = keep & (strength > low)
    parts, n = label(candidates, structure=np.ones((3, 3)))
    strong = np.zeros(n + 1, dtype=bool)
    strong[np.unique(parts[candidates & (strength > high)])] = True
    strong[0] = False
    return strong[parts]


# The evaluator.


def evaluate(true: Labels, predicted: Labels) -> dict[str, float]:
    """aji, pq, sq, dq, dice, miou, mfn, mfp of one image, pair by pair over full-size masks."""
    out = _pixel_metrics(true > 0, predicted > 0)
    try:
        return {"aji": _aji(true, predicted), **_panoptic(true, predicted), **out}
    except IndexError:  # gaps in the predicted ids
        return dict.fromkeys(("aji", "pq", "sq", "dq"), 0.0) | out


def _aji(true: Labels, predicted: Labels) -> float:
    ids = np.unique(predicted)[1:]
    used = np.zeros(len(ids), dtype=bool)
    above = below = 0
    for g in np.unique(true)[1:]:
        own = true == g
        best, best_iou, chosen = (0, 0), 0.0, None
        for q in np.unique(predicted[own]):
            if q == 0:
                continue
            other = predicted == q
            both, either = int((own & other).sum()), int((own | other).sum())
            if both / either > best_iou:
                best, best_iou, chosen = (both, either), both / either, q
        if chosen is None:
            below += int(own.sum())
            continue
        above, below = above + best[0], below + best[1]
        used[chosen - 1] = True
    for position, q in enumerate(ids):
        if not used[position]:
            below += int((predicted == q).sum())
    return above / below


def _panoptic(true: Labels, predicted: Labels) -> dict[str, float]:
    ids = np.unique(predicted)[1:]
    evaluated = np.unique(true)[1:][:-1]  # the last true instance is lost
    masks = [predicted == q for q in ids]
    matched: set[int] = set()
    tp, total = 0, 0.0
    for g in evaluated:
        own = true == g
        for q in np.unique(predicted[own]):
            if q == 0:
                continue
            other = masks[q - 1]
            iou = (own & other).sum() / (own | other).sum()
            if iou > 0.5:
                tp, total = tp + 1, total + float(iou)
                matched.add(int(q))
    fp, fn = len(ids) - len(matched), len(evaluated) - tp
    dq = tp / (tp + fp / 2 + fn / 2 + 1e-6)
    sq = total / (tp + 1e-6)
    return {"pq": dq * sq, "sq": sq, "dq": dq}


def _pixel_metrics(true: Bool, predicted: Bool) -> dict[str, float]:
    rows = []
    for t, p in ((~true, ~predicted), (true, predicted)):
        hit, union = (t & p).sum(), (t | p).sum()
        rows.append((hit / union, (t.sum() - hit) / union, (p.sum() - hit) / union))
    miou, mfn, mfp = np.mean(rows, axis=0).tolist()
    dice = 2 * ((true & predicted).sum() + 1) / (true.sum() + predicted.sum() + 1)
    return {"dice": float(dice), "miou": miou, "mfn": mfn, "mfp": mfp}
