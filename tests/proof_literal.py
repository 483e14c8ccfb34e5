"""Steps 1 and 2 of COIN pixel by pixel: the formulas of the paper, the steps of its public code.

For one test, which walks a tile through the pipeline and through these functions beside it. They
are slow on purpose and share nothing with the package: loops for everything that is a formula, and
SciPy, scikit-image and pydensecrf where the public code calls them too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, exp, floor, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.integer]


# Step 1: windows, features, centroids, similarity, transport, CRF.


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """Raster scan along one axis; the last window is shifted back so that it ends on the border."""
    starts, at = [], 0
    while at + side < length:
        starts.append(at)
        at += stride
    return [*starts, length - side]


def cubic_weights(before: int, after: int) -> Floats:
    """(after, before) of cubic convolution with a = -3/4, half-pixel centres, clamped ends."""
    a, out = -0.75, np.zeros((after, before))
    for i in range(after):
        place = (i + 0.5) * before / after - 0.5
        for tap in range(floor(place) - 1, floor(place) + 3):
            t = abs(place - tap)
            if t <= 1:
                weight = (a + 2) * t**3 - (a + 3) * t**2 + 1
            else:
                weight = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
            out[i, min(max(tap, 0), before - 1)] += weight
    return out


def window_tokens(
    image: NDArray[np.uint8],
    forward: Callable[[Tensor], Tensor],
    *,
    zoom: int,
    patch: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[list[tuple[int, int]], int, list[Floats]]:
    """Corners, side and tokens (D, h, w) of every window: a crop of 1/zoom of the image's shorter
    side, magnified again, made divisible by the patch, alone and mirrored through the network."""
    side = floor(min(image.shape[:2]) / zoom)
    stride = int(side * 2 / 3)
    zoomed, final = side * zoom, patch * ceil(side * zoom / patch)
    magnify, fit = cubic_weights(side, zoomed), cubic_weights(zoomed, final)
    corners, tokens = [], []
    for y in window_starts(image.shape[0], side, stride):
        for x in window_starts(image.shape[1], side, stride):
            planes = []
            for channel in range(3):
                crop = image[y : y + side, x : x + side, channel] / 255
                large = np.clip(magnify @ crop @ magnify.T, 0, 1)
                planes.append(fit @ ((large - mean[channel]) / std[channel]) @ fit.T)
            pixels = torch.tensor(np.stack(planes), dtype=torch.float32)[None]
            plain, mirrored = forward(pixels)[0], forward(pixels.flip(3))[0].flip(2)
            corners.append((y, x))
            tokens.append(((plain + mirrored) / 2).double().numpy())
    return corners, side, tokens


def pixel_features(
    shape: tuple[int, int],
    corners: Sequence[tuple[int, int]],
    side: int,
    tokens: Sequence[NDArray[np.floating]],
) -> Floats:
    """(H, W, D): tokens up-sampled bilinearly to their window, overlapping windows averaged."""
    total, count = np.zeros((*shape, len(tokens[0]))), np.zeros(shape)
    for (y, x), grid in zip(corners, tokens, strict=True):
        grid = grid.astype(np.float64)
        height, width = grid.shape[1:]
        for i in range(side):
            v = min(max((i + 0.5) * height / side - 0.5, 0), height - 1)
            top = min(int(v), height - 2)
            for j in range(side):
                u = min(max((j + 0.5) * width / side - 0.5, 0), width - 1)
                left = min(int(u), width - 2)
                dv, du = v - top, u - left
                total[y + i, x + j] += (
                    (1 - dv) * (1 - du) * grid[:, top, left]
                    + (1 - dv) * du * grid[:, top, left + 1]
                    + dv * (1 - du) * grid[:, top + 1, left]
                    + dv * du * grid[:, top + 1, left + 1]
                )
                count[y + i, x + j] += 1
    return total / count[..., None]


def class_means(features: Sequence[Floats], masks: Sequence[Bools], image: int) -> Floats:
    """(2, D) centroids: background of one image, foreground of all images, of unit vectors."""
    sums, counts = [0.0, 0.0], [0, 0]
    for k, (pixels, mask) in enumerate(zip(features, masks, strict=True)):
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                unit = pixels[y, x] / sqrt(pixels[y, x] @ pixels[y, x])
                if mask[y, x] or k == image:
                    sums[int(mask[y, x])] = sums[int(mask[y, x])] + unit
                    counts[int(mask[y, x])] += 1
    return np.stack([sums[0] / counts[0], sums[1] / counts[1]])


def similarity(features: Floats, centroids: Floats) -> Floats:
    """(2, H, W): Eq. 3, each channel stretched to [0, 1], background = max(it, 1 - foreground)."""
    height, width = features.shape[:2]
    maps = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            f = features[y, x]
            for c in range(2):
                v = centroids[c]
                maps[c, y, x] = (v @ f) / (sqrt(v @ v) * sqrt(f @ f))
    return complemented(stretched(maps))


def stretched(maps: NDArray[Any]) -> NDArray[Any]:
    """Each channel to [0, 1]."""
    out = np.zeros_like(maps)
    for c in range(len(maps)):
        low, high = maps[c].min(), maps[c].max()
        out[c] = (maps[c] - low) / (high - low)
    return out


def complemented(maps: Floats) -> Floats:
    out = maps.copy()
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            out[0, y, x] = max(maps[0, y, x], 1 - maps[1, y, x])
    return out


def transport(maps: Floats, lambda_: float) -> tuple[Floats, int]:
    """S^OT (2, H, W) of Eq. 4 and the number of Sinkhorn iterations: pixels uniform, classes half
    and half, at most 100, an absolute tolerance of 1e-2 on the pixels' scaling."""
    shape = maps.shape[1:]
    pixels = [(float(b), float(f)) for b, f in zip(maps[0].ravel(), maps[1].ravel(), strict=True)]
    m = len(pixels)
    kernel = [(exp(-(1 - b) / lambda_), exp(-(1 - f) / lambda_)) for b, f in pixels]
    r, c, iterations = [1.0] * m, [1.0, 1.0], 0
    for _ in range(100):
        old, iterations = r, iterations + 1
        r = [1 / m / (k[0] * c[0] + k[1] * c[1]) for k in kernel]
        c = [0.5 / sum(k[j] * row for k, row in zip(kernel, r, strict=True)) for j in range(2)]
        if sum(abs(a - b) for a, b in zip(r, old, strict=True)) / m < 1e-2:
            break
    product = []
    for j in range(2):
        column = [row * k[j] * c[j] for row, k in zip(r, kernel, strict=True)]
        low, high = min(column), max(column)
        scaled = [(t - low) / max(high - low, 1e-5) for t in column]
        product.append([s[j] * t for s, t in zip(pixels, scaled, strict=True)])
    refined = np.array(product).reshape(2, *shape)
    return complemented(stretched(refined)), iterations


def crf(image: NDArray[np.uint8], maps: NDArray[np.floating]) -> NDArray[np.float32]:
    """(2, H, W) after ten mean-field iterations with the constants of DeepLab."""
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax

    height, width = image.shape[:2]
    model = DenseCRF2D(width, height, 2)
    model.setUnaryEnergy(unary_from_softmax(maps.astype(np.float32)))
    model.addPairwiseGaussian(sxy=1, compat=3)
    model.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(image), compat=4)
    return np.array(model.inference(10), dtype=np.float32).reshape(2, height, width)


# Step 2: instances, prompts, scores, threshold, pseudo labels.


def instances(mask: Bools) -> Labels:
    """Eq. 5: distance map, Gaussian, peaks of a disk of 12 px, watershed. Border peaks are lost.

    In single precision, as the package keeps the map: where a pixel is as near to one instance as
    to another, rounding decides.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label
    from skimage.feature import peak_local_max
    from skimage.morphology import disk
    from skimage.segmentation import watershed

    distance = gaussian_filter(distance_transform_edt(mask).astype(np.float32), sigma=1)
    peaks = np.zeros(mask.shape, dtype=bool)
    for y, x in peak_local_max(distance, footprint=disk(12), labels=mask.astype(int)):
        peaks[y, x] = True
    return watershed(-distance, markers=label(peaks)[0], mask=mask)


def prompts(labels: Labels) -> list[tuple[int, int]]:
    """(y, x) of each instance: the mean of its pixels, cut to whole numbers."""
    points = []
    for i in range(1, labels.max() + 1):
        y, x = np.nonzero(labels == i)
        points.append((int(sum(y) / len(y)), int(sum(x) / len(x))))
    return points


def prompted(
    sam: Any, embedding: Tensor, point: tuple[int, int], shape: tuple[int, int]
) -> tuple[Bools, float]:
    """The mask (H, W) of one positive point, of three the one of the highest predicted IoU."""
    side = sam.image_encoder.img_size
    ratio = side / max(shape)
    used = (int(shape[0] * ratio + 0.5), int(shape[1] * ratio + 0.5))
    xy = [[[point[1] * used[1] / shape[1], point[0] * used[0] / shape[0]]]]
    with torch.inference_mode():
        sparse, dense = sam.prompt_encoder(
            points=(torch.tensor(xy), torch.ones(1, 1, dtype=torch.int)), boxes=None, masks=None
        )
        logits, quality = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        full = sam.postprocess_masks(logits, used, shape)[0] > sam.mask_threshold
    best = max(range(3), key=lambda k: float(quality[0, k]))
    return full[best].numpy(), float(quality[0, best])


def agreement(labels: Labels, masks: Sequence[Bools]) -> list[float]:
    """Eq. 6: intersection over union of each instance with its mask."""
    scores = []
    for i, mask in enumerate(masks, start=1):
        both = either = 0
        for own, drawn in zip((labels == i).ravel(), mask.ravel(), strict=True):
            both, either = both + (own and drawn), either + (own or drawn)
        scores.append(both / (either + 1e-5))
    return scores


def threshold(scores: Sequence[float]) -> float:
    """Eq. 7 as the public code has it: mean plus population standard deviation, at most 0.9."""
    mean = sum(scores) / len(scores)
    variance = sum((s - mean) ** 2 for s in scores) / len(scores)
    return min(mean + sqrt(variance), 0.9)


def pseudo_labels(
    labels: Labels, masks: Sequence[Bools], scores: Sequence[float], bound: float
) -> tuple[Labels, Bools]:
    """Eqs. 8 and 9: predicted pixels ignored, then the masks of a score above the bound painted,
    the best last."""
    ignore = -1
    painted = np.where(labels > 0, ignore, 0)
    accepted = [i for i in range(len(scores)) if scores[i] > bound]
    for new, i in enumerate(sorted(accepted, key=lambda i: scores[i]), start=1):
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                if masks[i][y, x]:
                    painted[y, x] = new
    return np.where(painted == ignore, 0, painted), painted == ignore
