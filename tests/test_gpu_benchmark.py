"""The benchmark of a card, at toy size on the CPU: its rows, its arithmetic, its budget."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks import gpu
from benchmarks.gpu_stages import FULL, SMALL, STAGES, TOY, near, step_parts, windows_of_a_cell


def test_the_toy_run_has_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--toy", "--device", "cpu", "--seconds", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "TFLOP/s measured in bf16" in lines[0]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert [row[0] for row in cells[2:]] == [
        *(stage.title for stage in STAGES), "**a cell**", "**a cell that stops at 40 %**",
    ]  # fmt: skip
    assert {len(row) for row in cells} == {10}
    for row in cells[2 : 2 + len(STAGES)]:
        assert float(row[6]) > 0
        assert float(row[7]) > 0
        assert "allowed" in row[9]
    assert re.search(r"2 crops of 64 px: .* steps a second, .* GB kept", lines[-1])


def test_the_step_alone_tells_the_network_from_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    whole, network, kept = step_parts(replace(TOY, steps=6), "cpu")
    assert 0 < network < 3 * whole
    # A U-Net of width 8 keeps a dozen maps of 8 channels, or more, of 2 crops of 64 x 64 px.
    assert 6 < kept / (2 * 8 * 2 * 64 * 64) < 60
    assert gpu.main(["--toy", "--device", "cpu", "--crop", "32"]) == 0
    assert "2 crops of 32 px" in capsys.readouterr().out


def test_a_card_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if not torch.cuda.is_available():
        assert gpu.main(["--toy"]) == 2
        assert "--device cpu" in capsys.readouterr().err


class Clock:
    """Seconds that pass only when told so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("share", "each", "repeats"), [(100, 1, 5), (10, 3, 3), (10, 11, 1), (0, 1, 1)]
)
def test_no_repetition_is_added_beyond_the_share(share: float, each: float, repeats: int) -> None:
    clock = Clock()
    budget = gpu.Budget(100, clock)
    assert budget.fastest(lambda: clock.passes(each), share) == (each, repeats)
    assert budget.used == each * repeats


def test_the_budget_is_shared_evenly_and_ends() -> None:
    clock = Clock()
    budget = gpu.Budget(100, clock)
    assert budget.share(10) == 10
    clock.passes(60)
    assert budget.share(8) == 5
    clock.passes(60)
    assert budget.share(1) == 0


def test_a_run_may_time_itself() -> None:
    assert gpu.Budget(1, Clock()).fastest(lambda: 0.25, 9) == (0.25, gpu.REPEATS)


def test_the_literal_way_is_left_out_when_no_time_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "STAGES", STAGES[:1])
    (row,) = gpu.measure(SMALL, SMALL, "cpu", gpu.Budget(0))
    assert row.literal is None
    assert row.repeats == 1
    assert "no time left" in gpu.table([row], "card", 1e12, 1)


def test_a_cell_is_the_sum_of_its_units() -> None:
    """Worked out by hand: 100 windows of 600 ms and 10 steps of 6 s are 2 min, 1.4 with 4 steps."""
    rows = [
        gpu.Row("features", "window", 100, 0.6, 1.2, 6 * 10**11, True, "differs by 0", 1),
        gpu.Row("training", "step", 10, 6.0, None, 3 * 10**12, False, "differs by 9", 1),
    ]
    text = gpu.table(rows, "card", 1e12, 7)
    assert "| 600 (1) | 1.2e+03 | 2 | 100 | 1 | 1 | 100 % | differs by 0 |" in text
    assert "**no:** differs by 9" in text
    assert "| **a cell** |  |  |  |  |  | 2 | 1.5 | 75 % |" in text
    assert "stops at 40 %** |  |  |  |  |  | 1.4 | 1.2 | 86 % |" in text


def test_a_cell_of_the_papers_size() -> None:
    assert windows_of_a_cell(FULL) == 37 * 81
    training = next(stage for stage in STAGES if stage.unit == "step")
    assert training.count(FULL) == 23_100


def test_near_says_how_far() -> None:
    import numpy as np

    assert near(np.array([1.5]), np.array([1.0]), 0.5)[0]
    assert not near(np.array([1.5]), np.array([1.0]), 0.4)[0]
