"""PSM as a whole: it learns, goes on where it stopped, takes odd images, fails loudly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit
from torch import nn

from coin_ray.errors import UserError
from coin_ray.training.checkpoint import Checkpoint
from coin_ray.training.world import World
from coin_ray.ucis import fitting, psm
from coin_ray.ucis.fitting import random_crop, rotated_image
from coin_ray.ucis.psm_network import ResUNet
from coin_ray.ucis.settings import Psm
from coin_ray.ucis.ssa_data import resize
from coin_ray.weights.modules import load_arrays
from tests.conftest import SEED
from tests.test_imaging_stain import field

ARCH: dict[str, Any] = {"encoder": "resnet18", "width": 8}
SMALL: dict[str, Any] = {
    **ARCH,
    "activation_width": 8,
    "activation_iterations": 2,
    "attempts": 2,
    "point_iterations": 3,
    "final_iterations": 3,
    "batch": 2,
    "lr": 3e-3,
    "crop": 64,
    "region": 96,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ARGUMENTS = {"weights", "scales", "seed", "world", "checkpoint", "progress"}


def train_psm(images: Any, **options: Any) -> Any:
    """A training without ImageNet weights; ``options`` are settings and arguments."""
    how = {k: v for k, v in options.items() if k in ARGUMENTS}
    settings = {k: v for k, v in options.items() if k not in ARGUMENTS}
    small = Psm(**settings).model_copy(update={"activation_encoder": "resnet18"})
    return psm.train_psm(images, small, **{"weights": "none"} | how)


def psm_mask(weights: Any, image: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return psm.psm_mask(weights, image, Psm(**ARCH), scale=scale)


IMAGES = [field(seed, size=96, radius=6)[0] for seed in range(3)]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.fixture(scope="module")
def whole() -> Any:
    return train_psm(IMAGES, **SMALL)


LONGER = SMALL | {"point_iterations": 60, "final_iterations": 60, "seed": SEED}


@pytest.fixture(scope="module")
def trained() -> Any:
    """Weights, log and reported progress of a run that learns something."""
    seen: list[tuple[int, int, float]] = []
    return *train_psm(IMAGES, progress=lambda *a: seen.append(a), **LONGER), seen


def even(weights: Mapping[str, np.ndarray], image: np.ndarray) -> dict[str, np.ndarray]:
    """Those weights with the last bias moved until the probabilities of an image are .5 on average:
    what so short a run calls a nucleus depends on its seed, and may be nothing or all."""
    moved = {name: value.copy() for name, value in weights.items()}
    model = ResUNet("resnet18", 8, "none")
    load_arrays(model, moved)
    with torch.inference_mode():
        background, nucleus = model.eval()(psm._signed(torch.tensor(image[None])))[0]
    odds = (nucleus - background).numpy().astype(float)
    moved["classify.bias"][1] += brentq(lambda b: np.mean(expit(odds + b)) - 0.5, -50, 50)
    return moved


@pytest.mark.trained
def test_short_run_lowers_the_losses(trained: Any) -> None:
    weights, log, seen = trained
    assert [s[:2] for s in seen] == [(i, 122) for i in range(1, 123)]
    assert [s[2] for s in seen] == log["loss"]
    assert [len(log[k]) for k in ("rotation", "mask", "background", "voronoi")] == [2, 60, 60, 60]
    assert log["loss"][-60:] == pytest.approx(np.add(log["background"], log["voronoi"]), abs=1e-5)
    for name in ("mask", "background"):
        assert np.mean(log[name][-8:]) < 0.9 * np.mean(log[name][:4])
    image, _ = field(9, size=96, radius=6)
    mask = psm_mask(weights, image)
    assert mask.dtype == bool and mask.shape == image.shape[:2]


@pytest.mark.parametrize("stop", [1, 4, 5, 7])
def test_interrupted_and_resumed_equals_uninterrupted(
    stop: int, tmp_path: Path, whole: Any
) -> None:

    def break_off(step: int, *_: object) -> None:
        if step == stop:
            raise InterruptedError

    where: dict[str, Any] = {"checkpoint": Checkpoint(tmp_path / "psm", "a", every=0.0)}
    with pytest.raises(InterruptedError):
        train_psm(IMAGES, progress=break_off, **where, **SMALL)
    steps: list[int] = []
    resumed = train_psm(IMAGES, progress=lambda step, *_: steps.append(step), **where, **SMALL)
    assert steps == list(range(stop + 1, 9))
    assert same(resumed[0], whole[0]) and resumed[1] == whole[1]
    with pytest.raises(UserError, match="another run"):
        train_psm(IMAGES, checkpoint=Checkpoint(tmp_path / "psm", "b"), **SMALL)


def test_global_generators_are_left_alone_and_the_seed_decides(whole: Any) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = train_psm(IMAGES, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(again[0], whole[0])
    assert not same(train_psm(IMAGES, seed=1, **SMALL)[0], whole[0])


@pytest.mark.parametrize("shape", [(20, 30), (40, 3)])
def test_a_single_image_smaller_than_a_crop_trains(shape: tuple[int, int]) -> None:
    image = IMAGES[0][: shape[0], : shape[1]]
    weights, log = train_psm([image], **SMALL)
    assert np.isfinite(log["loss"]).all()
    assert psm_mask(weights, image).shape == shape


def test_an_image_without_tissue_among_others_stays_empty() -> None:
    blank = np.full((80, 80, 3), 240, np.uint8)
    weights, log = train_psm([blank, *IMAGES], **SMALL)
    assert np.isfinite(log["loss"]).all()
    assert not psm_mask(weights, blank).any()
    with pytest.raises(UserError, match="no tissue"):
        train_psm([blank], **SMALL)


def test_scale_resizes_to_the_resolution_of_the_lengths(whole: Any) -> None:
    half = [image[::2, ::2] for image in IMAGES]
    doubled = [resize(image, 2) for image in half]
    weights, _ = train_psm([half[0], *doubled[1:]], scales=[0.5, 1, 1], **SMALL)
    assert same(weights, train_psm(doubled, **SMALL)[0])
    moved = even(whole[0], doubled[0])
    mask, fine = (psm_mask(moved, half[0], scale=scale) for scale in (0.5, 1))
    model = ResUNet("resnet18", 8, "none")
    load_arrays(model, moved)
    probability = torch.from_numpy(psm._probability(model.eval(), doubled[0]))[None, None]
    mean = nn.functional.interpolate(probability, size=(48, 48), mode="bilinear", antialias=True)
    assert np.array_equal(mask, (mean > 0.5)[0, 0].numpy())
    assert mask.any() and not mask.all() and not np.array_equal(mask, fine)


def test_only_the_centre_square_is_trained_on(whole: Any) -> None:
    framed = [np.pad(image, ((9, 9), (4, 5), (0, 0))) for image in IMAGES]
    assert same(train_psm(framed, **SMALL)[0], whole[0])
    everything = train_psm(framed, **SMALL | {"region": None})
    assert not same(everything[0], whole[0])


def test_a_large_image_is_predicted_in_squares(monkeypatch: pytest.MonkeyPatch, whole: Any) -> None:
    image = np.tile(IMAGES[0], (2, 3, 1))
    model = ResUNet("resnet18", 8, "none")
    load_arrays(model, whole[0])
    at_once = psm._probability(model.eval(), image)
    monkeypatch.setattr(psm, "TILE", 96)
    monkeypatch.setattr(psm, "HALO", 64)
    in_squares = psm._probability(model, image)
    np.testing.assert_allclose(in_squares, at_once, rtol=0, atol=1e-6)
    assert at_once.std() > 1e-5


def test_crops_are_the_same_place_of_every_array_mirrored_where_it_is_small() -> None:
    y, x = np.mgrid[:6, :5]
    for seed in range(5):
        rows, columns, _ = random_crop((y, x, np.ones((6, 5, 2))), np.random.default_rng(seed), 5)
        assert rows[0, 0] in (0, 1)
        np.testing.assert_array_equal(rows, np.arange(5)[:, None] + rows[0, 0] + 0 * columns)
        np.testing.assert_array_equal(columns, np.arange(5)[None] + 0 * rows)
    (small,) = random_crop((x[:2, :2],), np.random.default_rng(0), 4)
    np.testing.assert_array_equal(small, [[0, 1, 1, 0]] * 4)


def test_each_pass_leaves_out_the_next_part() -> None:
    drawn = [rotated_image(3, i, 7, 3) for i in range(2 * 14)]
    parts = [{0, 3, 6}, {1, 4}, {2, 5}]
    for lap in (drawn[:14], drawn[14:]):
        start = 0
        for part in parts:
            taken = lap[start : start + 7 - len(part)]
            assert sorted(taken) == sorted(set(range(7)) - part)
            start += len(taken)
    assert drawn[:14] != drawn[14:]
    assert [rotated_image(0, i, 1, 10) for i in range(3)] == [0, 0, 0]
    assert sorted(rotated_image(0, i, 4, 1) for i in range(4)) == [0, 1, 2, 3]
    assert sorted(rotated_image(0, i, 3, 10) for i in range(6)) == [0, 0, 1, 1, 2, 2]


def test_workers_share_the_batch_and_train_through_the_wrapper() -> None:
    seen: list[torch.Tensor] = []

    def wrap(inner: nn.Module) -> nn.Module:
        inner.register_forward_pre_hook(lambda _, x: seen.append(x[0].clone()))
        return inner

    batches = []
    for rank, world in [(0, 1), (0, 2), (1, 2)]:
        fitting.fit(
            fitting.Run(crop=64, seed=0, total=1, world=World(rank, world, wrap=wrap)),
            fitting.Stage(2, iterations=1, batch=4, lr=1e-3),
            lambda: nn.Conv2d(3, 1, 1),
            lambda model, batch: {"size": model(batch[0].permute(0, 3, 1, 2).float()).mean()},
            [(image,) for image in IMAGES],
        )
        batches.append(seen.pop())
    assert len(batches[0]) == 4
    assert torch.equal(batches[0][::2], batches[1]) and torch.equal(batches[0][1::2], batches[2])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="no tissue"):
        train_psm([], **SMALL)
    with pytest.raises(UserError, match="too small for the number of workers"):
        train_psm(IMAGES, world=World(0, 2), **SMALL)


def test_missing_imagenet_weights_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    keys = SMALL | {"weights": "imagenet", "progress": pytest.fail}  # before the first step
    with pytest.raises(UserError, match="coin-ray models fetch resnet34_imagenet"):
        train_psm(IMAGES, **keys | {"encoder": "resnet34", "width": 64})
    with pytest.raises(UserError, match="published width"):
        train_psm(IMAGES, **keys)
