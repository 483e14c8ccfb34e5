"""Stain maps: known mixtures, blank and grey images, scale; rings; jitter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray.imaging import rings, stain
from coin_ray.labels import keep_instances


def mixture(hematoxylin: np.ndarray, eosin: np.ndarray) -> np.ndarray:
    """Image of two stains at given densities (H, W), through Beer-Lambert."""
    unit = stain.HED / np.linalg.norm(stain.HED, axis=1, keepdims=True)
    od = hematoxylin[..., None] * unit[0] + eosin[..., None] * unit[1]
    return np.clip(np.rint(256 * np.exp(-od) - 1), 0, 255).astype(np.uint8)


def field(seed: int = 0, size: int = 160, radius: float = 8) -> tuple[np.ndarray, np.ndarray]:
    """Round nuclei on an eosin background: image, truth."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:size, :size]
    truth = np.zeros((size, size), dtype=bool)
    step = int(4 * radius)
    for y in range(step // 2, size, step):
        for x in range(step // 2, size, step):
            truth |= (yy - y) ** 2 + (xx - x) ** 2 <= radius**2
    noise = rng.normal(0, 0.03, (2, size, size))
    image = mixture(0.15 + 0.6 * truth + noise[0], 0.5 - 0.2 * truth + noise[1])
    return image, truth


def test_hematoxylin_density_is_recovered_from_a_known_mixture() -> None:
    amount = np.linspace(0, 1.2, 64).reshape(8, 8)
    found = stain.hematoxylin_od(mixture(amount, np.full((8, 8), 0.4)))
    np.testing.assert_allclose(found, amount, atol=0.03)
    assert found.dtype == np.float32


def test_macenko_finds_the_directions_and_which_is_hematoxylin() -> None:
    rng = np.random.default_rng(1)
    amounts = rng.uniform(0, 1, (2, 120, 120)) * (rng.random((2, 120, 120)) < 0.7)
    vectors = stain.macenko_vectors(mixture(0.3 + amounts[0], 0.3 + amounts[1]))
    assert vectors is not None
    unit = stain.HED / np.linalg.norm(stain.HED, axis=1, keepdims=True)
    # The percentiles cut a little off the cone: each is nearest to its own stain.
    similarity = vectors @ unit[:2].T
    assert similarity[0, 0] > similarity[0, 1]
    assert similarity[1, 1] > similarity[1, 0]
    assert similarity.diagonal().min() > 0.97


@pytest.mark.parametrize("value", [0, 128, 255])
def test_macenko_falls_back_on_grey_and_blank_images(value: int) -> None:
    rng = np.random.default_rng(0)
    grey = np.clip(value + rng.integers(-9, 9, (40, 40, 1)), 0, 255).astype(np.uint8)
    image = np.repeat(grey, 3, axis=2)
    assert stain.macenko_vectors(image) is None
    density = stain.optical_density(image) @ stain.hematoxylin_unmixing(image)
    np.testing.assert_array_equal(density, stain.hematoxylin_od(image))


def maps_of(image: np.ndarray, scale: float = 1.0) -> stain.EvidenceMaps:
    return stain.evidence_maps(image, sigma=1.5, contrast_sigma=12.0, scale=scale)


def test_evidence_is_positive_on_nuclei_and_negative_elsewhere() -> None:
    image, truth = field()
    evidence = maps_of(image).evidence
    found = evidence > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.85
    assert evidence.dtype == np.float32


def test_evidence_at_half_the_resolution_with_its_scale() -> None:
    image, truth = field(radius=4)
    found = maps_of(image, scale=0.5).evidence > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.7


@pytest.mark.parametrize("level", [255, 240, 128, 0])
def test_images_without_contrast_hold_no_evidence(level: int) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (60, 50, 3))
    image = np.clip(level + noise, 0, 255).astype(np.uint8)
    if level == 0:  # near black one grey level is half an OD: only a flat image is flat
        image[:] = 0
    np.testing.assert_array_equal(maps_of(image).evidence, -1)


def test_one_nucleus_on_a_blank_slide_is_found() -> None:
    image = np.full((300, 300, 3), 244, dtype=np.uint8)
    yy, xx = np.mgrid[:300, :300]
    truth = (yy - 100) ** 2 + (xx - 200) ** 2 <= 81
    image[truth] = (90, 60, 140)
    found = maps_of(image).evidence > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.8


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 30), width=st.integers(1, 30))
def test_any_image_gives_finite_maps(seed: int, height: int, width: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    maps = maps_of(image)
    for values in (maps.evidence, maps.stain, maps.density):
        assert values.shape == (height, width)
        assert np.isfinite(values).all()


def test_jitter_is_reproducible_and_small_at_zero() -> None:
    image, _ = field(3, 60)
    same = stain.jitter_stain(image, np.random.default_rng(0), sigma=0.0)
    assert np.abs(same.astype(int) - image).max() <= 1
    first = stain.jitter_stain(image, np.random.default_rng(5), sigma=0.2)
    again = stain.jitter_stain(image, np.random.default_rng(5), sigma=0.2)
    other = stain.jitter_stain(image, np.random.default_rng(6), sigma=0.2)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8
    assert (first != other).any()
    assert np.abs(first.astype(int) - image).mean() > 2


def test_rings_of_a_square() -> None:
    labels = np.zeros((30, 30), dtype=np.int32)
    labels[10:20, 10:20] = 1
    inner, outer = rings.rings(labels, width=3)
    assert (inner == 1).sum() == 100 - 16  # the core of 4 x 4 is more than 3 px deep
    assert outer[10, 7] == 1
    assert outer[10, 6] == 0
    assert not (outer * labels).any()
    values = np.where(labels > 0, 5.0, 2.0)
    np.testing.assert_allclose(rings.ring_contrast(values, labels), [3.0])
    np.testing.assert_allclose(
        rings.ring_contrast(np.stack([values, -values]), labels), [[3.0], [-3.0]]
    )


def test_a_walled_in_instance_has_no_outer_ring() -> None:
    labels = np.zeros((30, 30), dtype=np.int32)
    labels[5:25, 5:25] = 1
    labels[12:18, 12:18] = 2
    contrast = rings.ring_contrast(np.where(labels > 0, 1.0, 0.0), labels)
    assert contrast[0] == 1
    assert np.isinf(contrast[1])
    assert rings.ring_contrast(np.zeros((4, 4)), np.zeros((4, 4), np.int32)).shape == (0,)


def test_keep_instances_renumbers() -> None:
    labels = np.array([[1, 1, 0, 2, 3]], dtype=np.int32)
    kept = keep_instances(labels, np.array([True, False, True]))
    np.testing.assert_array_equal(kept, [[1, 1, 0, 0, 2]])
