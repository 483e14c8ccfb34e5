"""The predict stage: tiles against the whole image, the dense CRF in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.data.synthetic import generate_tile
from coin_ray.distillation.inference import instances_from_probability, predict_probability
from coin_ray.distillation.network import build_student, student_from_weights
from coin_ray.distillation.settings import Infer, Student
from coin_ray.distillation.targets import PseudoLabels
from coin_ray.distillation.training import train_round
from coin_ray.imaging.settings import Instances
from coin_ray.pipeline.settings import Cell
from coin_ray.weights.modules import normalise
from tests.computing import compute


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


UNET = Student(arch="unet", width=4, crop=64)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """A U-Net that has seen a little: maps with outlines to compare."""
    image, labels = generate_tile(3, 128)
    pseudo = PseudoLabels(labels, np.zeros(labels.shape, dtype=bool))
    student = UNET.model_copy(
        update={"batch": 2, "optimiser": "adamw", "lr": 3e-3, "head_lr": 1.0, "iterations": 20}
    )
    return train_round([(image, pseudo)], student)[0]


def predict(config: Cell, weights: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    inputs = {"round": weights, "image": image, "scale": 1.0}
    return compute("predict", config, inputs).arrays["array"]


def cell(**infer: Any) -> Cell:
    return Cell.model_validate(
        {
            "student": {"arch": "unet", "width": 4},
            "instances": {"footprint": 9},
            "infer": {"scales": [1.0, 0.5], "minmax": False} | infer,
        }
    )


@pytest.mark.parametrize("minmax", [False, True])
def test_tiles_give_the_instances_of_the_whole_image(
    weights: dict[str, np.ndarray], minmax: bool
) -> None:
    """Exactly those up to their numbers; what acts on the whole map acts on the stitched one."""
    image = generate_tile(5, 330)[0][:, :301]
    whole = predict(cell(minmax=minmax), weights, image)
    tiled = predict(cell(minmax=minmax, tile=64), weights, image)
    pairs = np.unique(np.stack([whole.ravel(), tiled.ravel()]), axis=1)
    assert whole.max() > 50
    assert pairs.shape[1] == len(np.unique(whole)) == len(np.unique(tiled))


def test_tiles_of_a_network_with_image_pooling_are_close() -> None:
    """DeepLabv3+ pools over what it is shown, so a tile differs: by less than .01 on average."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_student(Student(encoder="resnet50", encoder_weights="none", edge=False))
    for module in model.modules():  # one batch sets the statistics, or all maps were flat
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = torch.from_numpy(np.stack([generate_tile(seed, 96)[0] for seed in (1, 2)]))
    with torch.inference_mode():
        model.train()(normalise(batch.permute(0, 3, 1, 2)))
    image = generate_tile(5, 288)[0][:, :128]
    infer = Infer(scales=(1.0,), hflip=False)
    whole, _ = predict_probability(model, image, infer)
    tiled, _ = predict_probability(model, image, infer.model_copy(update={"tile": 144}))
    assert whole.std() > 0.02
    assert 0 < np.abs(whole - tiled).mean() < 0.01


def test_a_student_without_an_edge_head_needs_no_other_settings() -> None:
    """So that the edge head is one switch, also where its markers are asked for."""
    image, labels = generate_tile(3, 64)
    pseudo = PseudoLabels(labels, np.zeros(labels.shape, dtype=bool))
    student = UNET.model_copy(update={"edge": False, "batch": 1, "iterations": 2})
    bare, _ = train_round([(image, pseudo)], student)
    maps = [
        predict(cell(edge_markers=markers).model_copy(update={"student": student}), bare, image)
        for markers in (False, True)
    ]
    np.testing.assert_array_equal(*maps)


def test_the_crf_refines_the_stretched_map_before_the_decision(
    weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from coin_ray.propagation import crf as room

    asked: list[tuple[np.ndarray, dict[str, Any]]] = []

    def shrink(image: np.ndarray, maps: np.ndarray, crf: Any) -> np.ndarray:
        asked.append((maps, crf))
        return np.stack([1 - maps[1] ** 2, maps[1] ** 2])

    monkeypatch.setattr(room, "dense_crf", shrink)
    image = generate_tile(6, 96)[0]
    found = predict(cell(minmax=True, crf=True), weights, image)
    model = student_from_weights(weights, UNET)
    infer = Infer(scales=(1.0, 0.5), minmax=False)
    seg, edge = predict_probability(model, image, infer)
    stretched = (seg - seg.min()) / (seg.max() - seg.min())
    ((maps, crf),) = asked
    np.testing.assert_allclose(maps, np.stack([1 - stretched, stretched]), atol=1e-6)
    assert crf.iterations == 10 and "enabled" not in crf and "gamma" not in crf
    expected = instances_from_probability(stretched**2, edge, infer, Instances(footprint=9))
    np.testing.assert_array_equal(found, expected)
    without = predict(cell(minmax=True), weights, image)
    assert (found > 0).sum() < (without > 0).sum()


def test_the_crf_itself_gives_instances(weights: dict[str, np.ndarray]) -> None:
    pytest.importorskip("pydensecrf.densecrf", reason="the extra `crf` is not installed")
    image = generate_tile(6, 96)[0]
    plain = predict(cell(), weights, image) > 0
    refined = predict(cell(crf=True), weights, image) > 0
    assert refined.any() and not np.array_equal(plain, refined)
    assert (plain & refined).sum() / (plain | refined).sum() > 0.5
