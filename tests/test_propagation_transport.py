from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coin_ray.errors import UserError
from coin_ray.propagation import transport as room
from coin_ray.propagation.settings import Ot
from coin_ray.propagation.transport import without_transport

Array = NDArray[np.float64]


def two_class_plan(maps: Array, coarse: Any = None, **settings: Any) -> Array:
    return room.two_class_plan(maps, Ot(**{"foreground_mass": 0.5} | settings), coarse)


def transport(
    maps: Array, coarse: Any = None, complement: bool = True, **settings: Any
) -> NDArray[np.float32]:
    ot = Ot(**{"foreground_mass": 0.5} | settings)
    return room.transport(maps, ot, coarse, complement=complement)


def similarity(side: int, seed: int = 0) -> Array:
    """Smooth maps as Eq. 3 leaves them: each in [0, 1], background >= 1 - foreground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = sum(
        a * np.cos(2 * np.pi * (f * x + g * y) + p)
        for a, f, g, p in zip(
            *rng.uniform([[0], [-6], [-6], [0]], [[1], [6], [6], [6]], (4, 9)), strict=True
        )
    )
    maps = np.stack([-waves + 0.3 * rng.normal(size=waves.shape), waves])
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    maps = (maps - low) / (high - low)
    return np.stack([np.maximum(maps[0], 1 - maps[1]), maps[1]])


def literal_two_iterations(maps: Array, lambda_: float, mass: float) -> Array:
    """(M, 2) plan of the published procedure: Sinkhorn that stops after two iterations."""
    kernel = np.exp(-(1 - maps.reshape(2, -1).T) / lambda_)
    u, v = np.full(len(kernel), 1 / len(kernel)), np.array([1 - mass, mass])
    c = np.ones(2)
    for _ in range(2):
        r = u / (kernel @ c)
        c = v / (kernel.T @ r)
    return r[:, None] * kernel * c


def literal_refined(maps: Array, plan: Array) -> Array:
    """Column min-max with the 1e-5 floor, product, channel min-max, complement."""
    plan = (plan - plan.min(0)) / np.maximum(plan.max(0) - plan.min(0), 1e-5)
    refined = maps * plan.T.reshape(maps.shape)
    low, high = refined.min((1, 2), keepdims=True), refined.max((1, 2), keepdims=True)
    refined = (refined - low) / (high - low)
    return np.stack([np.maximum(refined[0], 1 - refined[1]), refined[1]])


def log_sinkhorn(maps: Array, lambda_: float, mass: float, iterations: int) -> Array:
    """(2, H, W) plan after Sinkhorn's iterations in the log domain.

    It stops early only where an iteration changes nothing any more: all others would repeat it.
    """
    log_kernel = (maps.reshape(2, -1) - 1) / lambda_
    log_u, log_v = -np.log(log_kernel.shape[1]), np.log([1 - mass, mass])
    g = np.zeros(2)
    for _ in range(iterations):
        f = log_u - np.logaddexp(log_kernel[0] + g[0], log_kernel[1] + g[1])
        rows = log_kernel + f
        top = rows.max(axis=1, keepdims=True)
        following = log_v - top[:, 0] - np.log(np.exp(rows - top).sum(axis=1))
        settled, g = np.abs(following - g).max() < 1e-14, following
        if settled:
            break
    return np.exp(f + log_kernel + g[:, None]).reshape(maps.shape)


@pytest.mark.parametrize(
    ("side", "lambda_", "mass"),
    [
        *((64, lambda_, mass) for lambda_ in (0.05, 0.1, 0.4) for mass in (0.03, 0.2, 0.5)),
        (256, 0.1, 0.2),
        (1000, 0.1, 0.5),
    ],
)
def test_converged_is_the_sinkhorn_fixed_point(side: int, lambda_: float, mass: float) -> None:
    maps = similarity(side)
    plan = two_class_plan(maps, lambda_=lambda_, foreground_mass=mass)
    expected = log_sinkhorn(maps, lambda_, mass, 1000)
    assert np.abs(plan - expected).max() * maps[0].size < 1e-5
    np.testing.assert_allclose(plan.sum(0), 1 / maps[0].size, rtol=1e-12)
    np.testing.assert_allclose(plan.sum((1, 2)), [1 - mass, mass], rtol=1e-9)


@pytest.mark.parametrize("mode", ["converged", "one_step"])
@pytest.mark.parametrize("prior", [0.0, 1.5])
@pytest.mark.parametrize(("lambda_", "mass"), [(0.05, 0.3), (0.1, 0.03), (0.1, 0.5), (0.4, 0.2)])
def test_both_solvers_are_equal(mode: str, prior: float, lambda_: float, mass: float) -> None:
    maps = similarity(24)
    settings = {"lambda_": lambda_, "foreground_mass": mass, "mode": mode, "prior": prior}
    exact, pot = (
        two_class_plan(maps, solver=solver, coarse=maps[1] > 0.7, **settings)
        for solver in ("exact", "pot")
    )
    assert np.abs(exact - pot).max() * maps[0].size < 1e-8
    refined = [
        transport(maps, solver=solver, coarse=maps[1] > 0.7, **settings)
        for solver in ("exact", "pot")
    ]
    np.testing.assert_allclose(refined[0], refined[1], atol=1e-6)  # they are float32


def test_pot_says_so_when_it_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coin_ray.propagation.transport.POT_ITERATIONS", 30)
    with pytest.raises(UserError, match=r"ot\.solver: exact"):
        two_class_plan(similarity(8), lambda_=1e-5, foreground_mass=0.3, solver="pot")


@pytest.mark.parametrize("prior", [0.5, 2.0])
def test_a_prior_is_the_reference_plan_of_the_entropy(prior: float) -> None:
    # min <T, C> + lambda KL(T | R) is plain entropic transport with the cost C - lambda log R.
    maps = similarity(40)
    coarse = maps[1] > 0.7
    favour = np.stack([~coarse, coarse]) * prior
    reference = np.exp(favour) / np.exp(favour).sum(0)
    plan = two_class_plan(maps, lambda_=0.2, foreground_mass=0.3, prior=prior, coarse=coarse)
    expected = log_sinkhorn(maps + 0.2 * np.log(reference), 0.2, 0.3, 500)
    assert np.abs(plan - expected).max() * maps[0].size < 1e-6


def test_a_large_prior_gives_the_coarse_mask_back() -> None:
    maps = similarity(40)
    coarse = np.random.default_rng(0).random((40, 40)) < 0.25
    settings = {"foreground_mass": float(coarse.mean()), "coarse": coarse, "output": "plan"}
    found = transport(maps, prior=40.0, **settings)
    np.testing.assert_array_equal(found[1] > found[0], coarse)
    weak = transport(maps, prior=0.5, **settings)
    assert ((weak[1] > weak[0]) != coarse).any()
    with pytest.raises(ValueError, match="needs the coarse mask"):
        transport(maps, prior=1.0)


@pytest.mark.parametrize("mode", ["converged", "one_step"])
def test_output_plan_is_a_distribution_at_each_pixel(mode: str) -> None:
    maps = similarity(40)
    found = transport(maps, mode=mode, foreground_mass=0.3, output="plan")
    plan = two_class_plan(maps, mode=mode, foreground_mass=0.3)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(found[1] > found[0], plan[1] > plan[0])


@pytest.mark.parametrize("side", [64, 256, 1000])
def test_one_step_equals_the_published_two_iterations(side: int) -> None:
    maps = similarity(side)
    expected = literal_refined(maps, literal_two_iterations(maps, 0.1, 0.5))
    found = transport(maps, lambda_=0.1, mode="one_step", foreground_mass=0.5)
    assert np.abs(found - expected).max() < 1e-5
    np.testing.assert_array_equal(found[1] > found[0], expected[1] > expected[0])


@pytest.mark.parametrize("mass", [0.2, 0.5])
def test_one_step_plan_equals_two_iterations_for_any_mass(mass: float) -> None:
    maps = similarity(64)
    plan = two_class_plan(maps, mode="one_step", foreground_mass=mass)
    expected = literal_two_iterations(maps, 0.1, mass).T.reshape(maps.shape)
    np.testing.assert_allclose(plan, expected, rtol=1e-10)


@pytest.mark.parametrize("side", [64, 256, 1000])
def test_converged_refined_maps(side: int) -> None:
    maps = similarity(side)
    plan = two_class_plan(maps, foreground_mass=0.2)
    expected = literal_refined(maps, 1e3 * maps[0].size * plan.reshape(2, -1).T)
    assert np.abs(transport(maps, foreground_mass=0.2) - expected).max() < 1e-5


@pytest.mark.parametrize("factor", [1e-3, 1.0, 50.0])
def test_the_mask_does_not_depend_on_the_scale_of_the_plan(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = similarity(100)
    expected = transport(maps, foreground_mass=0.3)
    plan = room.two_class_plan
    monkeypatch.setattr(room, "two_class_plan", lambda *a: factor * plan(*a))
    found = transport(maps, foreground_mass=0.3)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[1] > found[0], expected[1] > expected[0])


def test_the_two_modes_differ() -> None:
    maps = similarity(64)
    assert np.abs(transport(maps) - transport(maps, mode="one_step")).max() > 1e-3


def test_hand_values() -> None:
    # Two pixels, mass 1/2, symmetric: b = 0, so M T_fg = logistic(d), d = +-1 / lambda * 0.5.
    maps = np.array([[[0.25, 0.75]], [[0.75, 0.25]]])
    plan = two_class_plan(maps, lambda_=0.5)
    share = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(plan[1, 0], [share / 2, (1 - share) / 2], rtol=1e-12)
    np.testing.assert_allclose(transport(maps, lambda_=0.5)[:, 0], [[0, 1], [1, 0]], atol=1e-12)


@st.composite
def any_maps(draw: st.DrawFn) -> Array:
    """Maps in [0, 1] of any shape, with ties and constant parts."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    return rng.integers(0, levels + 1, (2, *shape)) / levels


MASS = st.floats(0.01, 0.99)
LAMBDA = st.floats(0.02, 2.0)


@settings(max_examples=80, deadline=None)
@given(maps=any_maps(), mass=MASS, lambda_=LAMBDA)
def test_the_plan_meets_its_marginals(maps: Array, mass: float, lambda_: float) -> None:
    plan = two_class_plan(maps, lambda_=lambda_, foreground_mass=mass)
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(0) * maps[0].size, 1, atol=1e-12)
    np.testing.assert_allclose(plan.sum((1, 2)), [1 - mass, mass], atol=1e-9)
    one_step = two_class_plan(maps, lambda_=lambda_, foreground_mass=mass, mode="one_step")
    np.testing.assert_allclose(one_step.sum((1, 2)), [1 - mass, mass], atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(maps=any_maps(), mass=MASS, lambda_=LAMBDA, mode=st.sampled_from(["converged", "one_step"]))
def test_a_pixel_more_like_foreground_gets_more_of_it(
    maps: Array, mass: float, lambda_: float, mode: str
) -> None:
    plan = two_class_plan(maps, lambda_=lambda_, foreground_mass=mass, mode=mode)
    order = np.argsort((maps[1] - maps[0]).ravel(), kind="stable")
    assert (np.diff(plan[1].ravel()[order]) * maps[0].size >= -1e-12).all()
    if mode == "converged":
        more = two_class_plan(maps, lambda_=lambda_, foreground_mass=(1 + mass) / 2)
        assert (more[1] >= plan[1] - 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(maps=any_maps(), mass=MASS, lambda_=LAMBDA, seed=st.integers(0, 99))
def test_the_order_of_pixels_and_a_common_offset_do_not_matter(
    maps: Array, mass: float, lambda_: float, seed: int
) -> None:
    plan = two_class_plan(maps, lambda_=lambda_, foreground_mass=mass)
    order = np.random.default_rng(seed).permutation(maps[0].size)
    flat = maps.reshape(2, 1, -1)
    shuffled = two_class_plan(flat[..., order] + 0.25, lambda_=lambda_, foreground_mass=mass)
    np.testing.assert_allclose(shuffled, plan.reshape(flat.shape)[..., order], atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), mass=st.floats(0.1, 0.9))
def test_without_entropy_the_plan_is_a_quantile_threshold(seed: int, mass: float) -> None:
    levels = np.random.default_rng(seed).permutation(200).reshape(2, 10, 10)
    plan = two_class_plan(levels / 200, lambda_=1e-5, foreground_mass=mass)
    d = levels[1] - levels[0]
    cut = np.sort(d, axis=None)[::-1][int(mass * 100)]  # ties there share what is left of the mass
    assert (plan[1][d > cut] * 100 > 1 - 1e-6).all()
    assert (plan[1][d < cut] * 100 < 1e-6).all()


@pytest.mark.parametrize("lambda_", [1e-4, 1e-2, 10.0])
@pytest.mark.parametrize("mass", [1e-4, 0.5, 0.999])
def test_extreme_settings_stay_finite_and_balanced(lambda_: float, mass: float) -> None:
    maps = similarity(30)
    plan = two_class_plan(maps, lambda_=lambda_, foreground_mass=mass)
    assert plan.min() >= 0
    assert plan[1].sum() == pytest.approx(mass, abs=2e-6)
    for mode in ("converged", "one_step"):
        found = transport(maps, lambda_=lambda_, foreground_mass=mass, mode=mode)
        assert np.isfinite(found).all()
        assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("mode", ["converged", "one_step"])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_constant_maps_stay_finite(mode: str, value: float) -> None:
    maps = np.full((2, 9, 9), value, np.float32)
    assert np.isfinite(two_class_plan(maps, mode=mode)).all()
    found = transport(maps, mode=mode)
    assert np.isfinite(found).all()
    assert found.dtype == np.float32


def test_complement_is_optional() -> None:
    maps = similarity(30)
    without = transport(maps, complement=False)
    with_it = transport(maps)
    np.testing.assert_array_equal(with_it[0], np.maximum(without[0], 1 - without[1]))
    assert (with_it[0] > without[0]).any()


def test_the_coarse_mask_gives_its_share_of_mass_but_never_all() -> None:
    maps, coarse = similarity(20), similarity(20, seed=1)[1] > 0.6
    found = two_class_plan(maps, coarse, foreground_mass="coarse")
    np.testing.assert_allclose(found[1].sum(), coarse.mean(), rtol=1e-9)
    for mask, mass in ((np.zeros_like(coarse), 1e-3), (np.ones_like(coarse), 1 - 1e-3)):
        found = two_class_plan(maps, mask, foreground_mass="coarse")
        np.testing.assert_allclose(found[1].sum(), mass, rtol=1e-9)
    with pytest.raises(ValueError, match="needs the coarse mask"):
        two_class_plan(maps, foreground_mass="coarse")


def test_without_transport_background_is_constant() -> None:
    maps = similarity(20)
    fixed = without_transport(maps, 0.4)
    np.testing.assert_array_equal(fixed[0], np.full((20, 20), np.float32(0.4)))
    np.testing.assert_allclose(fixed[1], maps[1], rtol=1e-6)
    np.testing.assert_allclose(without_transport(maps, "mean")[0], maps[1].mean(), rtol=1e-5)
