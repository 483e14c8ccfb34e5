"""The stages of a ``coin`` cell that run on the card: how each is checked, run and counted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import literal
from benchmarks.inputs import random_sam
from coin_ray.compat import ensure_torchvision
from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.distillation.inference import predict_probability
from coin_ray.distillation.losses import segmentation_loss
from coin_ray.distillation.network import build_student
from coin_ray.distillation.settings import Infer, Student
from coin_ray.distillation.targets import PseudoLabels
from coin_ray.distillation.training import train_round
from coin_ray.imaging.windows import grid
from coin_ray.precision import Precision, arithmetic, autocast, computing
from coin_ray.propagation.backbones import Backbone, build_vit
from coin_ray.propagation.features import extract_features, window_side
from coin_ray.propagation.settings import Uss
from coin_ray.training.layout import placed
from coin_ray.training.world import Progress, World

TILES, ROUNDS, NUCLEI = 37, 3, 480  # NUCLEI a tile, as a MoNuSeg test image has on average
Run = Callable[[], Any]
TINY_VIT = {"embed_dim": 48, "depth": 2, "num_heads": 2}


@dataclass(frozen=True)
class Sizes:
    """``vit`` a timm name with its ``overrides``, ``sam`` a size of segment-anything (None: its
    decoder behind a tiny encoder), side of a ``tile``, ``windows`` and ``prompts`` of a
    measurement, the ``student``'s settings, its ``steps`` in a measurement and in a cell."""

    vit: str
    overrides: dict[str, Any]
    sam: str | None
    tile: int
    windows: int
    prompts: int
    student: dict[str, Any]
    steps: int = 20
    iterations: int = 23_100


FULL = Sizes("vit_base_patch16_224.mae", {}, "vit_b", 1000, 8, 64, {})
SMALL = Sizes(
    FULL.vit, TINY_VIT, None, 96, 4, 2, {"encoder": "resnet50", "crop": 64, "batch": 2}, steps=1
)
"""At which a card is held against the CPU."""
TOY = Sizes(
    FULL.vit, TINY_VIT, None, 96, 4, 1,
    {"arch": "unet", "width": 8, "crop": 64, "batch": 2}, steps=1, iterations=1000,
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One kind of work. ``check(sizes, device)`` compares with the CPU; ``prepare`` gives ours and
    the literal way, each a run of ``units`` units, of which a cell has ``count``. A run that times
    a part of itself gives its seconds."""

    title: str
    unit: str
    check: Callable[[Sizes, str], tuple[bool, str]]
    prepare: Callable[[Sizes, str], tuple[Run, Run]]
    units: Callable[[Sizes], int]
    count: Callable[[Sizes], int]


def rate(device: str, side: int) -> float:
    """FLOP a second of a bf16 product of two matrices (side, side): the best of ten."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(11):  # the first sets up
        began = time.perf_counter()
        a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def precision(device: str) -> Precision:
    """Of our side: the profile ``coin``'s."""
    return "fp32" if device == "cpu" else "bf16"


def near(found: NDArray[Any], expected: NDArray[Any], bound: float) -> tuple[bool, str]:
    worst = float(np.abs(found.astype(np.float64) - expected).max())
    return worst <= bound, f"differs by {worst:.1g} (allowed {bound:g})"


def image(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)


def points(sizes: Sizes) -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    return rng.integers(0, sizes.tile, (sizes.prompts, 2)).astype(np.float64)


# Features: a window at zoom 6, both ways round.


def backbone(sizes: Sizes, device: str) -> Backbone:
    torch.manual_seed(0)
    model, config = build_vit(sizes.vit, sizes.overrides)
    model.eval().requires_grad_(False).to(device)

    @torch.inference_mode()
    def tokens(batch: torch.Tensor) -> torch.Tensor:
        (found,) = model.forward_intermediates(
            batch, indices=[len(model.blocks) - 1], norm=True, intermediates_only=True
        )
        return found

    patch, mean, std = model.patch_embed.patch_size[0], config["mean"], config["std"]
    return Backbone(patch, model.embed_dim, mean, std, torch.device(device), tokens)


def strip(sizes: Sizes) -> tuple[NDArray[np.uint8], Uss]:
    """A tile's windows in a row, as many as are measured, none over another."""
    side = window_side((sizes.tile, sizes.tile), zoom=6.0, window=None)
    return image(sizes.windows * side)[:side], Uss(stride=1.0, window=6 * side)


def features_check(sizes: Sizes, device: str) -> tuple[bool, str]:
    found = [
        extract_features(*_features(sizes, place), zoom=6.0, batch=2).to_arrays()["tokens"]
        for place in (device, "cpu")
    ]
    return near(found[0], found[1], 2e-2)


def _features(sizes: Sizes, device: str) -> tuple[NDArray[np.uint8], Backbone, Uss]:
    pixels, uss = strip(sizes)
    return pixels, backbone(sizes, device), uss


def features(sizes: Sizes, device: str) -> tuple[Run, Run]:
    pixels, model, uss = _features(sizes, device)
    side = len(pixels)

    def slow() -> None:
        windows = literal.window_tokens(
            pixels, lambda x: model.tokens(x.to(device)).cpu(), zoom=6.0, side=side, stride=side,
            patch=model.patch, mean=model.mean, std=model.std, hflip=True,
        )  # fmt: skip
        for _ in windows:
            pass

    chosen = uss.model_copy(update={"precision": precision(device)})

    def fast() -> None:
        for _ in extract_features(pixels, model, chosen, zoom=6.0, batch=uss.batch).tokens():
            pass

    return fast, slow


def windows_of_a_cell(sizes: Sizes) -> int:
    side = window_side((sizes.tile, sizes.tile), zoom=6.0, window=None)
    return TILES * len(grid((sizes.tile, sizes.tile), side, max(1, int(side * Uss().stride))))


# Segment-anything: the encoder once a tile, the decoder for each nucleus in each round.


def sam(sizes: Sizes) -> Any:
    if sizes.sam is None:
        return random_sam()
    ensure_torchvision()
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    return sam_model_registry[sizes.sam]()


def encoding_check(sizes: Sizes, device: str) -> tuple[bool, str]:
    found = [
        SamSegmenter(sam(sizes), batch=2, device=place).encode(image(sizes.tile))["embedding"]
        for place in (device, "cpu")
    ]
    return near(found[0], found[1], 2e-2)


def encoding(sizes: Sizes, device: str) -> tuple[Run, Run]:
    model, pixels = sam(sizes), image(sizes.tile)
    segmenter = SamSegmenter(model, batch=64, device=device)
    from segment_anything import SamPredictor

    predictor = SamPredictor(model)

    def fast() -> None:
        with computing(device, precision(device)):
            segmenter.encode(pixels)

    return fast, lambda: predictor.set_image(pixels)


def _embedding() -> NDArray[np.float16]:
    rng = np.random.default_rng(2)
    return rng.standard_normal((256, 64, 64), dtype=np.float32).astype(np.float16)


def decoding_check(sizes: Sizes, device: str) -> tuple[bool, str]:
    shape, areas = (sizes.tile, sizes.tile), []
    for place in (device, "cpu"):
        segmenter = SamSegmenter(sam(sizes), batch=2, device=place)
        masks = segmenter.decode({"embedding": _embedding()}, Prompts(points(sizes)), shape)
        full = np.zeros((len(masks), *shape), dtype=bool)
        for layer, (y0, x0, y1, x1), crop in zip(full, masks.boxes, masks.crops, strict=True):
            layer[y0:y1, x0:x1] = crop
        areas.append(full)
    share = float((areas[0] != areas[1]).mean())
    return share <= 1e-3, f"{100 * share:.2g} % of pixels differ (allowed 0.1)"


def decoding(sizes: Sizes, device: str) -> tuple[Run, Run]:
    model, embedding, shape = sam(sizes), _embedding(), (sizes.tile, sizes.tile)
    segmenter = SamSegmenter(model, batch=64, device=device)
    from segment_anything import SamPredictor

    predictor = SamPredictor(model)
    predictor.original_size, predictor.input_size = shape, (1024, 1024)
    predictor.features = torch.from_numpy(embedding).float()[None].to(device)
    predictor.is_image_set = True

    def slow() -> None:
        for y, x in points(sizes):
            predictor.predict(np.array([[x, y]]), np.array([1]))

    def fast() -> None:
        with computing(device, precision(device)):
            segmenter.decode({"embedding": embedding}, Prompts(points(sizes)), shape)

    return fast, slow


# The student: a step with its crops, and the prediction of a tile.


def student(sizes: Sizes, **settings: Any) -> Student:
    chosen = {"encoder_weights": "none", "iterations": sizes.steps, **sizes.student, **settings}
    return Student(**chosen)


def rounds(sizes: Sizes, device: str, progress: Progress | None = None, **settings: Any) -> Any:
    pixels = image(sizes.tile)
    labels = (np.hypot(*(np.mgrid[: sizes.tile, : sizes.tile] % 40 - 20)) < 9).astype(np.int32)
    pseudo = PseudoLabels(labels, np.zeros(labels.shape, dtype=bool))
    world = World(device=device)
    chosen = student(sizes, **settings)
    return train_round([(pixels, pseudo)], chosen, world=world, progress=progress)[1]


def step_check(sizes: Sizes, device: str) -> tuple[bool, str]:
    """The loss of the first step: later ones magnify any rounding."""
    found, expected = (np.array(rounds(sizes, place)["loss"][:1]) for place in (device, "cpu"))
    return near(found, expected, 1e-2)


def step(sizes: Sizes, device: str) -> tuple[Run, Run]:
    fast = precision(device)
    return (
        lambda: rounds(sizes, device, precision=fast).seconds,
        lambda: rounds(sizes, device, channels_last=False).seconds,
    )


def step_parts(sizes: Sizes, device: str) -> tuple[float, float, int]:
    """Seconds of a step, of its network alone (forward, loss, backward), and the bytes that the
    network keeps for the way back. On a CPU they are seconds of its work, whoever else is at it;
    the fastest step of several counts.
    """

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def fastest(stamps: list[tuple[int, float]]) -> float:
        """Of (steps done, when) pairs."""
        return min((t - s) / (b - a) for (a, s), (b, t) in itertools.pairwise(stamps))

    fast = precision(device)
    chosen = student(sizes, precision=fast)
    model = placed(build_student(chosen), device).train()
    side, kept = chosen.crop, dict[int, int]()
    images = torch.randn(chosen.batch, 3, side, side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    target = torch.zeros(chosen.batch, side, side, dtype=torch.int64, device=device)
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def network(watch: AbstractContextManager[Any]) -> None:
        with autocast(device, fast), watch:
            heads = [one for one in model(images) if one is not None]
            loss = torch.stack([segmentation_loss(h, target, target > 0) for h in heads]).sum()
        model.zero_grad(set_to_none=True)
        loss.backward()

    whole, alone, steps = list[tuple[int, float]](), list[tuple[int, float]](), 4 * sizes.steps
    with arithmetic(device, fast, deterministic=False):
        network(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        for done in range(1, steps + 1):
            network(nullcontext())
            if done % sizes.steps == 0:
                alone.append((done, clock()))

    def stamp(done: int, total: int, loss: float) -> None:
        whole.append((done, clock()))

    rounds(sizes, device, stamp, precision=fast, iterations=steps)
    return fastest(whole), fastest(alone), sum(kept.values())


def _predict(sizes: Sizes, device: str, infer: Infer, *, plain: bool) -> NDArray[np.float32]:
    torch.manual_seed(0)
    model = placed(build_student(student(sizes)), device, plain=plain)
    return predict_probability(model, image(sizes.tile), infer, device)[0]


def inference_check(sizes: Sizes, device: str) -> tuple[bool, str]:
    found = (_predict(sizes, place, Infer(), plain=False) for place in (device, "cpu"))
    return near(next(found), next(found), 1e-2)


def inference(sizes: Sizes, device: str) -> tuple[Run, Run]:
    torch.manual_seed(0)
    model, plain = (
        placed(build_student(student(sizes)), device, plain=way).eval() for way in (False, True)
    )
    pixels, infer = image(sizes.tile), Infer()

    def slow() -> None:
        """View by view, each brought to the CPU before the next."""
        for scale in infer.scales:
            for _ in (False, True):
                one = Infer(scales=(scale,), hflip=False)
                predict_probability(plain, pixels, one, device)

    fast = Infer(precision=precision(device))
    return lambda: predict_probability(model, pixels, fast, device), slow


STAGES = (
    Stage("features, ViT", "window, both ways", features_check, features,
          lambda s: s.windows, windows_of_a_cell),
    Stage("encoding, SAM", "tile", encoding_check, encoding, lambda s: 1, lambda s: TILES),
    Stage("decoding, SAM", "prompt", decoding_check, decoding,
          lambda s: s.prompts, lambda s: ROUNDS * TILES * NUCLEI),
    Stage("student, training", "step", step_check, step, lambda s: s.steps,
          lambda s: s.iterations),
    Stage("student, all scales", "tile", inference_check, inference, lambda s: 1,
          lambda s: ROUNDS * TILES),
)  # fmt: skip
