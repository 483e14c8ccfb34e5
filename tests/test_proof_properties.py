"""Properties of instances and selection that the tests of their rooms do not hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from coin_ray.confidence.selection import accept
from coin_ray.confidence.settings import Select
from coin_ray.imaging.instances import distance_map, local_peaks, split_instances
from coin_ray.imaging.settings import Instances

RULES = ("mean", "mean_plus_std", "cv", "fixed", "otsu", "top_fraction")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    smooth=st.floats(0.5, 3.0),
    share=st.sampled_from([0.05, 0.3, 0.6]),
    footprint=st.integers(1, 14),
)
def test_without_its_marker_a_component_is_lost_as_a_whole(
    seed: int, smooth: float, share: float, footprint: int
) -> None:
    """``keep_border: false``, as the public code: exactly the components without a peak go."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 46)), smooth)
    mask = noise > np.quantile(noise, 1 - share)
    labels = split_instances(mask, Instances(footprint=footprint, keep_border=False))
    peaks = local_peaks(distance_map(mask, sigma=1.0), mask, radius=footprint, keep_border=False)
    parts, n = ndimage.label(mask)
    marked = np.unique(parts[peaks])
    np.testing.assert_array_equal(labels > 0, np.isin(parts, marked[marked > 0]))
    assert labels.max() >= len(marked)
    assert n == parts.max()


@settings(max_examples=80, deadline=None)
@given(
    scores=st.lists(st.integers(0, 1000), min_size=1, max_size=30, unique=True),
    rule=st.sampled_from(RULES),
    value=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_the_order_of_instances_does_not_matter(
    scores: list[int], rule: str, value: float, seed: int
) -> None:
    x = np.array(scores) / 1000
    order = np.random.default_rng(seed).permutation(len(x))
    kept, shuffled = (accept(s, Select(rule=rule, value=value)) for s in (x, x[order]))
    np.testing.assert_array_equal(shuffled, kept[order])
