"""Designs against expansions written by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_ray.study.designs import Factor, baseline, expand, generators

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
    exclude = [{"backbone": ("none",), "rounds": ("3 rounds",)}, {"backbone": ("dino",)}]
    assert list(rows("grid", BACKBONE, ROUNDS, exclude=exclude)) == [
        "none, 1 round", "mae, 1 round", "mae, 3 rounds",
    ]  # fmt: skip
    several = [{"backbone": ("none", "dino"), "rounds": ("1 round",)}]
    assert list(rows("grid", BACKBONE, ROUNDS, exclude=several)) == [
        "none, 3 rounds", "mae, 1 round", "mae, 3 rounds", "dino, 3 rounds",
    ]  # fmt: skip


def test_a_factor_varies_only_where_its_when_holds() -> None:
    rule = Factor("rule", ("otsu", "fixed"), "otsu")
    value = Factor("value", ("0.5", "0.7", "0.9"), "0.5", {"rule": ("fixed",)})
    assert rows("grid", rule, value) == {
        "otsu": ("otsu", "0.5"),
        "fixed, 0.5": ("fixed", "0.5"),
        "fixed, 0.7": ("fixed", "0.7"),
        "fixed, 0.9": ("fixed", "0.9"),
    }
    # A chain: what is at baseline because of its own `when` does not hold for the next one.
    third = Factor("third", ("a", "b"), "a", {"value": ("0.7", "0.9")})
    found = rows("grid", rule, value, third)
    assert list(found) == [
        "otsu", "fixed, 0.5", "fixed, 0.7, a", "fixed, 0.7, b", "fixed, 0.9, a", "fixed, 0.9, b",
    ]  # fmt: skip
    assert rows("one_at_a_time", rule, value) == {
        "baseline": ("otsu", "0.5"), "fixed": ("fixed", "0.5"),
    }  # fmt: skip


def test_leave_one_out() -> None:
    a, b = Factor("ot", ("on", "off"), "on"), Factor("edge", ("off", "on"), "on")
    assert rows("leave_one_out", a, b) == {
        "full": ("on", "on"),
        "without ot": ("off", "on"),
        "without edge": ("on", "off"),
    }


def test_a_ladder_may_branch() -> None:
    a, b = Factor("a", ("-", "A"), "-"), Factor("b", ("-", "B"), "-")
    c = Factor("c", ("-", "C"), "-")
    assert rows("ladder", a, b, c, rungs=[["a"], ["a", "c"], ["c", "b", "a"]]) == {
        "baseline": ("-", "-", "-"),
        "A": ("A", "-", "-"),
        "A + C": ("A", "-", "C"),
        "A + B + C": ("A", "B", "C"),
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
    assert list(rows("grid", a, b)) == [
        "ot on, edge on", "ot on, edge off", "ot off, edge on", "ot off, edge off",
    ]  # fmt: skip
    assert list(rows("factorial", a, b)) == ["baseline", "edge off", "ot off", "ot off, edge off"]
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


def signs(k: int) -> np.ndarray:
    """The fraction of k switches as a (runs, k) matrix of -1 and +1."""
    switches = [Factor(f"f{i}", ("off", "on"), "off") for i in range(k)]
    found = expand("factorial", switches, fraction=True)
    return np.array([[1 if v == "on" else -1 for v in row.levels.values()] for row in found])


@pytest.mark.parametrize("k", range(4, 18))
def test_no_main_effect_of_a_fraction_is_mixed_up_with_an_interaction(k: int) -> None:
    x = signs(k)
    runs = len(x)
    assert len(np.unique(x, axis=0)) == runs
    assert (x == -1).all(axis=1).sum() == 1  # the baseline is one of the runs
    assert not x.sum(axis=0).any()  # either level of a factor in half of the runs
    assert (x.T @ x == runs * np.eye(k)).all()  # main effects do not mix with each other
    for i, j in itertools.combinations(range(k), 2):
        interaction = x[:, i] * x[:, j]
        assert not (x.T @ interaction).any(), (i, j)
    # None is smaller: resolution IV takes at least 2 k runs, and a power of two.
    assert runs == 2 ** math.ceil(math.log2(2 * k))


def test_a_fraction_of_five_frees_interactions_as_well() -> None:
    x = signs(5)
    pairs = [x[:, i] * x[:, j] for i, j in itertools.combinations(range(5), 2)]
    assert all(not (a @ b) for a, b in itertools.combinations(pairs, 2))
    assert generators(5) == (4, [(0, 1, 2, 3)])
