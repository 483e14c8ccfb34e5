"""Effects of factors against hand values, least squares, and the definition of Shapley shares."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from coin_ray.statistics.effects import (
    Effect,
    aliases,
    contrasts,
    effects,
    is_full,
    matched,
    shapley,
)
from coin_ray.study.designs import Factor, expand


def full(k: int) -> np.ndarray:
    return np.array(list(itertools.product((-1, 1), repeat=k)))


HALF = np.array([[a, b, c, a * b * c] for a, b, c in itertools.product((-1, 1), repeat=3)])
"""2^(4-1), resolution IV: D = ABC, so AB = CD, AC = BD, AD = BC."""


def test_contrasts_by_hand() -> None:
    # Rows --, -+, +-, ++ with values 1, 3, 6, 16.
    found = contrasts(full(2))
    values = np.array([1, 3, 6, 16])
    assert found[0,] @ values == (6 + 16) / 2 - (1 + 3) / 2
    assert found[1,] @ values == (3 + 16) / 2 - (1 + 6) / 2
    # A gives 13 with B and 5 without it.
    assert found[0, 1] @ values == (13 - 5) / 2


@pytest.mark.parametrize("codes", [full(4), HALF], ids=["full", "half"])
def test_contrasts_are_twice_the_coefficients_of_least_squares(codes: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(size=len(codes))
    found = contrasts(codes)
    terms = [t for t in found if len(t) == 1]
    design = np.column_stack([np.ones(len(codes)), *(codes[:, t].prod(axis=1) for t in terms)])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    assert [found[t] @ values for t in terms] == pytest.approx(2 * coefficients[1:])


def test_aliases_of_a_half_fraction() -> None:
    found = aliases(contrasts(HALF))
    assert found[0, 1] == [(2, 3)] and found[0, 3] == [(1, 2)]
    assert not any(found[i,] for i in range(4))  # resolution IV: main effects are clear
    assert not any(aliases(contrasts(full(3))).values())
    third = np.array([[a, b, a * b] for a, b in itertools.product((-1, 1), repeat=2)])
    assert aliases(contrasts(third))[2,] == [(0, 1)]  # resolution III: they are not
    assert aliases(contrasts(-third))[2,] == [(0, 1)]  # whatever the sign


@pytest.mark.parametrize("k", [4, 5, 6, 8])
def test_the_fractions_of_a_study_tell_every_main_effect(k: int) -> None:
    names = [f"f{i}" for i in range(k)]
    rows = expand("factorial", [Factor(n, ("off", "on"), "off") for n in names], fraction=True)
    found = effects("factorial", [row.levels for row in rows], dict.fromkeys(names, "off"))
    main = [e for e in found if e.kind == "main"]
    assert len(rows) < 2**k and [e.factor for e in main] == names
    assert all(e.caution is None for e in main)


def test_rows_that_are_missing_are_refused() -> None:
    with pytest.raises(ValueError, match="orthogonal"):
        contrasts(full(2)[:3])
    with pytest.raises(ValueError, match="every combination"):
        shapley(HALF)
    assert is_full(full(3)) and not is_full(HALF)
    assert not is_full(np.vstack([full(2)[:3], full(2)[:1]]))


def test_shapley_by_hand() -> None:
    # Without either 1, B alone 3, A alone 6, both 16: A adds 5 first and 13 second, B 2 and 10.
    assert shapley(full(2)) @ [1, 3, 6, 16] == pytest.approx([9, 6])


@pytest.mark.parametrize("k", [1, 3, 4])
def test_shapley_is_the_mean_over_all_orders(k: int) -> None:
    codes = full(k)
    values = np.random.default_rng(k).normal(size=len(codes))
    worth = {tuple(np.flatnonzero(row == 1)): v for row, v in zip(codes, values, strict=True)}
    expected = np.zeros(k)
    for order in itertools.permutations(range(k)):
        for i, factor in enumerate(order):
            with_it = worth[tuple(sorted(order[: i + 1]))]
            expected[factor] += (with_it - worth[tuple(sorted(order[:i]))]) / math.factorial(k)
    found = shapley(codes) @ values
    assert found == pytest.approx(expected)
    assert found.sum() == pytest.approx(values[-1] - values[0])  # the whole gain


def test_factors_that_do_not_interact_have_shares_equal_to_their_effects() -> None:
    codes = full(3)
    values = codes @ [0.1, 0.2, -0.3]
    assert shapley(codes) @ values == pytest.approx([0.2, 0.4, -0.6])
    assert [contrasts(codes)[i,] @ values for i in range(3)] == pytest.approx([0.2, 0.4, -0.6])


def test_matched_by_hand() -> None:
    rows = [{"f": f, "g": g} for f in "abc" for g in "xy"]
    weights = matched(rows, "f", "c", "a")
    np.testing.assert_array_equal(weights, [-0.5, -0.5, 0, 0, 0.5, 0.5])
    # Without (a, y), only the pair at x is left.
    weights = matched([row for row in rows if row != {"f": "a", "g": "y"}], "f", "c", "a")
    np.testing.assert_array_equal(weights, [-1, 0, 0, 1, 0])
    assert matched(rows[2:], "f", "c", "a") is None


def found_for(design: str) -> list[Effect]:
    rows = expand(design, [Factor(name, ("off", "on"), "off") for name in "ABC"])
    return effects(design, [row.levels for row in rows], dict.fromkeys("ABC", "off"))


def test_effects_of_a_factorial() -> None:
    found = found_for("factorial")
    kinds = [(e.kind, e.factor, e.other) for e in found]
    assert kinds == [
        ("main", "A", None), ("main", "B", None), ("main", "C", None),
        ("interaction", "A", "B"), ("interaction", "A", "C"), ("interaction", "B", "C"),
        ("shapley", "A", None), ("shapley", "B", None), ("shapley", "C", None),
        ("total", None, None),
    ]  # fmt: skip
    assert all(e.caution is None and e.weights.sum() == pytest.approx(0) for e in found)
    parts = sum(e.weights for e in found if e.kind == "shapley")
    np.testing.assert_allclose(parts, found[-1].weights, atol=1e-12)
    np.testing.assert_array_equal(found[-1].weights, [-1, 0, 0, 0, 0, 0, 0, 1])
    assert [e.kind for e in found_for("grid")] == [e.kind for e in found]


def test_effects_of_a_fraction_name_their_aliases() -> None:
    rows = [
        dict(zip("ABCD", np.where(row == 1, "on", "off").tolist(), strict=True)) for row in HALF
    ]
    found = effects("factorial", rows, dict.fromkeys("ABCD", "off"))
    assert {e.kind for e in found} == {"main", "interaction"}
    cautions = {(e.factor, e.other): e.caution for e in found}
    assert cautions["A", "B"] == "cannot be told from C × D"
    assert cautions["A", None] is None


def test_effects_of_a_factorial_with_a_hole_are_over_the_pairs_that_exist() -> None:
    rows = [{"A": a, "B": b} for a, b in (("off", "off"), ("off", "on"), ("on", "off"))]
    found = effects("factorial", rows, {"A": "off", "B": "off"})
    assert [(e.kind, e.factor) for e in found] == [("main", "A"), ("main", "B")]
    np.testing.assert_array_equal(found[0].weights, [-1, 0, 1])


def test_effects_of_a_grid_of_three_levels() -> None:
    factors = [Factor("f", ("a", "b", "c"), "b"), Factor("g", ("x", "y"), "x")]
    rows = [row.levels for row in expand("grid", factors)]
    found = effects("grid", rows, {"f": "b", "g": "x"})
    assert [(e.kind, e.factor, e.level) for e in found] == [
        ("main", "f", "a"), ("main", "f", "c"), ("main", "g", "y"),
    ]  # fmt: skip


def test_effects_of_a_ladder_depend_on_its_order() -> None:
    found = found_for("ladder")
    assert [(e.kind, e.factor) for e in found] == [
        ("step", "A"), ("step", "B"), ("step", "C"), ("total", None),
    ]  # fmt: skip
    assert all("order" in (e.caution or "") for e in found[:3])
    np.testing.assert_array_equal(found[1].weights, [0, -1, 1, 0])
    np.testing.assert_array_equal(found[3].weights, [-1, 0, 0, 1])
    # Without the second rung, B and C come at once: neither has a step, the whole gain stays.
    rows = [{"A": "0", "B": "0", "C": "0"}, {"A": "1", "B": "0", "C": "0"}]
    rows.append({"A": "1", "B": "1", "C": "1"})
    holed = effects("ladder", rows, rows[0])
    assert [(e.kind, e.factor) for e in holed] == [("step", "A"), ("total", None)]
    np.testing.assert_array_equal(holed[1].weights, [-1, 0, 1])


@pytest.mark.parametrize("design", ["one_at_a_time", "leave_one_out"])
def test_effects_of_one_change_at_a_time(design: str) -> None:
    found = found_for(design)
    assert [(e.kind, e.factor, e.level) for e in found] == [
        ("difference", "A", "on"), ("difference", "B", "on"), ("difference", "C", "on"),
    ]  # fmt: skip
    np.testing.assert_array_equal(found[1].weights, [-1, 0, 1, 0])


def test_a_search_and_a_study_without_factors_have_none() -> None:
    assert effects("search", [{}], {}) == []
    assert effects("one_at_a_time", [{}], {}) == []
    assert effects("grid", [{}], {}) == []


def test_a_step_of_a_branching_ladder_is_the_mean_over_its_branches() -> None:
    rows = [{"a": x, "b": y} for x, y in (("0", "0"), ("1", "0"), ("0", "1"), ("1", "1"))]
    steps = {e.factor: e.weights for e in effects("ladder", rows, rows[0]) if e.kind == "step"}
    np.testing.assert_allclose(steps["a"], [-0.5, 0.5, -0.5, 0.5])
    np.testing.assert_allclose(steps["b"], [-0.5, -0.5, 0.5, 0.5])
