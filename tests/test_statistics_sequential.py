"""Sequential looks: arithmetic by hand, and error rates by simulation.

The simulated differences have an effect of each image, of each random seed (common to all images:
one training is behind them) and of both together, normal or heavy in the tails and skewed.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from coin_ray.statistics.claims import judge
from coin_ray.statistics.race import losers
from coin_ray.statistics.sequential import bounds, conditional_power, look, p_below, spent

IMAGES, SEEDS, STUDIES = 8, 5, 400
SPREADS = {"images": (0.03, 0.0, 0.01), "seeds": (0.0, 0.03, 0.01), "both": (0.02, 0.02, 0.02)}
Rng = np.random.Generator


def at_most(rate: float) -> float:
    """What a true rate of ``rate`` shows in a simulation at most, but for one in a thousand."""
    return float(stats.binom.ppf(0.999, STUDIES, rate)) / STUDIES


def noise(rng: Rng, size: tuple[int, ...], *, shape: str) -> NDArray[np.float64]:
    """Of mean 0 and standard deviation 1."""
    if shape == "heavy":
        return rng.standard_t(3, size) / np.sqrt(3)
    drawn = rng.standard_normal(size)
    return (np.exp(drawn / 2) - np.exp(1 / 8)) / 0.604 if shape == "skewed" else drawn


def table(rng: Rng, spread: str, *, shape: str) -> NDArray[np.float64]:
    """(images, seeds) around 0."""
    image, seed, rest = SPREADS[spread]
    sizes = ((IMAGES, 1), (1, SEEDS), (IMAGES, SEEDS))
    drawn = (noise(rng, size, shape=shape) for size in sizes)
    return sum(scale * part for scale, part in zip((image, seed, rest), drawn, strict=True))


def test_a_look_by_hand() -> None:
    # Images have the means 1 and 4, seeds 2 and 3: variances 4.5 and 0.5, halved.
    found = look(np.array([[0.0, 2.0], [4.0, 4.0]]))
    assert found is not None
    assert (found.mean, found.by_image, found.by_seed) == (2.5, 2.25, 0.25)
    assert (found.images, found.seeds, found.freedom) == (2, 2, 1)
    low, high = bounds(found, 0.05)
    assert high - 2.5 == pytest.approx(2.5 - low) == pytest.approx(6.3138 * np.sqrt(2.5), 1e-4)
    assert p_below(found) == pytest.approx(stats.t.cdf(2.5 / np.sqrt(2.5), 1))
    missing = look(np.array([[0.0, 2.0, np.nan], [4.0, 4.0, np.nan], [np.nan] * 3]))
    assert missing == found
    assert look(np.ones((1, 4))) is None and look(np.ones((4, 1))) is None


def test_what_is_spent_sums_to_alpha() -> None:
    for looks in (1, 2, 5):
        shares = [spent(0.05, k, looks) for k in range(1, looks + 1)]
        assert sum(shares) == pytest.approx(0.05) and shares == sorted(shares)


def test_conditional_power_by_hand() -> None:
    seen = look(np.array([[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]]))
    assert seen is not None
    assert conditional_power(seen, 4, 0.0, 0.05) == 1.0  # nothing varies, and it is above 0
    below = look(-np.array([[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]]))
    assert below is not None
    assert conditional_power(below, 4, 0.01, 0.05) == 0.0
    # Of three seeds in which images do not vary: what the last three have to show.
    seen = look(np.tile([-0.01, 0.0, 0.01], (8, 1)))
    assert seen is not None and seen.by_image == 0
    one = seen.by_seed * 3
    needed = stats.t.ppf(0.95, 5) * np.sqrt(one / 6)
    power = stats.t.cdf((3 * 0.02 / 6 - needed) / (np.sqrt(3 * one) / 6), 2)
    assert conditional_power(seen, 6, 0.02, 0.05) == pytest.approx(power)


@pytest.mark.parametrize(("spread", "shape"), itertools.product(SPREADS, ("normal", "heavy")))
def test_the_best_level_of_a_race_is_lost_as_rarely_as_alpha_says(spread: str, shape: str) -> None:
    """Three equal levels, where every comparison of the best is at its worst."""
    rng, alpha, lost = np.random.default_rng(1), 0.1, 0
    for _ in range(STUDIES):
        values = {level: table(rng, spread, shape=shape) for level in "abc"}
        found: dict[str, object] = {}
        for seeds in range(2, SEEDS):
            seen = {n: t[:, :seeds] for n, t in values.items() if n not in found}
            looks = {"look_number": seeds - 1, "looks": SEEDS - 2}
            found |= losers(seen, levels=3, alpha=alpha, **looks)
        lost += "a" in found
    assert lost / STUDIES <= at_most(alpha)


def test_a_race_stops_what_is_worse_and_says_what_it_saves() -> None:
    """Differences as between backbones on real tiles: three of four levels are worse by .05."""
    rng, saved, best = np.random.default_rng(2), 0, 0
    for _ in range(100):
        common = 0.1 * rng.standard_normal((IMAGES, 1))
        own = {n: 0.005 * rng.standard_normal((IMAGES, SEEDS)) for n in "abcd"}
        values = {n: common + t - 0.05 * (n != "a") for n, t in own.items()}
        found: dict[str, int] = {}
        for seeds in range(2, SEEDS):
            seen = {n: t[:, :seeds] for n, t in values.items() if n not in found}
            looks = {"look_number": seeds - 1, "looks": SEEDS - 2}
            worse = losers(seen, levels=4, alpha=0.05, **looks)
            found |= dict.fromkeys(worse, seeds)
        best += "a" not in found
        saved += sum(SEEDS - seeds for seeds in found.values())
    assert best >= 95
    assert saved / 100 > 3  # of the 20 trainings; 9 could be saved at the most


def claimed(
    effect: float, spread: str, *, futility: float, shape: str = "normal", seed: int = 3
) -> Counter[str]:
    """Verdicts of simulated claims, as a run comes to them."""
    rng, found = np.random.default_rng(seed), Counter[str]()
    for _ in range(STUDIES):
        values = effect + table(rng, spread, shape=shape)
        for seeds in range(2, SEEDS):
            seen = look(values[:, :seeds])
            assert seen is not None
            if conditional_power(seen, SEEDS, WORTH, ALPHA) <= futility:
                found["futile"] += 1
                break
        else:
            found[judge(look(values), worth=WORTH, alpha=ALPHA)] += 1
    return found


WORTH, ALPHA = 0.02, 0.05


@pytest.mark.parametrize(("spread", "shape"), itertools.product(SPREADS, ("normal", "heavy")))
def test_a_claim_is_wrongly_confirmed_or_refuted_as_rarely_as_alpha_says(
    spread: str, shape: str
) -> None:
    # A look for futility can end a claim, and never confirm it.
    none = claimed(0.0, spread, futility=0.1, shape=shape)
    assert none["confirmed"] / STUDIES <= at_most(ALPHA)
    worth = claimed(WORTH, spread, futility=0.0, shape=shape)
    assert worth["refuted"] / STUDIES <= at_most(ALPHA)


def test_skewness_makes_one_kind_of_error_more_frequent() -> None:
    """Student's t of five skewed seeds: what docs/gates.md warns of."""
    worth = claimed(WORTH, "seeds", futility=0.0, shape="skewed")
    assert ALPHA < worth["refuted"] / STUDIES <= at_most(0.15)
    none = claimed(0.0, "seeds", futility=0.0, shape="skewed")
    assert none["confirmed"] / STUDIES <= at_most(ALPHA)


@pytest.mark.parametrize("spread", SPREADS)
def test_futility_costs_little_power_and_spares_what_is_hopeless(spread: str) -> None:
    whole = claimed(0.08, spread, futility=0.0)
    gated = claimed(0.08, spread, futility=0.1)
    assert whole["confirmed"] / STUDIES > 0.75
    assert (whole["confirmed"] - gated["confirmed"]) / STUDIES < 0.02
    assert claimed(-0.05, spread, futility=0.1)["futile"] / STUDIES > 0.7
