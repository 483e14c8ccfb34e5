"""Precision: what it rounds, what it leaves alone, and what it adds to a key."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from coin_ray.confidence.prompts import Prompts
from coin_ray.data.synthetic import generate_tile
from coin_ray.distillation.inference import predict_probability
from coin_ray.distillation.network import build_student
from coin_ray.distillation.settings import Infer, Student
from coin_ray.errors import UserError
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.precision import Precision, arithmetic, computing
from coin_ray.propagation.backbones import load_backbone
from coin_ray.propagation.features import extract_features
from coin_ray.propagation.settings import Uss
from coin_ray.training.loop import Limit, Training, train
from coin_ray.training.world import World
from tests.computing import FakeImage
from tests.test_confidence_sam import full, picture, tiny_sam

IMAGE = FakeImage("a")
BF16_OF_0_1 = "fdfdfb6e0dfa54d0dfeebcf6e2cf3181cf9cec3319ec4d1900b4c98cb1b97541"
"""Digest of the first round of the cell below, as version 0.1 made it with ``student.bf16``."""


def flags() -> tuple[bool, ...]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )


def product() -> torch.dtype:
    return torch.ones(2, 2).mm(torch.ones(2, 2)).dtype


def round_key(**student: Any) -> Any:
    values = {"student": {"arch": "unet", "encoder_weights": "none"} | student}
    chain = Chain(Cell.model_validate(values), 0, (IMAGE,), str, lambda folder, name: name)
    return chain.key(Ref("round", round=1))


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_flags_are_set_and_given_back(precision: Precision, rounds: bool) -> None:
    before = flags()
    with arithmetic("cpu", precision, deterministic=True):
        assert flags() == (rounds, rounds, True)
    assert flags() == before
    with pytest.raises(ZeroDivisionError), arithmetic("cpu", precision, deterministic=False):
        assert flags() == (rounds, rounds, False)
        _ = 1 / 0
    assert flags() == before


def test_both_words_for_bf16_have_the_key_of_0_1() -> None:
    assert round_key(bf16=True).digest == round_key(precision="bf16").digest == BF16_OF_0_1
    keys = {precision: round_key(precision=precision) for precision in ("fp32", "tf32", "bf16")}
    assert len({key.digest for key in keys.values()}) == 3
    settings = {name: json.loads(key.fields)["settings"] for name, key in keys.items()}
    assert "precision" not in settings["fp32"] and settings["tf32"]["precision"] == "tf32"
    assert keys["fp32"] == round_key(bf16=False)
    assert Student(bf16=True).precision == "bf16" and Student(precision="bf16").bf16
    for said in ({"bf16": True, "precision": "tf32"}, {"bf16": False, "precision": "bf16"}):
        with pytest.raises(ValidationError, match="write student"):
            Student.model_validate(said)


def test_a_gpu_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with (
        pytest.raises(UserError, match="Tesla T4"),
        computing("cuda", "bf16"),
    ):
        pass


def test_only_the_forward_pass_of_a_training_is_cast() -> None:
    seen: list[torch.dtype] = []
    layer = torch.nn.Linear(3, 2)

    def losses_of(step: int, done: float) -> dict[str, torch.Tensor]:
        found = layer(torch.ones(4, 3))
        found.register_hook(
            lambda gradient: seen.append(torch.ones(2, 2).mm(torch.ones(2, 2)).dtype)
        )
        seen.append(found.dtype)
        return {"mean": found.float().mean()}

    for precision in ("fp32", "tf32", "bf16"):
        sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
        train(Training(layer, sgd, losses_of, Limit(1)), World(precision=precision))
    one, half = torch.float32, torch.bfloat16
    assert seen == [one, one, one, one, half, one]
    assert layer.weight.dtype == torch.float32


def test_features_in_bf16_point_the_same_way() -> None:
    image, backbone = generate_tile(0, 64)[0], load_backbone("mae_mini", layer=-1)

    def tokens(precision: Precision) -> np.ndarray:
        uss = Uss(size="mini", window=64, precision=precision)
        found = extract_features(image, backbone, uss, zoom=1.0, batch=2)
        return (
            np.moveaxis(found.to_arrays()["tokens"], 1, -1)
            .reshape(-1, backbone.dim)
            .astype(np.float32)
        )

    exact, rounded = tokens("fp32"), tokens("bf16")
    assert np.array_equal(exact, tokens("tf32"))  # which a CPU does not have
    assert not np.array_equal(exact, rounded)
    cosine = (
        (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    )
    assert cosine.min() > 0.999


def test_segment_anything_in_bf16_knows_its_places_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    from coin_ray.confidence.sam import SamSegmenter

    segmenter, image = SamSegmenter(tiny_sam(), batch=3), picture(90, 120)
    points = np.array([[y, x] for y in range(10, 90, 20) for x in range(10, 120, 30)], dtype=float)
    prompts: list[torch.Tensor] = []
    encode = segmenter.sam.prompt_encoder.forward

    def recorded(*arguments: Any) -> Any:
        prompts.append(encode(*arguments)[0])
        return encode(*arguments)

    monkeypatch.setattr(segmenter.sam.prompt_encoder, "forward", recorded)
    found = {}
    for precision in ("fp32", "bf16"):
        with computing("cpu", precision):
            embedding = segmenter.encode(image)
            found[precision] = embedding, segmenter.decode(embedding, Prompts(points), (90, 120))
    exact, rounded = found["fp32"], found["bf16"]
    assert rounded[0]["embedding"].dtype == np.float16
    assert not np.array_equal(exact[0]["embedding"], rounded[0]["embedding"])
    half = len(prompts) // 2
    assert all(map(torch.equal, prompts[:half], prompts[half:])) and half > 1
    both = [[full(masks, i, (90, 120)) for i in range(len(points))] for _, masks in found.values()]
    agree = [np.mean(a == b) for a, b in zip(*both, strict=True)]
    assert np.mean(agree) > 0.9


def test_the_small_segmenter_draws_the_same_nuclei_in_bf16() -> None:
    from coin_ray.confidence.segmenter import load_segmenter
    from coin_ray.labels import centroids

    image, truth = generate_tile(3, 128)
    segmenter = load_segmenter("mini", batch=64)
    points = centroids(truth)
    drawn = []
    for precision in ("fp32", "bf16"):
        with computing("cpu", precision):
            masks = segmenter.decode(segmenter.encode(image), Prompts(points), (128, 128))
        assert masks.predicted_iou.dtype == np.float32
        drawn.append([full(masks, i, (128, 128)) for i in range(len(points))])
    overlap = [(a & b).sum() / max(1, (a | b).sum()) for a, b in zip(*drawn, strict=True)]
    assert np.median(overlap) > 0.95


def test_a_student_predicts_nearly_the_same_in_bf16() -> None:
    torch.manual_seed(0)
    model, image = build_student(Student(arch="unet", width=4)), generate_tile(0, 64)[0]
    infer = Infer(scales=(1.0, 0.5))
    exact, _ = predict_probability(model, image, infer)
    rounded, _ = predict_probability(model, image, infer.model_copy(update={"precision": "bf16"}))
    assert rounded.dtype == np.float32 and 0 < np.abs(exact - rounded).max() < 0.02
