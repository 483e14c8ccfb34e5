"""Designs against expansions written by hand."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from coin_ray.study.designs import Factor, baseline, expand

BACKBONE = Factor("backbone", ("none", "mae", "dino"), "mae")
ROUNDS = Factor("rounds", ("1 round", "3 rounds"), "3 rounds")


def rows(design: str, *factors: Factor, **options: object) -> dict[str, tuple[str, ...]]:
    found = expand(design, factors, **options)  # type: ignore[arg-type]
    assert len({row.label for row in found}) == len(found)
    return {row.label: tuple(row.levels.values()) for row in found}


def test_no_factor_is_one_cell() -> None:
    assert rows("grid") == {"baseline": ()}


def test_one_factor_keeps_its_order() -> None:
    assert list(rows("one_at_a_time", BACKBONE)) == ["none", "mae", "dino"]


def test_one_at_a_time() -> None:
    assert rows("one_at_a_time", BACKBONE, ROUNDS) == {
        "baseline": ("mae", "3 rounds"),
        "none": ("none", "3 rounds"),
        "dino": ("dino", "3 rounds"),
        "1 round": ("mae", "1 round"),
    }


def test_grid_is_the_product() -> None:
    found = rows("grid", BACKBONE, ROUNDS)
    assert list(found) == [
        "none, 1 round", "none, 3 rounds", "mae, 1 round", "mae, 3 rounds", "dino, 1 round",
        "dino, 3 rounds",
    ]  # fmt: skip


def test_exclude_drops_every_combination_that_has_all_of_an_entry() -> None:
    exclude = [{"backbone": "none", "rounds": "3 rounds"}, {"backbone": "dino"}]
    assert list(rows("grid", BACKBONE, ROUNDS, exclude=exclude)) == [
        "none, 1 round", "mae, 1 round", "mae, 3 rounds",
    ]  # fmt: skip


def test_leave_one_out() -> None:
    a, b = Factor("ot", ("on", "off"), "on"), Factor("edge", ("off", "on"), "on")
    assert rows("leave_one_out", a, b) == {
        "full": ("on", "on"),
        "without ot": ("off", "on"),
        "without edge": ("on", "off"),
    }


def test_ladder_keeps_every_step() -> None:
    a, b = Factor("ot", ("no ot", "ot"), "no ot"), Factor("edge", ("edge", "plain"), "plain")
    assert rows("ladder", a, b) == {
        "baseline": ("no ot", "plain"),
        "+ ot": ("ot", "plain"),
        "+ edge": ("ot", "edge"),
    }


def test_switches_that_share_labels_are_told_apart() -> None:
    a, b = Factor("ot", ("on", "off"), "on"), Factor("edge", ("on", "off"), "on")
    assert list(rows("factorial", a, b)) == [
        "ot on, edge on", "ot on, edge off", "ot off, edge on", "ot off, edge off",
    ]  # fmt: skip
    assert list(rows("one_at_a_time", a, b)) == ["baseline", "ot=off", "edge=off"]
    assert len(rows("ladder", a, b)) == 3


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_sizes(sizes: list[int]) -> None:
    factors = [
        Factor(f"f{i}", tuple(f"{i}.{j}" for j in range(n)), f"{i}.0") for i, n in enumerate(sizes)
    ]
    grid = expand("grid", factors)
    assert len(grid) == math.prod(sizes)
    single = expand("one_at_a_time", factors)
    assert len(single) == 1 + sum(n - 1 for n in sizes)
    base = baseline(factors)
    far = [sum(row.levels[f] != base[f] for f in base) for row in single]
    assert sorted(far) == [0] + [1] * (len(single) - 1)
