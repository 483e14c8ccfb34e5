"""The detector's training on images without labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.data.synthetic import generate_tile
from coin_ray.errors import UserError
from coin_ray.labels import count
from coin_ray.training.checkpoint import Checkpoint
from coin_ray.training.world import World
from coin_ray.ucis import self_training
from coin_ray.ucis.detection import read, vote
from coin_ray.ucis.detector import detector_of, load_detector
from coin_ray.ucis.self_training import taught, train_detector
from coin_ray.ucis.settings import DETECTOR, Detector
from coin_ray.weights.state_files import load_state

TILES = [generate_tile(seed, 128) for seed in (3, 4)]
IMAGES = [image for image, _ in TILES]
SMALL = Detector(rounds=2, iterations=2, batch=2, certainty=0.7)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(detector: Detector = SMALL, images: Any = IMAGES, **options: Any) -> Any:
    return train_detector(images, detector, weights=DETECTOR, min_area=30, **options)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole() -> Any:
    torch.set_num_threads(1)
    return trained()


def test_what_is_taught_and_what_is_not() -> None:
    network = load_detector(DETECTOR)
    image, label_map, ignore = taught(IMAGES[0], network, SMALL, min_area=30)
    probability = read(IMAGES[0], network, views=1)[0]
    surer, _ = vote(read(IMAGES[0], network, views=1), SMALL, min_area=30)
    assert image is IMAGES[0] and np.array_equal(label_map, surer) and count(label_map) > 3
    assert not (ignore & (label_map > 0)).any()
    background = ~ignore & (label_map == 0)
    assert probability[background].max() < 0.3 <= probability[ignore].min()
    assert ignore.any() and background.any()


def test_it_trains_and_leaves_the_shipped_network_alone(whole: Any) -> None:
    weights, log = whole
    shipped = load_detector(DETECTOR)
    before = {name: tensor.float().numpy() for name, tensor in load_state(DETECTOR).items()}
    assert same(before, {name: tensor.numpy() for name, tensor in shipped.state_dict().items()})
    assert log.steps == 4 and log["votes"] == log["loss"]
    assert weights.keys() == before.keys() and not same(weights, before)
    assert not any(parameter.requires_grad for parameter in shipped.parameters())
    assert read(IMAGES[0], detector_of(weights), views=1).shape == (3, 128, 128)


def test_interrupted_and_resumed_equals_uninterrupted(whole: Any, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(step: int, *_: Any) -> None:
        if step == 3:
            raise Stop

    place = {"checkpoint": Checkpoint(tmp_path / "part", "run", every=0.0)}
    with pytest.raises(Stop):
        trained(progress=stop, **place)
    steps: list[int] = []
    weights, log = trained(progress=lambda step, *_: steps.append(step), **place)
    assert same(weights, whole[0]) and log == whole[1]
    assert steps == [4]


def test_the_seed_decides(whole: Any) -> None:
    assert same(trained()[0], whole[0]) and not same(trained(seed=1)[0], whole[0])


def test_workers_share_the_batch_and_train_through_the_wrapper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    terms = self_training._terms

    def counted(model: Any, batch: Any) -> Any:
        seen.append(len(batch[0]))
        return terms(model, batch)

    monkeypatch.setattr(self_training, "_terms", counted)
    wrapped: list[Any] = []

    def wrap(module: Any) -> Any:
        wrapped.append(module)
        return module

    detector = SMALL.model_copy(update={"rounds": 1, "batch": 3})
    for rank, share in ((0, 2), (1, 1)):
        seen.clear()
        trained(detector, world=World(rank=rank, size=2, wrap=wrap))
        assert seen == [share] * 2
    assert len(wrapped) == 2
    with pytest.raises(UserError, match="too small"):
        trained(SMALL, world=World(size=3))


def test_an_image_smaller_than_a_window_is_mirrored() -> None:
    detector = SMALL.model_copy(update={"rounds": 1, "iterations": 1})
    weights, log = trained(detector, images=[IMAGES[0][:100, :90]])
    assert np.isfinite(log["loss"]).all() and weights


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(UserError, match="sure of no instance") as caught:
        trained(SMALL.model_copy(update={"certainty": 1.0}))
    assert "ucis.detector.certainty" in str(caught.value)
    with pytest.raises(UserError, match="no tissue"):
        trained(images=[np.full((64, 64, 3), 255, np.uint8)])


def test_half_precision_is_the_network_s_alone() -> None:
    detector = SMALL.model_copy(update={"rounds": 1})
    (_, full), (_, half) = trained(detector), trained(detector, world=World(precision="bf16"))
    assert half["loss"] == pytest.approx(full["loss"], rel=0.05) and half["loss"] != full["loss"]
