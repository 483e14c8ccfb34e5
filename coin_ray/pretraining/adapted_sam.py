"""The small segmenter learns on real images, without labels, what its masks are worth: the truth
stands in the instances that the built-in detector is sure of in them.

Its masks stay as they are. Taught to draw what the detector draws, they get worse on other tissue
(docs/results/segmenter.md); told which of its three to take and how far to trust it, it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from coin_ray.confidence.small_model import SmallSam
from coin_ray.errors import UserError
from coin_ray.precision import computing
from coin_ray.pretraining import data
from coin_ray.pretraining.pretrain import Asked, Recipe, begin, pretrain
from coin_ray.pretraining.small_sam import TILE, make_batch, run_prompts, score_loss
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Log
from coin_ray.training.draws import generator
from coin_ray.ucis.detector import load_detector
from coin_ray.ucis.fitting import random_crop
from coin_ray.ucis.self_training import taught
from coin_ray.ucis.settings import DETECTOR, Detector
from coin_ray.ucis.ssa_data import at_reference
from coin_ray.weights.registry import digest, locate

EMA = 0.99
START = "sam_mini_2"
REAL = 0.7  # share of the steps that see real images
MIN_AREA = 60  # px of an instance


def adapt_segmenter(asked: Asked, folders: Sequence[Path], mpp: float) -> Log:
    """Train the segmenter's head of predicted IoU, and nothing else of it, on the images of
    ``folders`` (``mpp`` um/px), read without labels, and write its averaged weights, the losses of
    every step.

    In three of ten steps the truth is that of generated tiles. UserError where the detector is sure
    of no nucleus.
    """
    count, tiles, device = asked.batch or 4, asked.tiles or 300, asked.device
    model = SmallSam()
    start = begin(model, asked.start or locate(START))
    model.to(device).requires_grad_(False)
    model.mask_decoder.iou_prediction_head.requires_grad_(True)
    average = Average(model, EMA)
    pool = data.GeneratedTiles(asked.seed, tiles, TILE)
    images = data.read_folders(folders)
    real = sure_of(images, mpp, device)

    def square(rng: np.random.Generator) -> data.Labelled:
        image, label_map = random_crop(real[int(rng.integers(len(real)))], rng, TILE)
        return image, label_map

    def loss_of(step: int, done: float) -> torch.Tensor:
        rng = generator(asked.seed, step, 0)
        draw = square if rng.random() < REAL else partial(pool.draw, fraction=done)
        drawn = make_batch(draw, rng, count=count, prompts=20, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=asked.amp):
            logits, predicted, _ = run_prompts(model, drawn)
        return score_loss(logits, predicted, drawn.targets, drawn.positive)

    settings = {"batch": count, "tiles": tiles, "images": data.content(images), "mpp": mpp}
    settings["targets"] = digest(DETECTOR)  # a run holds to those that it began with
    return pretrain(
        asked,
        Recipe(lr=1e-3, weight_decay=0.05, clip=1.0),
        model,
        loss_of,
        exported=average.state,
        identity={"what": "what masks are worth", "start": start, **settings},
        average=average,
    )


def sure_of(images: Sequence[data.Image], mpp: float, device: str) -> list[data.Labelled]:
    """The images at 0.25 um/px with the ids (H, W) of the instances that the detector is sure of;
    0 is what it is sure is none, -1 the rest."""
    network, detector = load_detector(DETECTOR, device), Detector()
    found: list[data.Labelled] = []
    for image in at_reference(images, [0.25 / mpp] * len(images)):
        with computing(device, "fp32"):
            _, label_map, ignore = taught(image, network, detector, min_area=MIN_AREA)
        found.append((image, np.where(ignore, -1, label_map).astype(np.int32)))
    if not any((label_map > 0).any() for _, label_map in found):
        raise UserError(
            "the detector is sure of no nucleus in these images",
            do="take images of H&E tissue, and say their resolution in --mpp",
        )
    return found
