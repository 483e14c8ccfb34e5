"""The one training loop, on a line that is fitted by hand, and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coin_ray.errors import UserError
from coin_ray.training import loop
from coin_ray.training.average import Average, ema_decay
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.draws import generator, seeded, torch_seed
from coin_ray.training.loop import Limit, Training, train
from coin_ray.training.world import World


def line(
    steps: int = 3, value: float = 1.0, optimiser: Any = torch.optim.SGD, **options: Any
) -> Training:
    """Loss w + w^2 of a single weight from 1, by steps of 0.1 times the gradient."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)

    def losses_of(step: int, done: float) -> dict[str, torch.Tensor]:
        w = model.weight[0, 0]
        return {"line": value * w, "square": value * w * w}

    descent = optimiser(model.parameters(), lr=0.1)
    return Training(model, descent, losses_of, Limit(steps), **options)


def descend(
    training: Training,
    checkpoint: Checkpoint | None = None,
    rank: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[float, Log]:
    log = train(training, World(rank), checkpoint, progress)
    return training.model.weight.item(), log  # type: ignore[union-attr, operator]


def test_steps_log_rate_factors_and_progress_by_hand() -> None:
    seen: list[tuple[int, int, float]] = []
    rates = (1.0, 0.5)
    training = line(2, rate=lambda step, done: rates[step], factors={"square": 2.0})
    weight, log = descend(training, progress=lambda *a: seen.append(a))
    first = 1 - 0.1 * 5
    assert weight == pytest.approx(first - 0.05 * (1 + 4 * first))
    assert log["line"] == pytest.approx([1, first])
    assert log["square"] == pytest.approx([1, first**2])  # before its factor
    assert log["loss"] == pytest.approx([3, first + 2 * first**2])
    assert seen == [(1, 2, log["loss"][0]), (2, 2, log["loss"][1])]
    assert log.steps == 2 and log.seconds > 0


def test_gradients_are_cut_and_what_follows_a_step_knows_the_share() -> None:
    told: list[tuple[int, float]] = []
    training = line(2, clip=0.5, after_step=lambda *a: told.append(a))
    assert descend(training)[0] == pytest.approx(1 - 2 * 0.1 * 0.5, rel=1e-4)
    assert told == [(0, 0.0), (1, 0.5)]


def test_limits() -> None:
    for limit in (Limit(steps=10), Limit(minutes=2)):
        assert limit.done(5, 60.0) == 0.5 and limit.total(5, 60.0) == 10
    for wrong in ({}, {"steps": 1, "minutes": 1.0}):
        with pytest.raises(UserError, match="one limit"):
            Limit(**wrong)


def test_loss_that_is_not_finite_names_its_step() -> None:
    with pytest.raises(UserError, match="round 2, step 1"):
        descend(line(value=float("nan"), name="round 2, "))


def test_losses_that_are_read_seldom_are_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where reading one waits for the card: the same log, weights and checkpoints."""
    monkeypatch.setattr("coin_ray.training.loop.READ_EVERY", 3)
    away, seen = World(device="elsewhere"), list[tuple[int, int, float]]()
    every, seldom = line(8), line(8)
    log = train(seldom, away, progress=lambda *a: seen.append(a))
    assert log == train(every, World()) and torch.equal(seldom.model.weight, every.model.weight)
    assert [step for step, _, _ in seen] == [3, 6, 8]
    assert [loss for _, _, loss in seen] == [log["loss"][step - 1] for step, _, _ in seen]
    kept = Checkpoint(tmp_path / "run.ckpt", "a", every=0.0)  # after each step, all losses in it
    train(line(4), away, kept)
    assert train(line(8), away, kept) == log
    with pytest.raises(UserError, match="step 1"):
        train(line(value=float("nan")), away)


def test_the_average_follows_every_tensor_as_one_by_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    average = Average(model, 0.9)
    expected = {name: value.clone() for name, value in average.tensors.items()}
    for step in range(3):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value))
        average.follow(step)
        for name, value in expected.items():
            value.lerp_(model.state_dict()[name], 1 - ema_decay(0.9, step))
    assert all(torch.equal(average.tensors[name], value) for name, value in expected.items())


def test_numbers_belong_to_their_place() -> None:
    drawn = [generator(0, step, index).random() for step in range(2) for index in range(2)]
    assert len(set(drawn)) == 4
    assert generator(0, 1, 1).random() == drawn[-1]
    assert torch_seed(1, 2) != torch_seed(2, 1)
    before = torch.get_rng_state()
    with seeded("cpu", 3):
        first = torch.rand(1)
    with seeded("cpu", 3):
        assert torch.equal(torch.rand(1), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_share_that_is_too_small_is_refused_on_every_process() -> None:
    assert list(World(1, 2).share(5, 2, "two crops", "student.batch")) == [1, 3]
    for rank in range(3):
        with pytest.raises(UserError, match=r"student\.batch[\s\S]*two crops for each of 3"):
            World(rank, 3).share(5, 2, "two crops", "student.batch")


# The checkpoint


def test_resumed_steps_keep_their_rate_and_only_rank_0_writes(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "run.ckpt", "a")
    rate = {"rate": lambda step, done: 0.5**step}
    descend(line(2, **rate), kept, rank=1)
    assert not kept.path.exists()
    descend(line(2, **rate), kept)
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]
    assert descend(line(4, **rate), kept, rank=1) == descend(line(4, **rate))


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_everything_that_a_training_changes_is_kept(tmp_path: Path, optimiser: Any) -> None:
    """Moments with their strides, average, counters and the log; into another model."""

    def make() -> tuple[Training, nn.Module]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def losses_of(step: int, done: float) -> dict[str, torch.Tensor]:
            x = torch.from_numpy(generator(step).random((2, 3, 8, 8), dtype="float32"))
            return {"size": model(x).square().mean() + model(x).mean()}

        how = {"momentum": 0.9} if optimiser is torch.optim.SGD else {}
        descent = optimiser(model.parameters(), lr=0.1, **how)
        average = Average(model, 0.5)
        return Training(model, descent, losses_of, Limit(5), average=average), model

    whole, expected = make()
    log = train(whole, World())
    kept = Checkpoint(tmp_path / "run", "a")
    part, _ = make()
    train(replace(part, limit=Limit(2)), World(), kept)
    resumed, model = make()
    with torch.no_grad():
        model[0].weight.zero_()  # type: ignore[union-attr, operator]
    assert train(resumed, World(), kept) == log
    assert whole.average and resumed.average
    for state, wanted in zip(
        (model.state_dict(), resumed.average.tensors),
        (expected.state_dict(), whole.average.tensors),
        strict=True,
    ):
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        for name, value in whole.optimiser.state[two].items():
            found = resumed.optimiser.state[one][name]
            assert torch.equal(found, value) and found.stride() == value.stride()


def test_it_is_written_by_time_and_at_the_end_if_asked_for(tmp_path: Path) -> None:
    written: list[int] = []
    kept = Checkpoint(tmp_path / "run", "a", every=0.0, saved=lambda: written.append(1))
    descend(line(4), kept)
    assert len(written) == 4
    for every, last, times in ((0.0, False, 3), (60.0, True, 1), (60.0, False, 0)):
        written.clear()
        fresh = replace(kept, path=tmp_path / f"{every} {last}", every=every, last=last)
        descend(line(4), fresh)
        assert len(written) == times
        assert fresh.path.exists() is (times > 0)


def test_a_training_whose_machine_is_about_to_go_is_kept_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SOON", 0.0)
    written: list[int] = []
    kept = Checkpoint(tmp_path / "run", "a", last=False, saved=lambda: written.append(1))
    asked: list[int] = []

    def leaving() -> bool:
        asked.append(1)
        return len(asked) > 3

    train(line(8), World(leaving=leaving), kept)
    assert len(written) == 4  # after each further step but the last, which is stored as a whole
    assert kept.load(line().model, line().optimiser, {}).steps == 7
    train(line(8), World(rank=1, leaving=lambda: True), replace(kept, path=tmp_path / "other"))
    assert len(written) == 4


def test_seconds_of_all_parts_are_added_up(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "run", "a")
    _, first = descend(line(2), kept)
    _, both = descend(line(4), kept)
    assert both.seconds > first.seconds > 0


@pytest.mark.parametrize("fault", ["another run", "cut", "a byte", "other", "empty"])
def test_what_is_foreign_or_damaged_is_refused_or_begun_anew(tmp_path: Path, fault: str) -> None:
    kept = Checkpoint(tmp_path / "run", "a")
    descend(line(2), kept)
    raw = bytearray(kept.path.read_bytes())
    if fault == "another run":
        kept = replace(kept, run="b")
    elif fault == "a byte":
        raw[-3] ^= 1
    kept.path.write_bytes(
        {"cut": raw[:-9], "other": b"[1, 2]\nwhatever", "empty": b""}.get(fault, raw)
    )
    words = "another run" if fault == "another run" else "no checkpoint, or it is damaged"
    with pytest.raises(UserError, match=words):
        descend(line(4), kept)
    assert descend(line(4), replace(kept, anew=True)) == descend(line(4))


def test_a_write_that_fails_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoint(tmp_path / "run", "a")
    descend(line(2), kept)
    before = kept.path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coin_ray.files.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left.*run"):
        descend(line(4), kept)
    assert kept.path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
