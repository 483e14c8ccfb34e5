"""Partial transport: the masses of Eq. 4 as upper bounds, a share of the pixels left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.propagation.settings import Ot
from coin_ray.propagation.transport import transport, two_class_plan
from tests.test_propagation_transport import any_maps, similarity

Array = NDArray[np.float64]


def plan_of(maps: Array, coarse: Any = None, **settings: Any) -> Array:
    return two_class_plan(maps, Ot(**{"foreground_mass": 0.3} | settings), coarse)


@pytest.mark.parametrize("prior", [0.0, 1.5])
@pytest.mark.parametrize(
    ("lambda_", "mass", "slack"),
    # Of the foreground, of the background and of neither the mass is all taken.
    [(0.1, 0.1, 0.1), (0.1, 0.6, 0.2), (0.4, 0.5, 0.4), (0.1, 0.3, 0.02)],
)
def test_the_closed_form_is_what_the_library_converges_to(
    lambda_: float, mass: float, slack: float, prior: float
) -> None:
    maps = similarity(7)
    asked = {"lambda_": lambda_, "foreground_mass": mass, "slack": slack, "prior": prior}
    exact, pot = (
        plan_of(maps, maps[1] > 0.7, solver=solver, **asked) for solver in ("exact", "pot")
    )
    assert np.abs(exact - pot).max() * maps[0].size < 1e-6
    one, other = (
        transport(maps, Ot(solver=solver, **asked), maps[1] > 0.7, complement=True)
        for solver in ("exact", "pot")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_cases_above_are_all_there_are() -> None:
    full = set()
    for mass, slack in ((0.1, 0.1), (0.6, 0.2), (0.5, 0.4)):
        plan = plan_of(similarity(7), foreground_mass=mass, slack=slack, lambda_=0.1)
        over = np.isclose(plan.sum((1, 2)), [1 - mass, mass], atol=1e-9)
        full.add(tuple(over.tolist()))
    assert full == {(False, True), (True, False), (False, False)}


def test_newton_does_not_go_to_and_fro() -> None:
    """Where most pixels are loose the masses are flat in b on both sides of a steep part."""
    far = np.zeros((2, 5, 6))
    far[0] = np.reshape([*map(int, "000011012012111100101112000100")], (5, 6))
    far[1] = np.reshape([*map(int, "101001111211111221222101002211")], (5, 6))
    given = {"foreground_mass": 0.13671875, "lambda_": 0.134765625, "slack": 0.5}
    assert plan_of(far / 2, **given)[1].sum() == pytest.approx(0.13671875, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    maps=any_maps(),
    mass=st.floats(0.02, 0.98),
    lambda_=st.floats(0.02, 2.0),
    slack=st.floats(0.01, 0.9),
)
def test_the_plan_is_optimal(maps: Array, mass: float, lambda_: float, slack: float) -> None:
    """The bounds hold and the conditions of optimality, which no other plan meets."""
    plan = plan_of(maps, foreground_mass=mass, lambda_=lambda_, slack=slack) * maps[0].size
    moved, bounds = plan.sum(0), np.array([1 - mass, mass])
    assert plan.min() >= 0 and moved.max() <= 1 + 1e-9
    np.testing.assert_allclose(moved.mean(), 1 - slack, atol=1e-8)
    masses = plan.mean((1, 2))
    assert (masses <= bounds + 1e-7).all()
    # M T = exp(S / lambda + u_k - alpha_i): within a row that is not full alpha is 0.
    with np.errstate(divide="ignore"):
        u = np.log(plan) - maps / lambda_
    loose = moved < 1 - 1e-9
    for k in range(2):
        level = u[k][loose & (plan[k] > 1e-200)]
        assert not level.size or np.ptp(level) < 1e-6
    between = (u[1] - u[0])[(plan > 1e-200).all(0)]
    if between.size:
        assert np.ptp(between) < 1e-6
        for k, sign in ((0, 1), (1, -1)):  # a class that is not full has the larger u
            if masses[k] < bounds[k] - 1e-6 and masses[1 - k] < bounds[1 - k] - 1e-6:
                assert abs(between[0]) < 1e-6
            elif masses[k] < bounds[k] - 1e-6:
                assert sign * between[0] < 1e-6


def test_what_is_like_neither_class_stays_and_becomes_background() -> None:
    """Eq. 4 has to give most of the grey third to foreground, which the mask says is larger than
    the dark one."""
    maps = np.empty((2, 1, 30))
    maps[:, 0, :10] = [[0.1], [0.9]]
    maps[:, 0, 10:20] = [[0.9], [0.1]]
    maps[:, 0, 20:] = [[0.1], [0.2]]
    for output in ("plan", "product"):
        asked = {"foreground_mass": 0.6, "lambda_": 0.05, "output": output}
        with_it = transport(maps, Ot(slack=1 / 3, **asked), complement=False)
        without = transport(maps, Ot(**asked), complement=False)
        found, before = (m[1, 0] > m[0, 0] for m in (with_it, without))
        assert found[:10].all() and not found[10:].any(), output
        assert before[:10].all() and before[20:].all(), output
        assert with_it.min() >= 0 and with_it.max() <= 1
        assert (with_it[0, 0, 20:] > 0.99).all() and (with_it[1, 0, 20:] < 0.01).all()


@pytest.mark.parametrize("output", ["plan", "product"])
def test_a_pixel_of_which_less_than_half_is_moved_is_background(output: str) -> None:
    maps = similarity(40)
    asked = {"foreground_mass": 0.4, "slack": 0.4, "lambda_": 0.1}
    moved = two_class_plan(maps, Ot(**asked)).sum(0) * maps[0].size
    found = transport(maps, Ot(output=output, **asked), complement=False)
    assert ((moved > 0.01) & (moved < 0.5)).any() and (moved > 0.99).any()
    assert not (found[1] > found[0])[moved < 0.5].any()
    assert (found[1] > found[0]).any()
    if output == "plan":
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("lambda_", [1e-4, 1e-2, 10.0])
@pytest.mark.parametrize("slack", [1e-6, 0.3, 0.9])
def test_extreme_settings_stay_finite(lambda_: float, slack: float) -> None:
    maps = similarity(30)
    for given_maps in (maps, np.full_like(maps, 0.4)):
        plan = plan_of(given_maps, lambda_=lambda_, slack=slack)
        assert plan.sum() == pytest.approx(1 - slack, abs=2e-6)
        found = transport(given_maps, Ot(lambda_=lambda_, slack=slack, foreground_mass=0.3),
                          complement=True)  # fmt: skip
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def test_a_little_slack_is_nearly_the_whole_transport() -> None:
    maps = similarity(40)
    whole, nearly = plan_of(maps), plan_of(maps, slack=1e-9)
    assert np.abs(whole - nearly).max() * maps[0].size < 1e-4


def test_the_library_says_so_when_it_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coin_ray.propagation.transport.POT_ITERATIONS", 2)
    with pytest.raises(UserError, match=r"ot\.solver: exact"):
        plan_of(similarity(8), foreground_mass=0.05, slack=0.1, solver="pot")


def test_the_public_code_s_plan_has_no_slack() -> None:
    with pytest.raises(ValidationError, match=r"ot\.slack needs ot\.mode: converged"):
        Ot(mode="one_step", slack=0.1)


def test_without_slack_the_key_is_that_of_before(tmp_path: Path) -> None:
    image = generated_samples(tmp_path, 1, size=64, seed=1)[0].image

    def fields(**ot: Any) -> str:
        chain = Chain(Cell.model_validate({"ot": ot}), 0, [image], str, lambda *_: "")
        return chain.key(Ref("transport", image)).fields

    assert "slack" not in fields() and fields() == fields(slack=0.0)
    assert '"slack":0.1' in fields(slack=0.1)
