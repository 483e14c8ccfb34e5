"""The training loop of the coarse-mask networks on a line that is fitted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coin_ray.errors import UserError
from coin_ray.ucis.training import generator, identity, train


def descend(iterations: int = 3, value: float = 1.0, **options: Any) -> tuple[float, Any]:
    """Loss w + w^2 of a single weight from 1, by steps of 0.1 times the gradient."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)

    def losses_of(step: int) -> dict[str, torch.Tensor]:
        w = model.weight[0, 0]
        return {"line": value * w, "square": value * w * w}

    with torch.random.fork_rng(devices=[]):
        log = train(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            losses_of,
            iterations=iterations,
            seed=0,
            **options,
        )
    return model.weight.item(), log


def test_steps_log_rate_and_progress_by_hand() -> None:
    seen: list[tuple[int, int, float]] = []
    rates = (1.0, 0.5)
    weight, log = descend(2, rate=lambda step: rates[step], progress=lambda *a: seen.append(a))
    first = 1 - 0.1 * 3
    assert weight == pytest.approx(first - 0.05 * (1 + 2 * first))
    assert log["line"] == pytest.approx([1, first])
    assert log["square"] == pytest.approx([1, first**2])
    assert log["loss"] == pytest.approx([2, first + first**2])
    assert seen == [(1, 2, log["loss"][0]), (2, 2, log["loss"][1])]


def test_resumed_steps_keep_their_rate_and_only_rank_0_writes(tmp_path: Path) -> None:
    file = tmp_path / "run.ckpt"
    rate = {"rate": lambda step: 0.5**step}
    descend(2, checkpoint=file, rank=1, **rate)
    assert not file.exists()
    descend(2, checkpoint=file, **rate)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    assert descend(4, checkpoint=file, rank=1, **rate) == descend(4, **rate)


def test_loss_that_is_not_finite_names_its_step() -> None:
    with pytest.raises(UserError, match="step 1"):
        descend(value=float("nan"))


def test_identity_tells_images_and_settings_apart() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    runs = [
        identity([image], {"a": 1}),
        identity([image], {"a": 2}),
        identity([image.reshape(4, 2, 3)], {"a": 1}),
        identity([image, image], {"a": 1}),
    ]
    assert len(set(runs)) == 4
    assert identity([np.asfortranarray(image)], {"a": 1}) == runs[0]


def test_items_of_a_step_draw_differently_and_again_the_same() -> None:
    drawn = [generator(0, step, index).random() for step in range(2) for index in range(2)]
    assert len(set(drawn)) == 4
    assert generator(0, 1, 1).random() == drawn[-1]
