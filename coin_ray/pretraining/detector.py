"""Training of the built-in detector on generated tiles, which know every pixel."""

from __future__ import annotations

from functools import partial

import torch

from coin_ray.pretraining import data
from coin_ray.pretraining.pretrain import Asked, Recipe, begin, pretrain
from coin_ray.pretraining.small_sam import EMA, TILE, make_batch
from coin_ray.training.average import Average
from coin_ray.training.checkpoint import Log
from coin_ray.training.draws import generator
from coin_ray.ucis.detector import VotingNetwork
from coin_ray.ucis.detector_targets import dense_loss
from coin_ray.weights.registry import digest
from coin_ray.weights.state_files import load_state

ENCODER = "image_encoder."


def pretrain_detector(asked: Asked, *, encoder: str | None = "sam_mini") -> Log:
    """Train the detector and write its averaged weights, the losses of every step.

    Without a file to start from it begins with the encoder of the registered segmenter ``encoder``
    and, for the rest or with None, with random weights.
    """
    count, tiles = asked.batch or 2, asked.tiles or 600
    with torch.random.fork_rng():
        torch.manual_seed(asked.seed)
        model = VotingNetwork()
    start = None
    if asked.start:
        start = begin(model, asked.start)
    elif encoder is not None:
        state = {k: v for k, v in load_state(encoder).items() if k.startswith(ENCODER)}
        model.image_encoder.load_state_dict({k.removeprefix(ENCODER): state[k] for k in state})
        start = digest(encoder)
    model.to(asked.device)
    average = Average(model, EMA)
    pool = data.GeneratedTiles(asked.seed, tiles, TILE)

    def loss_of(step: int, done: float) -> torch.Tensor:
        rng = generator(asked.seed, step, 0)
        draw = partial(pool.draw, fraction=done)
        drawn = make_batch(draw, rng, count=count, prompts=2, device=asked.device)
        with torch.autocast(asked.device, torch.bfloat16, enabled=asked.amp):
            found = model(drawn.images)
        return dense_loss(found.float(), drawn.dense)

    return pretrain(
        asked,
        Recipe(lr=1e-3, weight_decay=0.02, clip=1.0),
        model,
        loss_of,
        exported=average.state,
        identity={"what": "detector", "batch": count, "tiles": tiles, "start": start},
        average=average,
    )
