"""The loss by hand, and what ignored pixels may not do."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from coin_ray.distillation.losses import segmentation_loss


def softplus(x: float) -> float:
    return log(1 + exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_value_by_hand() -> None:
    margins = [[2.0, -1.0], [0.5, 3.0]]  # foreground minus background logit
    target = torch.tensor([[[1, 0]], [[1, 1]]])
    ignore = torch.tensor([[[False, False]], [[False, True]]])
    logits = torch.zeros(2, 2, 1, 2)
    logits[:, 1, 0] = torch.tensor(margins)
    logits[:, :, 0, 0] += 7.0  # softmax does not see a common shift
    cross_entropy = (softplus(-2.0) + softplus(-1.0) + softplus(-0.5)) / 3
    p = [sigmoid(2.0), sigmoid(-1.0), sigmoid(0.5)]
    dice_first = 1 - (2 * p[0] + 1) / (p[0] + p[1] + 1 + 1)
    dice_second = 1 - (2 * p[2] + 1) / (p[2] + 1 + 1)  # the ignored pixel does not count
    expected = cross_entropy + (dice_first + dice_second) / 2
    assert segmentation_loss(logits, target, ignore).item() == pytest.approx(expected, abs=1e-6)


def test_perfect_and_wrong_predictions() -> None:
    target = torch.tensor([[[1, 0], [0, 1]]])
    ignore = torch.zeros(1, 2, 2, dtype=torch.bool)
    right = torch.stack([-20.0 * (2.0 * target - 1), 20.0 * (2.0 * target - 1)], dim=1)
    assert segmentation_loss(right, target, ignore).item() == pytest.approx(0, abs=1e-6)
    assert segmentation_loss(-right, target, ignore).item() == pytest.approx(40 + 1 - 1 / 5)


def test_ignored_pixels_have_exactly_zero_gradient_and_no_influence() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 8, 8, generator=generator, requires_grad=True)
    target = torch.randint(0, 2, (2, 8, 8), generator=generator)
    ignore = torch.rand(2, 8, 8, generator=generator) < 0.4
    loss = segmentation_loss(logits, target, ignore)
    loss.backward()
    assert logits.grad is not None
    gradient = logits.grad.abs().sum(1)
    assert (gradient[ignore] == 0).all() and (gradient[~ignore] > 0).all()
    other = torch.where(ignore[:, None], torch.full((), float("inf")), logits.detach())
    assert segmentation_loss(other, torch.where(ignore, 1 - target, target), ignore) == loss


def test_a_batch_without_a_target_is_finite_and_teaches_nothing() -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    loss = segmentation_loss(
        logits, torch.ones(2, 4, 4, dtype=torch.long), torch.ones(2, 4, 4, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and (logits.grad == 0).all()


def test_half_precision_logits_are_reduced_in_fp32() -> None:
    target = torch.ones(1, 256, 256, dtype=torch.long)
    ignore = torch.zeros(1, 256, 256, dtype=torch.bool)
    logits = torch.zeros(1, 2, 256, 256, dtype=torch.bfloat16)
    loss = segmentation_loss(logits, target, ignore)
    n = 256 * 256
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(log(2) + 1 - (n + 1) / (1.5 * n + 1), abs=1e-5)
