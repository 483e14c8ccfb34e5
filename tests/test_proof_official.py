"""A generated tile through the pipeline in the official profile and, beside it, through a literal
transcription of the formulas: every intermediate is held equal, exactly where it is discrete and to
1e-5 where it is not.

Every setting is that of ``search_spaces/official.yaml`` but the length of training (one step of two
crops of 64 px). The three networks stand in for weights that cannot be had here: FiT3D's MAE, SAM
vit_h and the ImageNet ResNet-101 are the same architectures, narrow and random, under the official
names. Where later steps would magnify the last digit, the literal walk goes on from what the
pipeline has, after holding it equal: what the networks give (tokens in half precision, masks as
bits, probabilities) and the maps that go into the dense CRF, which both walks leave out where the
extra ``crf`` is not installed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from coin_ray.confidence.prompts import prompt_points
from coin_ray.data.synthetic import generated_samples
from coin_ray.distillation.canny import canny_target
from coin_ray.labels import InstanceMasks
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from tests import proof_literal as literal
from tests import proof_literal_student as student
from tests.conftest import ROOT
from tests.test_confidence_sam import tiny_sam

SIZE = 104  # px: windows of 17, magnified to 102, fitted to 112
CLOSE = 1e-5
MAE = "vit_base_patch16_224.mae"
NARROW = {"embed_dim": 24, "depth": 2, "num_heads": 2}
WITH_CRF = find_spec("pydensecrf") is not None
WALKED = 1  # of the two training images, the one with the more instances
SHORT = {"iterations": 1, "batch": 2, "crop": 64}


def thin_resnet(pretrained: bool = False, **more: Any) -> Any:
    """ResNet-101 with one narrow block a stage."""
    from timm.models.resnet import Bottleneck, _create_resnet

    thin = {"block": Bottleneck, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 32)}
    return _create_resnet("resnet101", pretrained, **thin | more)


def mae() -> Any:
    import timm

    torch.manual_seed(1)
    options = {"pretrained": False, "num_classes": 0, "dynamic_img_size": True}
    return timm.create_model(MAE, **options, **NARROW).eval()


def write_home(folder: Path) -> None:
    """A registry of weights that overrides the three official files."""
    import timm

    rows = [
        f"mae_base_fit3d: {{file: mae.pth, build: {{model: {MAE}, overrides: {NARROW}}}, ",
        "licence: none, size_mb: 1}\n",
        "sam_vit_h: {file: sam.pth, build: {model: vit_h}, licence: none, size_mb: 1}\n",
        "resnet101_imagenet: {file: resnet.safetensors, build: {model: resnet101}, ",
        "licence: none, size_mb: 1}\n",
    ]
    (folder / "weights").mkdir()
    (folder / "registry.yaml").write_text("".join(rows).replace("'", ""))
    torch.save(mae().state_dict(), folder / "weights" / "mae.pth")
    torch.save(tiny_sam().state_dict(), folder / "weights" / "sam.pth")
    torch.manual_seed(2)
    encoder = timm.create_model("resnet101", features_only=True, out_indices=(1, 4))
    save_file(encoder.state_dict(), folder / "weights" / "resnet.safetensors")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The finished cell: ``run``, its two ``samples`` and what the ``step`` of training saw."""
    from coin_ray.compat import ensure_torchvision
    from coin_ray.confidence.segmenter import load_segmenter
    from coin_ray.distillation import training

    ensure_torchvision()
    import timm.models._registry as timm_registry
    from segment_anything import sam_model_registry

    folder, seen = tmp_path_factory.mktemp("official"), SimpleNamespace()
    losses = training._losses

    def spy(model: Any, *batch: Any) -> Any:
        seen.model, seen.noise = copy.deepcopy(model), torch.get_rng_state()
        seen.batch = [tensor.clone() for tensor in batch]
        return losses(model, *batch)

    profile = yaml.safe_load((ROOT / "search_spaces" / "official.yaml").read_text())
    profile = profile["baseline"] | {"sam": {**profile["baseline"]["sam"], "model": "vit_h"}}
    profile["student"] |= SHORT
    profile["crf"]["enabled"] = profile["infer"]["crf"] = WITH_CRF
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    load_segmenter.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COIN_RAY_HOME", str(folder))
        patch.setitem(timm_registry._model_entrypoints, "resnet101", thin_resnet)
        patch.setitem(sam_model_registry, "vit_h", lambda: tiny_sam())
        patch.setattr(training, "_losses", spy)
        with torch.random.fork_rng(devices=[]):
            write_home(folder)
        samples = generated_samples(folder / "tiles", 2, size=SIZE, seed=3)
        run = open_local(Cell.model_validate(profile), 1, [s.image for s in samples], folder)
        run_local(run, samples)
        yield SimpleNamespace(run=run, samples=samples, step=seen)
    load_segmenter.cache_clear()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def features(walk: SimpleNamespace) -> list[np.ndarray]:
    """Literal pixel features (H, W, D) of both training images from their stored tokens."""
    out = []
    for image in walk.run.train:
        stored = walk.run.artifact("features", image, zoom=6.0).arrays
        corners = [(int(y), int(x)) for y, x in stored["origins"]]
        side = int(stored["geometry"][0])
        out.append(literal.pixel_features((SIZE, SIZE), corners, side, list(stored["tokens"])))
    return out


@pytest.fixture(scope="module")
def steps(walk: SimpleNamespace, features: list[np.ndarray]) -> SimpleNamespace:
    """The literal walk: each result made from the one before."""
    run, image = walk.run, walk.run.train[WALKED]
    out = SimpleNamespace(features=features)
    out.coarse = [run.array("ucis", other) for other in run.train]
    out.centroids = literal.class_means(features, out.coarse, WALKED)
    out.similarity = literal.similarity(features[WALKED], out.centroids)
    out.transport, out.iterations = literal.transport(out.similarity, 0.1)
    maps = run.array("transport", image)
    maps = literal.crf(image.load(), maps) if WITH_CRF else maps
    out.mask = maps[1] > maps[0]
    out.instances = literal.instances(out.mask)
    out.prompts = literal.prompts(out.instances)
    out.masks = [full(run.masks(image, 1), i) for i in range(len(out.prompts))]
    out.scores = literal.agreement(out.instances, out.masks)
    out.threshold = literal.threshold(out.scores)
    out.labels, out.ignore = literal.pseudo_labels(
        out.instances, out.masks, out.scores, out.threshold
    )
    return out


def full(masks: InstanceMasks, i: int) -> np.ndarray:
    out = np.zeros((SIZE, SIZE), dtype=bool)
    y0, x0, y1, x1 = masks.boxes[i].tolist()
    out[y0:y1, x0:x1] = masks.crops[i]
    return out


def test_windows_and_tokens(walk: SimpleNamespace) -> None:
    model = mae()

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            tokens = model.forward_features(pixels)[:, 1:]  # the first is the class token
        side = int(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).reshape(1, -1, side, side)

    image = walk.run.train[WALKED]
    corners, side, tokens = literal.window_tokens(
        image.load(), forward, zoom=6, patch=16,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    stored = walk.run.artifact("features", image, zoom=6.0).arrays
    assert stored["geometry"].tolist() == [side, SIZE, SIZE]
    assert [tuple(corner) for corner in stored["origins"].tolist()] == corners
    assert len(corners) == 81
    found, expected = stored["tokens"].astype(np.float64), np.stack(tokens)
    assert found.shape == expected.shape == (81, 24, 7, 7)
    half_precision = 2.0**-11 * np.maximum(abs(expected), 2.0**-14)
    assert (abs(found - expected) <= half_precision + CLOSE).all()
    assert expected.std(axis=(0, 2, 3)).min() > 0.01, "the tokens must tell pixels apart"


def test_centroids(walk: SimpleNamespace, steps: SimpleNamespace) -> None:
    """Background of the image, foreground of both images, every pixel alike."""
    images = walk.run.train
    parts = [walk.run.artifact("centroids", image, zoom=6.0).arrays for image in images]
    background = parts[WALKED]["sums"][0] / parts[WALKED]["counts"][0]
    foreground = sum(p["sums"][1] for p in parts) / sum(p["counts"][1] for p in parts)
    np.testing.assert_allclose(np.stack([background, foreground]), steps.centroids, atol=CLOSE)


def test_similarity_and_transport(walk: SimpleNamespace, steps: SimpleNamespace) -> None:
    image = walk.run.train[WALKED]
    np.testing.assert_allclose(walk.run.array("similarity", image), steps.similarity, atol=CLOSE)
    np.testing.assert_allclose(walk.run.array("transport", image), steps.transport, atol=CLOSE)
    assert steps.iterations == 2


def test_mask(walk: SimpleNamespace, steps: SimpleNamespace) -> None:
    np.testing.assert_array_equal(walk.run.array("refine", walk.run.train[WALKED]), steps.mask)
    assert 0.1 < steps.mask.mean() < 0.9


def test_instances_and_prompts(walk: SimpleNamespace, steps: SimpleNamespace) -> None:
    found = walk.run.array("instances", walk.run.train[WALKED])
    np.testing.assert_array_equal(found, steps.instances)
    assert found.max() >= 10
    points = prompt_points(found, walk.run.config.sam.prompt)
    assert points.tolist() == [list(p) for p in steps.prompts]


def test_masks_of_the_segmenter(walk: SimpleNamespace, steps: SimpleNamespace) -> None:
    from PIL import Image

    run, image = walk.run, walk.run.train[WALKED]
    sam, masks = tiny_sam(), run.masks(image, 1)
    side = sam.image_encoder.img_size
    resized = Image.fromarray(image.load()).resize((side, side), Image.Resampling.BILINEAR)
    with torch.inference_mode():
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
        embedding = sam.image_encoder(sam.preprocess(pixels)).half().float()
    areas = []
    for i, point in enumerate(steps.prompts):
        mask, quality = literal.prompted(sam, embedding, point, (SIZE, SIZE))
        assert (mask != steps.masks[i]).mean() < 1e-3, "equal up to rounding at the zero line"
        assert masks.predicted_iou[i] == pytest.approx(min(max(quality, 0), 1), abs=CLOSE)
        areas.append(mask.mean())
    assert 0.01 < np.median(areas) < 0.95, "the masks must have outlines"


def test_scores_and_threshold(walk: SimpleNamespace, steps: SimpleNamespace) -> None:
    image = walk.run.train[WALKED]
    scores = walk.run.artifact("score", image, 1).arrays["scores"]
    np.testing.assert_allclose(scores, steps.scores, atol=CLOSE)
    info = walk.run.labels(image, 1).info
    assert info["threshold"] == pytest.approx(steps.threshold, abs=CLOSE)
    accepted = sum(score > steps.threshold for score in steps.scores)
    assert 1 < accepted == info["accepted"] < len(scores)


def test_pseudo_labels_and_edges(walk: SimpleNamespace, steps: SimpleNamespace) -> None:
    found = walk.run.labels(walk.run.train[WALKED], 1).arrays
    np.testing.assert_array_equal(found["label_map"], steps.labels)
    np.testing.assert_array_equal(found["ignore"], steps.ignore)
    assert steps.ignore.any() and steps.labels.max() > 1
    np.testing.assert_array_equal(
        canny_target(found["label_map"]), student.edge_target(steps.labels)
    )


def test_loss_and_step_of_training(walk: SimpleNamespace) -> None:
    """The batch that the pipeline drew: its loss, and one step of SGD with Nesterov momentum, ten
    times faster outside the encoder, and the average of the weights."""
    artifact = walk.run.student(1)
    pixels, foreground, edges, ignore = walk.step.batch
    assert ignore.any() and foreground.any() and edges.any()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    model = walk.step.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(walk.step.noise)
        images = ((pixels.permute(0, 2, 3, 1) / 255 - mean) / std).permute(0, 3, 1, 2)
        segmentation, edge = model(images)
    loss = student.loss(segmentation, foreground, ignore) + student.loss(edge, edges, ignore)
    assert artifact.info["loss"] == pytest.approx(loss.item(), abs=CLOSE)
    loss.backward()
    after = dict(model.state_dict())
    for name, weight in model.named_parameters():
        rate = 1e-3 if name.startswith("encoder.") else 1e-2
        slope = weight.grad + 4e-5 * before[name]
        after[name] = before[name] - rate * (slope + 0.9 * slope)
    moved = 0.0
    for name, old in before.items():
        new = after[name].detach()
        # The average warms up: after the first step it keeps a tenth of the old weights.
        expected = 0.1 * old + 0.9 * new if old.is_floating_point() else new
        np.testing.assert_allclose(artifact.arrays[name], expected, atol=CLOSE, rtol=CLOSE)
        moved = max(moved, float((new - old).abs().max()))
    assert moved > 100 * CLOSE


def test_inference(walk: SimpleNamespace) -> None:
    from coin_ray.distillation.inference import predict_probability
    from coin_ray.distillation.network import student_from_weights

    run, image = walk.run, walk.run.train[WALKED]
    model = student_from_weights(run.student(1).arrays, run.config.student)
    infer = run.config.infer
    assert infer.scales == (1.0, 0.5, 1.5, 2.0) and infer.hflip
    found, _ = predict_probability(model, image.load(), infer)
    expected = student.probability(model, image.load(), infer.scales)
    np.testing.assert_allclose(found, expected, atol=CLOSE)
    maps = literal.stretched(np.stack([1 - found, found]))
    maps = literal.crf(image.load(), maps) if WITH_CRF else maps
    labels = literal.instances(student.filled(maps[1] > maps[0]))
    np.testing.assert_array_equal(run.array("predict", image, 1), labels)
    assert labels.max() >= 10


@pytest.mark.parametrize("step", ["ucis", "step1", "round_1"])
def test_evaluation(walk: SimpleNamespace, step: str) -> None:
    sample = walk.samples[WALKED]
    found = walk.run.evaluate(sample, step)
    expected = student.evaluate(sample.load_label_map(), walk.run.labels_at(sample.image, step))
    assert expected["official_aji"] > 0
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=CLOSE), name
