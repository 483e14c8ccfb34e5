"""The built-in detector goes on learning on the training images, without labels: in rounds, from
the instances that it is sure of itself.

Lee, Pseudo-Label, ICML workshop 2013, without what is unsure (as COIN's Eq. 9 leaves out what it
rejects); the teacher is an average of the weights (Tarvainen and Valpola, NeurIPS 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from coin_ray.errors import UserError
from coin_ray.labels import count
from coin_ray.precision import computing
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.draws import Arrays
from coin_ray.training.loop import Weights
from coin_ray.training.warp import disturbed, warped
from coin_ray.training.world import HERE, Progress, World
from coin_ray.ucis.detection import read, vote
from coin_ray.ucis.detector import WINDOW, VotingNetwork, load_detector
from coin_ray.ucis.detector_targets import dense_loss, dense_targets, untaught
from coin_ray.ucis.fitting import Run, Stage, fit, random_crop
from coin_ray.ucis.settings import Detector
from coin_ray.ucis.ssa_data import Image, check_tissue
from coin_ray.weights.modules import to_arrays

SQUARE = 320  # px of an image that a window is cut from, at a random scale and angle
EMA = 0.99


def train_detector(
    images: Sequence[Image],
    detector: Detector,
    *,
    weights: str,
    min_area: int,
    seed: int = 0,
    world: World = HERE,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> tuple[Weights, Log]:
    """Weights of the detector after ``detector.rounds`` on the images, and the losses of all steps.

    ``images`` (H, W, 3) uint8 at 0.25 um/px, of any sizes, without labels; ``weights``: the
    registered file that it starts from; instances below ``min_area`` px are dropped. A round takes
    what the network finds in the images (:func:`taught`) and trains it for ``iterations`` on
    windows of them, turned, scaled, stained and blurred at random; the next round, and the result,
    have the average of its weights.

    A worker takes every ``world.size``-th window of the global batch. ``checkpoint``, with .1, .2
    and so on behind its name, is continued if it is there: interrupted and resumed, a run gives
    what it gives uninterrupted. UserError without tissue, when no instance is sure enough, when a
    worker has no window, or when the loss is not finite.
    """
    check_tissue(images)
    world.share(detector.batch, 1, "a window", "ucis.detector.batch")
    total = detector.rounds * detector.iterations
    run = Run(SQUARE, seed, total, world, checkpoint, progress)
    network = load_detector(weights, world.device)
    for number in range(1, detector.rounds + 1):
        with computing(world.device, world.precision):
            tiles = [taught(image, network, detector, min_area=min_area) for image in images]
        if not any(count(label_map) for _, label_map, _ in tiles):
            raise UserError(
                "the detector is sure of no instance that it could learn from",
                where="ucis.detector.rounds",
                found=f"{len(tiles)} training images without one, before round {number}",
                do="lower ucis.detector.certainty, or write ucis.detector.rounds: 0",
            )
        stage = Stage(number, detector.iterations, detector.batch, detector.lr, power=0.9, ema=EMA)
        network = fit(run, stage, partial(_pupil, network), _terms, tiles, _window)
    return to_arrays(network.state_dict()), run.log


def taught(image: Image, network: VotingNetwork, detector: Detector, *, min_area: int) -> Arrays:
    """The image, the instances (H, W) int32 of at least ``certainty`` that the ``network`` finds
    in it, and which pixels (H, W) bool are not taught: those outside of them that are not surely
    background either (at least ``doubt``)."""
    maps = read(image, network, views=detector.views)
    label_map, _ = vote(maps, detector, min_area=min_area)
    return image, label_map, (label_map == 0) & (maps[0] >= detector.doubt)


def _pupil(teacher: VotingNetwork) -> VotingNetwork:
    return copy.deepcopy(teacher).requires_grad_(True)


def _window(tile: Arrays, rng: np.random.Generator, side: int) -> Arrays:
    """A window of a tile of :func:`taught`: (3, 256, 256) float32 in [0, 1], and of its cells of 2
    px the targets (4, 128, 128) and which are not taught (128, 128) bool."""
    image, label_map, ignore = random_crop(tile, rng, side)
    ids = np.where(ignore, -1, label_map)
    # Whatever the network computes in, a place in an image has more than 8 bits.
    with torch.autocast("cpu", enabled=False):
        window, ids = warped(image, ids, rng, side=WINDOW, device="cpu")
    return window.numpy(), dense_targets(np.maximum(ids, 0)), untaught(ids < 0)


def _terms(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
    windows, dense, ignore = batch
    rng = np.random.default_rng(int(torch.randint(2**31, ()).item()))
    with torch.autocast(windows.device.type, enabled=False):  # nor has an optical density
        windows = disturbed(windows, rng)
    return {"votes": dense_loss(model(windows).float(), dense, ignore)}
