"""What a pretraining minimises and is fed: each loss against values worked out by hand."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from coin_ray.errors import UserError
from coin_ray.pretraining import data, dino, dinov2, mae, small_sam
from coin_ray.training.warp import blur, stain_shift
from coin_ray.ucis.detector_targets import dense_loss, dense_targets, untaught
from tests.test_pretraining import TINY, _one_thread  # noqa: F401


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
