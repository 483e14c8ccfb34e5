"""Training of the small promptable segmenter on generated tiles: one point in, one nucleus out.

The loss is that of promptable segmentation (SAM, Kirillov et al. 2023): three masks a prompt, the
best one is trained (cross-entropy and Dice), and a head learns each mask's IoU. Prompts on the
background teach that head what is no nucleus. Generated tiles know every pixel, so that a linear
map of the embedding, thrown away afterwards, also learns foreground, contours and centres: the
encoder then learns from the whole window and not from the prompts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from coin_ray.confidence.small_model import PATCH, REACH, SIDE, WINDOW, SmallSam
from coin_ray.pretraining import data
from coin_ray.pretraining.pretrain import Asked, Recipe, begin, pretrain
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Log
from coin_ray.training.draws import generator
from coin_ray.training.layout import moved
from coin_ray.training.warp import disturbed, warped
from coin_ray.ucis.detector_targets import dense_loss, dense_targets

EMA = 0.995
TILE = 320  # px of a generated tile; a window is cut from it at a random scale and angle


@dataclass
class Batch:
    """``images`` (B, 3, 256, 256) in [0, 1]; per prompt its image, point (y, x) px, target (N, 40,
    40) coverage in [0, 1] of the 2-px cells, and whether it lies on a nucleus; ``dense`` (B, 4,
    128, 128) per 2-px cell the share of foreground and of contour, and the way (y, x) to the centre
    / 16 px.
    """

    images: torch.Tensor
    which: torch.Tensor
    points_yx: torch.Tensor
    targets: torch.Tensor
    positive: torch.Tensor
    dense: torch.Tensor


def mask_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (x 4) plus Dice: logits (N, M, h, w), targets (N, h, w) -> (N, M)."""
    wide = targets[:, None].expand_as(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, wide, reduction="none").mean(
        (2, 3)
    )
    p = logits.sigmoid()
    dice = 1 - (2 * (p * wide).sum((2, 3)) + 1) / (p.sum((2, 3)) + wide.sum((2, 3)) + 1)
    return 4 * entropy + dice


def prompt_loss(
    logits: torch.Tensor, predicted_iou: torch.Tensor, targets: torch.Tensor, positive: torch.Tensor
) -> torch.Tensor:
    """Best of the masks (plus 0.2 of their mean, so that none starves) on the positive prompts, and
    :func:`score_loss`. Scalar.
    """
    losses = mask_loss(logits, targets)
    # Weighted, not chosen: a step would wait for a GPU to say how many there are.
    share = positive / positive.sum().clamp(min=1)
    of_masks = (share * (losses.amin(1) + 0.2 * losses.mean(1))).sum()
    return of_masks + score_loss(logits, predicted_iou, targets, positive)


def score_loss(
    logits: torch.Tensor, predicted_iou: torch.Tensor, targets: torch.Tensor, positive: torch.Tensor
) -> torch.Tensor:
    """Squared error of the IoU head on all prompts, one on the background being worth 0. Scalar."""
    hit, truth = logits.detach() > 0, targets[:, None] > 0.5
    overlap = (hit & truth).sum((2, 3)).float()
    iou = overlap / (hit | truth).sum((2, 3)).clamp(min=1)
    return functional.mse_loss(predicted_iou, iou * positive[:, None])


def make_batch(
    draw: Callable[[np.random.Generator], data.Labelled],
    rng: np.random.Generator,
    *,
    count: int,
    prompts: int,
    device: str = "cpu",
) -> Batch:
    """``count`` windows of what ``draw`` gives, augmented on the device, with ``prompts`` points
    each (1 in 8 background).
    """
    images, labels = [], []
    for _ in range(count):
        image, label_map = draw(rng)
        window, ids = warped(image, label_map, rng, side=WINDOW, device=device)
        images.append(window)
        labels.append(ids)
    batch = disturbed(torch.stack(images), rng)
    which, points, targets, positive = [], [], [], []
    for i, label_map in enumerate(labels):
        chosen = _prompts(label_map, rng, prompts)
        points.append(chosen)
        which.append(np.full(len(chosen), i))
        targets.append(_targets(label_map, chosen))
        positive.append(label_map[tuple(chosen.astype(int).T)] > 0)
    dense = [dense_targets(np.maximum(label_map, 0))[None] for label_map in labels]
    columns = (which, points, targets, positive, dense)
    return Batch(batch, *(moved(np.concatenate(column), device) for column in columns))


def _prompts(
    label_map: NDArray[np.int32], rng: np.random.Generator, count: int
) -> NDArray[np.float32]:
    """(N, 2) yx: mostly near the centroids of nuclei, some anywhere inside, 1 in 8 on the
    background.
    """
    ids, area = np.unique(label_map[label_map > 0], return_counts=True)
    ids = ids[area >= 30]
    ids = rng.permutation(ids)[: count - count // 8]
    points = []
    order = np.argsort(label_map, axis=None, kind="stable")
    flat = label_map.ravel()[order]
    for i in ids:
        inside = order[np.searchsorted(flat, i) : np.searchsorted(flat, i, side="right")]
        y, x = np.divmod(inside, label_map.shape[1])
        spread = 0.2 * np.sqrt(len(inside) / np.pi)
        yx = np.array([y.mean(), x.mean()]) + rng.normal(0, spread, 2) * (rng.random() < 0.6)
        at = np.clip(np.rint(yx).astype(int), 0, np.array(label_map.shape) - 1)
        if rng.random() < 0.15 or label_map[at[0], at[1]] != i:
            pick = rng.integers(len(inside))
            at = np.array([y[pick], x[pick]])
        points.append(at)
    empty = np.argwhere(label_map == 0)
    if len(empty):
        extra = max(count // 8, 1 if not points else 0)
        points.extend(empty[rng.integers(len(empty), size=extra)])
    return np.array(points, dtype=np.float32) + 0.5


def _targets(label_map: NDArray[np.int32], points_yx: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 40, 40) share of each 2-px cell around the point that the nucleus under it covers."""
    pad = REACH * PATCH
    padded = np.pad(label_map, pad, constant_values=0)
    out = np.zeros((len(points_yx), SIDE // 2, SIDE // 2), dtype=np.float32)
    for k, (y, x) in enumerate(points_yx.astype(int)):
        own = label_map[y, x]
        if own > 0:
            y0, x0 = y // PATCH * PATCH, x // PATCH * PATCH  # padding and REACH cancel
            cells = padded[y0 : y0 + SIDE, x0 : x0 + SIDE] == own
            out[k] = cells.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    return out


def run_prompts(model: SmallSam, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (N, 3, 40, 40) and predicted IoU (N, 3) of a batch, and its embedding; float32."""
    embedding = model.embed(batch.images)
    tokens, _, points_xy = model.neighbourhoods(embedding, batch.which, batch.points_yx)
    logits, predicted = model.predict(tokens, points_xy)
    return logits.float(), predicted.float(), embedding.float()


def pretrain_segmenter(
    asked: Asked, *, prompts: int = 20, size: Mapping[str, int] | None = None
) -> Log:
    """Train the small promptable segmenter on generated tiles and write its averaged weights, the
    losses of every step.

    ``prompts`` a window; ``size`` overrides the arguments of ``SmallSam``.
    """
    count, tiles, device = asked.batch or 2, asked.tiles or 600, asked.device
    with torch.random.fork_rng():
        torch.manual_seed(asked.seed)
        model = SmallSam(**(size or {}))
        start = begin(model, asked.start) if asked.start else None
        model.to(device)
        width = model.prompt_encoder.embed_dim
        reader = torch.nn.Sequential(
            torch.nn.Conv2d(width, 4 * 16, 1), torch.nn.PixelShuffle(4)
        ).to(device)
    average = Average(model, EMA)
    pool = data.GeneratedTiles(asked.seed, tiles, TILE)

    def loss_of(step: int, done: float) -> torch.Tensor:
        rng = generator(asked.seed, step, 0)
        draw = partial(pool.draw, fraction=done)
        drawn = make_batch(draw, rng, count=count, prompts=prompts, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=asked.amp):
            logits, predicted, embedding = run_prompts(model, drawn)
        loss = prompt_loss(logits, predicted, drawn.targets, drawn.positive)
        return loss + dense_loss(reader(embedding), drawn.dense)

    settings = {"batch": count, "prompts": prompts, "tiles": tiles}
    return pretrain(
        asked,
        Recipe(lr=1e-3, weight_decay=0.05, clip=1.0),
        torch.nn.ModuleDict({"model": model, "reader": reader}),
        loss_of,
        exported=average.state,
        identity={"what": "segmenter", "start": start, **settings},
        average=average,
    )
