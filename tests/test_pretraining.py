"""Pretraining: each loss against values worked out by hand, and runs that learn and resume."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from coin_ray.errors import UserError
from coin_ray.pretraining import adapted_sam, data, dino, dinov2, mae, pretrain, small_sam
from coin_ray.pretraining.backbone import FAMILIES, build_vit, pretrain_backbone
from coin_ray.pretraining.detector import pretrain_detector
from coin_ray.pretraining.pretrain import Asked
from coin_ray.training.checkpoint import Log
from coin_ray.training.warp import blur, stain_shift
from coin_ray.ucis.detector_targets import dense_loss, dense_targets, untaught
from tests.conftest import SEED

TINY = {"embed_dim": 24, "depth": 1, "num_heads": 2}
TINY_SAM = {"dim": 16, "depth": 2, "heads": 2, "decoder_dim": 16}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The losses


def test_patches_come_in_raster_order():
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    patches = mae.patchify(image, 2)
    assert patches.shape == (1, 4, 12)
    assert patches[0, 1].reshape(2, 2, 3)[..., 0].tolist() == [[2, 3], [6, 7]]


def test_reconstruction_is_measured_on_hidden_patches_of_unit_deviation():
    # Two patches of one pixel; (0, 1, 2) has mean 1 and variance 1, so its target is (-1, 0, 1).
    image = torch.tensor([[[0.0, 5.0]], [[1.0, 5.0]], [[2.0, 9.0]]])[None]
    hidden = torch.tensor([[True, False]])
    zero = mae.reconstruction_loss(torch.zeros(1, 2, 3), image, hidden, 1)
    assert zero.item() == pytest.approx(2 / 3, rel=1e-3)
    perfect = torch.tensor([[[-1.0, 0.0, 1.0], [99.0, 99.0, 99.0]]])
    assert mae.reconstruction_loss(perfect, image, hidden, 1).item() == pytest.approx(0, abs=1e-6)


def test_dino_target_and_cross_entropy():
    logits = torch.tensor([[0.0, dino.TEACHER_TEMPERATURE * math.log(3)]])
    target = dino.centred(logits, torch.zeros(1, 2))
    assert target[0].tolist() == pytest.approx([0.25, 0.75])
    assert dino.centred(logits, logits)[0].tolist() == pytest.approx([0.5, 0.5])
    assert dino.distillation_loss(torch.zeros(1, 2), target).item() == pytest.approx(math.log(2))
    agreeing = torch.tensor([[0.0, dino.STUDENT_TEMPERATURE * math.log(3)]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert dino.distillation_loss(agreeing, target).item() == pytest.approx(entropy)


def test_a_view_never_predicts_itself():
    # One crop, two global views (both taught) and one local: a student view that answers its own
    # target pays nothing, since that pair is left out.
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    sure, even = torch.tensor([[9.0, -9.0]]), torch.zeros(1, 2)
    student = torch.cat([-sure, sure, even])  # each global view answers the other's target
    # Pairs: (t0, s1) 0, (t0, local) ln 2, (t1, s0) 0, (t1, local) ln 2.
    assert dino.class_loss(student, target, 1).item() == pytest.approx(math.log(2) / 2)


def test_a_token_predicts_what_the_other_view_shows_at_its_place():
    # Targets that say where in the field they are: a token gets its own place, whatever the views.
    sides = [(0.9, -0.05, 0.1), (-0.7, 0.21, -0.23)]  # size, negative = mirrored; place x, y
    lie = torch.tensor([[[s, 0, x], [0, abs(s), y]] for s, x, y in sides])
    places = torch.nn.functional.affine_grid(lie, [2, 1, 8, 8], align_corners=False).flatten(1, 2)
    found, inside = dino.elsewhere(places, lie)
    assert found.shape == (2, 64, 2)
    assert inside.shape == (2, 64)
    assert torch.allclose(found[inside], places[inside], atol=1e-5)
    # The smaller view lies in the larger one but for its tokens beyond the outermost middles.
    within = ((places[1] - lie[0, :, 2]).abs() <= 0.9 * 7 / 8).all(-1)
    assert torch.equal(inside[1], within)
    assert 0 < inside[0].sum() < 64


def test_the_dense_loss_reaches_the_tokens_of_dinov1():
    from coin_ray.pretraining.backbone import build_method

    method = build_method("dinov1", 0, **TINY)
    rng = np.random.default_rng(0)
    views = method.views(data.Crops([], 0, generated=1), rng, 1.0, 2)
    method.loss(views, rng, 0.5).backward()
    assert method.patch_head.prototypes.grad.abs().max() > 0
    assert method.teacher_patch_head.prototypes.grad is None
    before = method.centres.clone()
    method.after_step(0, 0.5)
    assert (method.centres != before).any(1).all()


def test_balanced_targets_use_every_prototype_equally():
    q = dinov2.balanced(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), 0.5, 50)
    assert torch.allclose(q.sum(1), torch.ones(12))
    assert torch.allclose(q.sum(0), torch.full((4,), 3.0), atol=1e-3)
    # All samples alike: nothing tells them apart, so each is spread evenly.
    assert torch.allclose(
        dinov2.balanced(torch.tensor([[5.0, 0.0]] * 3), 0.1, 50), torch.full((3, 2), 0.5)
    )


def test_koleo_of_two_orthogonal_features():
    assert dinov2.koleo_loss(torch.eye(2)).item() == pytest.approx(-0.5 * math.log(2), abs=1e-4)


def test_block_mask_hides_at_least_the_share():
    mask = dinov2.block_mask(np.random.default_rng(0), 8, 0.4)
    assert mask.shape == (64,)
    assert 0.4 <= mask.mean() < 0.7


def test_masked_patches_do_not_reach_the_student():
    from coin_ray.pretraining.backbone import build_method

    method = build_method("dinov2_reg", 0, **TINY).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 0] = True
    changed = images.clone()
    changed[:, :, :16, :16] += 1
    with torch.no_grad():
        same = method.masked_features(images, mask), method.masked_features(changed, mask)
        nothing = torch.zeros_like(mask)
        seen = method.masked_features(images, nothing), method.masked_features(changed, nothing)
        plain = method.backbone.forward_features(images)
    assert torch.equal(*same)
    assert not torch.allclose(*seen)
    assert torch.allclose(seen[0], plain, atol=1e-6)


def test_mask_loss_of_an_undecided_mask():
    loss = small_sam.mask_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2))
    # Cross-entropy ln 2; Dice 1 - (2 * 2 + 1) / (2 + 4 + 1).
    assert loss.item() == pytest.approx(4 * math.log(2) + 1 - 5 / 7)


def test_prompt_loss_takes_the_best_mask_and_teaches_the_true_iou():
    target = torch.zeros(1, 2, 2)
    target[0, 0] = 1
    right, wrong = torch.where(target[0] > 0, 50.0, -50.0), torch.full((2, 2), 50.0)
    logits = torch.stack([wrong, right, wrong])[None]
    # IoU of "wrong" (everything) is 2/4, of "right" 1: a head that says so pays nothing.
    iou = torch.tensor([[0.5, 1.0, 0.5]])
    each = small_sam.mask_loss(logits, target)[0]
    positive = torch.tensor([True])
    expected = each.min() + 0.2 * each.mean()
    assert small_sam.prompt_loss(logits, iou, target, positive).item() == pytest.approx(
        expected.item()
    )
    off = small_sam.prompt_loss(logits, iou + 0.3, target, positive)
    assert off.item() == pytest.approx(expected.item() + 0.09, rel=1e-4)
    # On the background only the head learns, and the answer is 0.
    background = small_sam.prompt_loss(logits, iou, torch.zeros(1, 2, 2), torch.tensor([False]))
    assert background.item() == pytest.approx((0.25 + 1 + 0.25) / 3)


def test_dense_loss_reads_the_way_to_the_centre_only_inside():
    dense = torch.zeros(1, 4, 1, 2)
    dense[0, 0, 0, 0] = 1  # the first cell is foreground
    dense[0, 2:, 0, 0] = torch.tensor([0.5, -0.25])
    predicted = torch.zeros(1, 4, 1, 2)
    predicted[0, 2:, 0, 1] = 100  # outside: ignored
    assert dense_loss(predicted, dense).item() == pytest.approx(math.log(2) + 0.5 * 0.75)
    # What is not taught counts for nothing, whatever it is.
    nothing = torch.full((1, 1, 2), True)
    assert dense_loss(predicted, dense, nothing).item() == 0
    predicted[0, :2, 0, 1] = 50
    second = torch.tensor([[[False, True]]])
    assert dense_loss(predicted, dense, second).item() == pytest.approx(math.log(2) + 0.5 * 0.75)


def test_a_cell_is_not_taught_if_any_of_its_pixels_is_ignored():
    ignore = np.zeros((4, 6), bool)
    ignore[1, 1] = ignore[3, 4] = True
    assert untaught(ignore).tolist() == [[True, False, False], [False, False, True]]


# What they are fed


def test_targets_and_dense_maps_of_a_known_nucleus():
    label_map = np.zeros((256, 256), np.int32)
    label_map[100:120, 60:80] = 1
    label_map[100:120, 80:90] = 2
    targets = small_sam._targets(label_map, np.array([[110.5, 70.5], [10.5, 10.5]], np.float32))
    assert targets.shape == (2, 40, 40)
    assert targets[0].sum() * 4 == 400
    # The patch of the prompt starts at (104, 64), the neighbourhood 40 px before it.
    assert targets[0][(100 - 64) // 2 : (120 - 64) // 2, (60 - 24) // 2 : (80 - 24) // 2].all()
    assert not targets[1].any()
    coverage, contour, down, right = dense_targets(label_map)
    assert coverage.sum() * 4 == 600
    assert contour[50, 39] == 0.75  # x = 79 touches the neighbour, y = 100 the background
    assert down[50, 35] * 16 == pytest.approx(109.5 - 100)
    assert right[50, 35] * 16 == pytest.approx(69.5 - 70)


def test_a_batch_has_prompts_on_nuclei_and_on_background():
    tiles = data.GeneratedTiles(0, 1, small_sam.TILE)
    draw = partial(tiles.draw, fraction=1.0)
    batch = small_sam.make_batch(draw, np.random.default_rng(0), count=1, prompts=16)
    assert batch.images.shape == (1, 3, 256, 256)
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.positive.any() and not batch.positive.all()
    # A positive prompt lies inside its own target.
    _, points = batch.which, batch.points_yx
    at = ((points - (points // 8 - small_sam.REACH) * 8) // 2).long()
    inside = batch.targets[torch.arange(len(at)), at[:, 0], at[:, 1]]
    assert (inside[batch.positive] > 0).all()
    assert (batch.targets[~batch.positive] == 0).all()


def test_no_stain_shift_is_the_identity_and_blur_keeps_a_constant():
    images = torch.full((2, 3, 16, 16), 0.4)
    assert torch.allclose(stain_shift(images, np.random.default_rng(0), 0.0), images, atol=1e-6)
    assert torch.allclose(blur(images, 1.3), images, atol=1e-6)


def test_folders_are_read_without_their_labels(tmp_path):
    for name, value in (("image", 10), ("label", 99)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(tmp_path / name / "a.png")
    images = data.read_folders([tmp_path])
    assert len(images) == 1
    assert (images[0] == 10).all()
    with pytest.raises(UserError, match="no images"):
        data.read_folders([tmp_path / "nowhere"])


# The loop


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
