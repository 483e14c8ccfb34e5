from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from coin_ray.propagation.transport import transport, two_class_plan, without_transport

Array = NDArray[np.float64]


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
    from scipy.special import logsumexp

    log_kernel = (maps.reshape(2, -1).T - 1) / lambda_
    log_u, log_v = -np.log(len(log_kernel)), np.log([1 - mass, mass])
    g = np.zeros(2)
    for _ in range(iterations):
        f = log_u - logsumexp(log_kernel + g, axis=1)
        g = log_v - logsumexp(log_kernel + f[:, None], axis=0)
    return np.exp(f[:, None] + log_kernel + g)


@pytest.mark.parametrize("lambda_", [0.05, 0.1, 0.4])
@pytest.mark.parametrize("mass", [0.03, 0.2, 0.5])
def test_converged_is_the_sinkhorn_fixed_point(lambda_: float, mass: float) -> None:
    maps = similarity(64)
    plan = two_class_plan(maps, lambda_=lambda_, foreground_mass=mass)
    expected = log_sinkhorn(maps, lambda_, mass, 1000)
    assert np.abs(plan.reshape(2, -1).T - expected).max() * maps[0].size < 1e-5
    np.testing.assert_allclose(plan.sum(0), 1 / maps[0].size, rtol=1e-12)
    np.testing.assert_allclose(plan.sum((1, 2)), [1 - mass, mass], rtol=1e-9)


def test_converged_equals_pot() -> None:
    ot = pytest.importorskip("ot")
    maps = similarity(24)
    size = maps[0].size
    u, v = np.full(size, 1 / size), np.array([0.7, 0.3])
    cost = 1 - maps.reshape(2, -1).T
    for method, iterations in (("sinkhorn", 2000), ("sinkhorn_log", 300)):
        expected = ot.sinkhorn(u, v, cost, 0.1, method=method, numItermax=iterations, stopThr=1e-13)
        plan = two_class_plan(maps, lambda_=0.1, foreground_mass=0.3)
        assert np.abs(plan.reshape(2, -1).T - expected).max() * size < 1e-7


@pytest.mark.parametrize("prior", [0.5, 2.0])
def test_a_prior_is_the_reference_plan_of_the_entropy(prior: float) -> None:
    # min <T, C> + lambda KL(T | R) is plain entropic transport with the cost C - lambda log R.
    maps = similarity(40)
    coarse = maps[1] > 0.7
    favour = np.stack([~coarse, coarse]) * prior
    reference = np.exp(favour) / np.exp(favour).sum(0)
    plan = two_class_plan(maps, lambda_=0.2, foreground_mass=0.3, prior=prior, coarse=coarse)
    expected = log_sinkhorn(maps + 0.2 * np.log(reference), 0.2, 0.3, 500)
    assert np.abs(plan.reshape(2, -1).T - expected).max() * maps[0].size < 1e-6


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
    with pytest.raises(ValueError, match="softmax"):
        transport(maps, output="softmax")


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
    import coin_ray.propagation.transport as module

    maps = similarity(100)
    expected = transport(maps, foreground_mass=0.3)
    monkeypatch.setattr(module, "two_class_plan", lambda *a, **k: factor * two_class_plan(*a, **k))
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


def test_more_mass_never_moves_a_pixel_to_background() -> None:
    maps = similarity(50)
    few, many = (two_class_plan(maps, foreground_mass=m) for m in (0.1, 0.4))
    assert (many[1] > few[1]).all()


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


@pytest.mark.parametrize("mass", [0.0, 1.0, -0.1])
def test_mass_outside_the_open_interval_is_refused(mass: float) -> None:
    with pytest.raises(ValueError, match="foreground mass"):
        two_class_plan(similarity(4), foreground_mass=mass)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="two_step"):
        two_class_plan(similarity(4), mode="two_step")


def test_without_transport_background_is_constant() -> None:
    maps = similarity(20)
    fixed = without_transport(maps)
    np.testing.assert_array_equal(fixed[0], np.full((20, 20), np.float32(0.4)))
    np.testing.assert_allclose(fixed[1], maps[1], rtol=1e-6)
    np.testing.assert_allclose(without_transport(maps, "mean")[0], maps[1].mean(), rtol=1e-5)
