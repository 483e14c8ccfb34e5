"""Step 1 of images of one colour, whose tokens differ by their rounding alone."""

from __future__ import annotations

import numpy as np
import pytest

from coin_ray.propagation.centroids import ClassSums, centroids, class_sums, merge
from coin_ray.propagation.features import WindowFeatures, normalise_features
from tests.test_propagation_features import (
    extract,
    pooling_backbone,
    random_features,
    similar,
    tokens_of,
    window_features,
)


@pytest.mark.parametrize("mode", ["none", "standardise", "whiten"])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_constant_image_has_finite_outputs(mode: str, value: int) -> None:
    image = np.full((40, 40, 3), value, np.uint8)
    features = normalise_features(extract(image, pooling_backbone(), zoom=4), mode)
    foreground = np.zeros((40, 40), bool)
    for mask in (foreground, ~foreground):
        sums = class_sums(features, mask)
        found = similar([(features, centroids(sums))])
        assert np.isfinite(found).all()
        assert found.min() >= 0 and found.max() <= 1


def one_colour(
    shape: tuple[int, int] = (8, 8), side: int = 16, beyond: float = 0.0
) -> WindowFeatures:
    """Tokens a rounding of float16 apart, and by ``beyond`` in the lower half of the window."""
    rng = np.random.default_rng(0)
    tokens = np.broadcast_to(rng.normal(1, 1, (64, 1, 1)), (1, 64, 16, 16)).astype(np.float16)
    above = np.nextafter(tokens, np.float16(np.inf))
    tokens = np.where(rng.random(tokens.shape) < 0.5, above, tokens)
    tokens[:, :, 8:] += np.float16(beyond)
    return window_features(tokens, np.zeros((1, 2), int), side, shape)


@pytest.mark.parametrize("mode", ["standardise", "whiten"])
@pytest.mark.parametrize(
    "features", [one_colour(), one_colour(beyond=1), one_colour((1, 64), side=64)]
)
def test_tokens_of_an_image_of_one_colour_are_finite(mode: str, features: WindowFeatures) -> None:
    found = normalise_features(features, mode)
    assert np.isfinite(tokens_of(found)).all()
    if features.shape[0] > 1:  # those beyond the border set no scale
        inside = tokens_of(found)[0, :, :8, :8].astype(np.float64)
        np.testing.assert_allclose(inside.mean((1, 2)), 0, atol=1e-2)
        assert np.abs(inside).max() < 8
    sums = class_sums(found, np.zeros(features.shape, bool))
    assert np.isfinite(sums.sums).all()
    assert not sums.sums[1].any()


def test_an_image_without_a_class_adds_nothing_to_it() -> None:
    features = random_features()
    some = class_sums(features, np.random.default_rng(1).random(features.shape) < 0.3)
    nothing = ClassSums(np.full((2, 5), np.nan), np.array([4, 0]))
    for weight in ("pixel", "image"):
        found = merge([nothing, some], weight)
        np.testing.assert_array_equal(found.sums[1], merge([some], weight).sums[1])
