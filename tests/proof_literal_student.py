"""Step 3 of COIN and its evaluator, literally; see ``proof_literal``."""

from __future__ import annotations

from collections.abc import Sequence
from math import atan2, degrees

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.proof_literal import Bools, Labels


def canny(mask: Bools) -> Bools:
    """Eq. 10 for one instance: 3x3 Sobel, |dx| + |dy| above 200 (every edge of a mask is), thinned
    across the edge; of two equal ones the second in reading order goes."""
    height, width = mask.shape
    grey = np.pad(mask.astype(int) * 255, 1, mode="edge")
    dx, dy = np.zeros((2, height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            n = grey[y : y + 3, x : x + 3]
            dx[y, x] = n[0, 2] + 2 * n[1, 2] + n[2, 2] - n[0, 0] - 2 * n[1, 0] - n[2, 0]
            dy[y, x] = n[2, 0] + 2 * n[2, 1] + n[2, 2] - n[0, 0] - 2 * n[0, 1] - n[0, 2]
    strength = np.pad(abs(dx) + abs(dy), 1)
    edge = np.zeros(mask.shape, dtype=bool)
    for y in range(height):
        for x in range(width):
            here = strength[y + 1, x + 1]
            angle = degrees(atan2(abs(dy[y, x]), abs(dx[y, x])))
            if angle < 22.5:
                before, after, tie = strength[y + 1, x], strength[y + 1, x + 2], True
            elif angle > 67.5:
                before, after, tie = strength[y, x + 1], strength[y + 2, x + 1], True
            elif (dx[y, x] < 0) == (dy[y, x] < 0):
                before, after, tie = strength[y, x], strength[y + 2, x + 2], False
            else:
                before, after, tie = strength[y, x + 2], strength[y + 2, x], False
            peak = here > before and (here >= after if tie else here > after)
            edge[y, x] = here > 200 and peak
    return edge


def edge_target(labels: Labels) -> Bools:
    edge = np.zeros(labels.shape, dtype=bool)
    for i in range(1, labels.max() + 1):
        edge |= canny(labels == i)
    return edge


def loss(logits: Tensor, target: Tensor, ignore: Tensor) -> Tensor:
    """Cross entropy over the pixels that have a target, plus one minus the Dice of each crop."""
    entropy, valid, dice = torch.zeros(()), 0, []
    for sample in range(len(logits)):
        keep = ~ignore[sample]
        background, foreground = logits[sample, 0][keep], logits[sample, 1][keep]
        p = torch.exp(foreground) / (torch.exp(background) + torch.exp(foreground))
        y = (target[sample][keep] == 1).float()
        entropy = entropy - (y * torch.log(p) + (1 - y) * torch.log(1 - p)).sum()
        valid += int(keep.sum())
        dice.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
    return entropy / valid + sum(dice) / len(dice)


def probability(
    model: torch.nn.Module, image: NDArray[np.uint8], scales: Sequence[float]
) -> NDArray[np.float32]:
    """(H, W) mean foreground softmax over the scales, each plain and mirrored."""
    from torch.nn.functional import interpolate

    height, width = image.shape[:2]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None]
    maps = []
    for scale in scales:
        size = (round(height * scale), round(width * scale))
        x = interpolate(pixels, size, mode="bicubic", antialias=True) if scale != 1 else pixels
        for flip in (False, True):
            with torch.inference_mode():
                logits, _ = model(x.flip(3) if flip else x)
            p = torch.softmax(logits, dim=1)[:, 1:]
            p = p.flip(3) if flip else p
            maps.append(interpolate(p, (height, width), mode="bilinear")[0, 0].numpy())
    return np.mean(maps, axis=0)


def filled(mask: Bools) -> Bools:
    """Background that no path of background joins to the border becomes foreground."""
    height, width = mask.shape
    outside = np.zeros(mask.shape, dtype=bool)
    border = {(y, x) for y in (0, height - 1) for x in range(width)}
    border |= {(y, x) for y in range(height) for x in (0, width - 1)}
    queue = [at for at in border if not mask[at]]
    while queue:
        y, x = queue.pop()
        if outside[y, x]:
            continue
        outside[y, x] = True
        beside = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        inside = (at for at in beside if 0 <= at[0] < height and 0 <= at[1] < width)
        queue += [at for at in inside if not mask[at]]
    return ~outside


# The public evaluator.


def evaluate(true: Labels, predicted: Labels) -> dict[str, float]:
    """Its metrics of one image with contiguous ids: pair by pair, the last true instance left out
    of PQ, Dice smoothed by a pixel, means over background and foreground."""
    truths = [true == i for i in range(1, true.max() + 1)]
    found = [predicted == j for j in range(1, predicted.max() + 1)]
    above = below = 0
    taken: set[int] = set()
    for truth in truths:
        best, best_iou = -1, 0.0
        for j, mask in enumerate(found):
            iou = (truth & mask).sum() / (truth | mask).sum()
            if iou > best_iou:
                best, best_iou = j, iou
        if best < 0:
            below += truth.sum()
        else:
            above, below = above + (truth & found[best]).sum(), below + (truth | found[best]).sum()
            taken.add(best)
    below += sum(mask.sum() for j, mask in enumerate(found) if j not in taken)
    matches = [
        (j, (truth & mask).sum() / (truth | mask).sum())
        for truth in truths[:-1]
        for j, mask in enumerate(found)
        if (truth & mask).sum() > 0.5 * (truth | mask).sum()
    ]
    tp, fp = len(matches), len(found) - len({j for j, _ in matches})
    dq = tp / (tp + fp / 2 + (len(truths) - 1 - tp) / 2 + 1e-6)
    sq = sum(iou for _, iou in matches) / (tp + 1e-6)
    rows = []
    for t, p in ((true == 0, predicted == 0), (true > 0, predicted > 0)):
        hit, union = (t & p).sum(), (t | p).sum()
        rows.append([hit / union, (t.sum() - hit) / union, (p.sum() - hit) / union])
    smooth = 2 * (((true > 0) & (predicted > 0)).sum() + 1)
    miou, mfn, mfp = ((a + b) / 2 for a, b in zip(*rows, strict=True))
    return {
        "official_aji": above / below,
        "official_pq": dq * sq,
        "official_sq": sq,
        "official_dq": dq,
        "official_dice": smooth / ((true > 0).sum() + (predicted > 0).sum() + 1),
        "official_miou": miou,
        "official_mfn": mfn,
        "official_mfp": mfp,
    }
