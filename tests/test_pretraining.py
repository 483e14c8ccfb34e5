"""Pretraining: runs that learn and resume, and files that load."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from coin_ray.errors import UserError
from coin_ray.pretraining import adapted_sam, dino, pretrain, small_sam
from coin_ray.pretraining.backbone import FAMILIES, build_vit, pretrain_backbone
from coin_ray.pretraining.detector import pretrain_detector
from coin_ray.pretraining.pretrain import Asked
from coin_ray.training.checkpoint import Log
from tests.conftest import SEED

TINY = {"embed_dim": 24, "depth": 1, "num_heads": 2}
TINY_SAM = {"dim": 16, "depth": 2, "heads": 2, "decoder_dim": 16}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_schedule():
    assert pretrain.rate(0.06) == pytest.approx(1.0)
    assert pretrain.rate(1.0) == pytest.approx(0.02)
    assert pretrain.rate(0.0) < pretrain.rate(0.03) < 1


def test_ends_of_a_log():
    assert pretrain.ends(Log(loss=[4.0, 3.0, 2.0, 1.0]), 0.5) == (3.5, 1.5)
    assert math.isnan(pretrain.ends(Log(loss=[]))[0])


def _train(what, out, **asked):
    if what == "segmenter":
        found = Asked(out, batch=1, tiles=2, amp=False, **asked)
        return small_sam.pretrain_segmenter(found, prompts=8, size=TINY_SAM)
    if what == "detector":
        return pretrain_detector(Asked(out, batch=1, tiles=2, amp=False, **asked), encoder=None)
    return pretrain_backbone(what, Asked(out, batch=4, tiles=2, amp=False, **asked), overrides=TINY)


@pytest.mark.parametrize("what", ["mae", "dinov1", "dinov2_reg", "segmenter", "detector"])
def test_interrupted_and_resumed_equals_uninterrupted(what, tmp_path):
    straight, broken = tmp_path / "straight.safetensors", tmp_path / "broken.safetensors"
    whole = _train(what, straight, steps=3, seed=4)

    def stop(step, steps, loss):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(what, broken, steps=3, seed=4, every=0.0, progress=stop)
    seen = []
    again = _train(
        what, broken, steps=3, seed=4, resume=True, progress=lambda s, f, _: seen.append(s)
    )
    assert seen == [3]
    assert again == whole
    one, two = load_file(straight), load_file(broken)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_resuming_with_other_settings_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "a.safetensors"
    _train("mae", out, steps=1, seed=0)
    with pytest.raises(UserError, match="another run"):
        _train("mae", out, steps=2, seed=1, resume=True)
    monkeypatch.setattr(pretrain, "POOL", "other tiles")
    with pytest.raises(UserError, match="another run"):
        _train("mae", out, steps=2, seed=0, resume=True)


def test_resuming_on_other_images_is_refused(tmp_path):
    def painted(value):
        Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(tmp_path / "a.png")
        return [tmp_path]

    asked = Asked(tmp_path / "a.safetensors", batch=4, tiles=2, amp=False, steps=1)
    pretrain_backbone("mae", asked, painted(10), TINY)
    with pytest.raises(UserError, match="another run"):
        pretrain_backbone("mae", replace(asked, resume=True), painted(11), TINY)


def test_the_segmenter_learns_what_its_masks_are_worth_and_nothing_else(tmp_path, monkeypatch):
    from coin_ray.data.synthetic import generate_tile
    from coin_ray.weights.state_files import load_state

    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(generate_tile(3, 96)[0]).save(images / "a.png")  # less than a square
    asked = Asked(tmp_path / "a.safetensors", batch=1, tiles=1, steps=2, amp=False)
    log = adapted_sam.adapt_segmenter(asked, [images], 0.5)
    assert log.steps == 2 and all(map(math.isfinite, log["loss"]))
    found, shipped = load_file(asked.out), load_state("sam_mini_2")
    assert found.keys() == shipped.keys()
    other = {k for k in found if not torch.equal(found[k], shipped[k].half())}
    assert other and all(k.startswith("mask_decoder.iou_prediction_head.") for k in other)
    with pytest.raises(UserError, match="another run"):
        adapted_sam.adapt_segmenter(replace(asked, resume=True), [images], 0.25)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="another run"):
        patch.setattr(adapted_sam, "digest", lambda name: "another detector")
        adapted_sam.adapt_segmenter(replace(asked, resume=True), [images], 0.5)
    Image.fromarray(generate_tile(4, 96)[0]).save(images / "a.png")
    with pytest.raises(UserError, match="another run"):
        adapted_sam.adapt_segmenter(replace(asked, resume=True), [images], 0.5)
    Image.fromarray(np.full((400, 400, 3), 240, np.uint8)).save(images / "a.png")
    with pytest.raises(UserError, match="sure of no nucleus"):
        adapted_sam.adapt_segmenter(asked, [images], 0.25)


def test_a_resolution_of_no_images_is_refused(tmp_path):
    from tests.cli_calls import call

    out = tmp_path / "a.safetensors"
    done = call("pretrain", "segmenter", "--mpp", "0.5", "--steps", "1", "--out", str(out))
    assert done.exit_code == 2 and "--mpp is of the images of --data" in done.output
    assert not out.exists()


def test_what_the_detector_is_not_sure_of_is_said():
    from coin_ray.data.synthetic import generate_tile

    image, truth = generate_tile(3, 256)
    ((same, ids),) = adapted_sam.sure_of([image], 0.25, "cpu")
    assert same is image and ids.shape == truth.shape
    assert (ids == -1).any()
    assert (ids > 0)[truth > 0].mean() > 2 * (ids > 0)[truth == 0].mean()


@pytest.mark.trained
@pytest.mark.parametrize(("what", "part"), [("mae", 0.75), ("segmenter", 0.9), ("detector", 0.9)])
def test_a_short_run_lowers_its_loss(what, part, tmp_path):
    # To .31 to .60 of what it was, to .65 to .83, and to .54 to .75, whatever the seed and the
    # instruction set.
    log = _train(what, tmp_path / "a.safetensors", steps=25, seed=SEED, lr=5e-3)
    first, last = pretrain.ends(log, 0.15)
    assert last < part * first


def test_dino_pulls_the_student_to_its_teacher(tmp_path):
    # The class loss of DINO starts at that of two random heads and ends below it on a fixed pair.
    generator = torch.Generator().manual_seed(0)
    head, features = dino.Head(8, 16, 16, 8), torch.randn(6, 8, generator=generator)
    target = dino.centred(1.2 * torch.randn(6, 16, generator=generator), torch.zeros(1, 16))
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = dino.class_loss(head(features), target, 3)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_loads_into_the_registry_model(family, tmp_path):
    out = tmp_path / "a.safetensors"
    pretrain_backbone(family, Asked(out, batch=2, tiles=1, steps=1), overrides=TINY)
    vit = build_vit(family, **TINY)
    vit.load_state_dict({k: v.float() for k, v in load_file(out).items()}, strict=True)
    prefix = {"dinov2_reg": 5}.get(family, 1)
    assert vit.forward_features(torch.zeros(1, 3, 256, 256)).shape == (1, 256 + prefix, 24)


def test_the_segmenter_file_loads_into_the_segmenter(tmp_path):
    from coin_ray.confidence.small_model import SmallSam

    out = tmp_path / "a.safetensors"
    _train("segmenter", out, steps=1, seed=0)
    SmallSam(**TINY_SAM).load_state_dict({k: v.float() for k, v in load_file(out).items()})


def test_the_detector_begins_with_the_segmenter_s_encoder_and_its_file_loads(tmp_path):
    from coin_ray.ucis.detector import VotingNetwork
    from coin_ray.weights.state_files import load_state

    out = tmp_path / "a.safetensors"
    pretrain_detector(Asked(out, batch=1, tiles=1, steps=1, lr=1e-12, amp=False))
    found = {k: v.float() for k, v in load_file(out).items()}
    VotingNetwork().load_state_dict(found)
    encoder = {k: v for k, v in load_state("sam_mini").items() if k.startswith("image_encoder.")}
    assert encoder and all(
        torch.allclose(found[k], v.float(), atol=1e-3) for k, v in encoder.items()
    )


@pytest.mark.parametrize("what", ["segmenter", "detector"])
def test_a_training_begins_with_the_weights_of_a_file(what, tmp_path):
    first, other, out = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    _train(what, first, steps=2, seed=0)
    _train(what, other, steps=2, seed=1)
    _train(what, out, steps=1, seed=2, start=first, lr=1e-12)
    begun, found = load_file(first), load_file(out)
    assert any(not torch.equal(v, load_file(other)[k]) for k, v in begun.items())
    assert all(torch.allclose(found[k], v, atol=1e-3) for k, v in begun.items())
    with pytest.raises(UserError, match="another run"):
        _train(what, out, steps=2, seed=2, start=other, lr=1e-12, resume=True)


def test_the_weights_of_another_network_are_no_start(tmp_path):
    first, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    _train("segmenter", first, steps=1, seed=0)
    with pytest.raises(UserError, match="not hold the weights of this network"):
        _train("detector", out, steps=1, seed=0, start=first)
    with pytest.raises(UserError, match="not a readable weight file"):
        _train("detector", out, steps=1, seed=0, start=tmp_path / "none.safetensors")
    assert not out.exists()


def test_the_command_hands_the_start_on(tmp_path):
    from tests.cli_calls import call

    out, start = tmp_path / "a.safetensors", tmp_path / "none.safetensors"
    for what in (["segmenter"], ["detector"], ["segmenter", "--data", str(tmp_path)]):
        done = call(
            *("pretrain", *what, "--steps", "1", "--tiles", "1"),
            *("--start", str(start), "--out", str(out)),
        )
        assert done.exit_code == 2 and "none.safetensors" in done.output, what
        assert not out.exists()


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown backbone family"):
        pretrain_backbone("byol", Asked(tmp_path / "a.safetensors", steps=1))


def test_the_command_trains_a_backbone(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from coin_ray.cli.verbs.pretrain import app

    called = {}

    def fake(family, asked, data):
        called.update(family=family, asked=asked, data=data)
        for path in (asked.out, asked.checkpoint):
            path.write_bytes(b"")
        return Log(loss=[2.0, 1.0])

    monkeypatch.setattr("coin_ray.pretraining.backbone.pretrain_backbone", fake)
    out = tmp_path / "w.safetensors"
    arguments = [
        "backbone",
        "--family",
        "mae",
        "--out",
        str(out),
        "--data",
        str(tmp_path),
        "--steps",
        "3",
        "--batch",
        "64",
        "--lr",
        "0.002",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    asked = called["asked"]
    assert (called["family"], asked.steps, asked.minutes) == ("mae", 3, None)
    assert (asked.batch, asked.lr) == (64, 0.002)
    assert called["data"] == [tmp_path]
    assert "loss 2.0000 -> 1.0000" in result.output
