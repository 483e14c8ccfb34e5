"""Mask to instances: equality with scikit-image, nothing lost, clean-up on hand-made masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.morphology import disk, opening

from coin_ray.imaging import instances as room
from coin_ray.imaging.settings import Instances
from coin_ray.labels import LabelMap, areas


def split(
    mask: np.ndarray, scale: float = 1.0, markers: LabelMap | None = None, **settings: Any
) -> LabelMap:
    return room.split_instances(mask, Instances(**settings), scale=scale, markers=markers)


def blobs(seed: int, shape: tuple[int, int], smooth: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, smooth) > 0.02


def skimage_peaks(
    distance: np.ndarray, mask: np.ndarray, radius: int, keep_border: bool
) -> np.ndarray:
    found = peak_local_max(
        distance, footprint=disk(radius), labels=mask, exclude_border=not keep_border
    )
    peaks = np.zeros(mask.shape, dtype=bool)
    peaks[tuple(found.T)] = True
    return peaks


@pytest.mark.parametrize("keep_border", [True, False])
@pytest.mark.parametrize(
    ("shape", "radius"), [((200, 231), 12), ((90, 40), 9), ((23, 30), 15), ((40, 40), 1)]
)
def test_peaks_equal_scikit_image(shape: tuple[int, int], radius: int, keep_border: bool) -> None:
    for seed in range(3):
        mask = blobs(seed, shape)
        distance = room.distance_map(mask, sigma=1.0)
        expected = skimage_peaks(distance, mask, radius, keep_border)
        found = room.local_peaks(distance, mask, radius=radius, keep_border=keep_border)
        assert expected.any()
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    radius=st.integers(1, 6),
    levels=st.integers(1, 4),
    keep_border=st.booleans(),
)
def test_peaks_equal_scikit_image_on_plateaus_and_scraps(
    seed: int, height: int, width: int, radius: int, levels: int, keep_border: bool
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < 0.6
    values = (rng.integers(0, levels, (height, width)) * mask).astype(np.float32)
    np.testing.assert_array_equal(
        room.local_peaks(values, mask, radius=radius, keep_border=keep_border),
        skimage_peaks(values, mask, radius, keep_border),
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.integers(0, 9), kind=st.sampled_from("fbi"))
def test_disk_maximum_is_the_maximum_filter(seed: int, radius: int, kind: str) -> None:
    values = np.random.default_rng(seed).normal(size=(17, 26)) * 9
    typed = values.astype({"f": np.float32, "b": bool, "i": np.int16}[kind])
    if kind == "b":
        typed = values > 8
    oracle = ndimage.maximum_filter(typed, footprint=disk(radius), mode="nearest")
    np.testing.assert_array_equal(room.disk_maximum(typed, radius), oracle)


def test_opening_equals_scikit_image() -> None:
    mask = blobs(1, (80, 101), 1.5)
    for radius in (1, 2, 3):
        np.testing.assert_array_equal(
            room.binary_opening(mask, radius), opening(mask, disk(radius))
        )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.integers(1, 5), density=st.floats(0.02, 0.9))
def test_closing_is_that_of_a_plane_without_the_image(
    seed: int, radius: int, density: float
) -> None:
    mask = np.random.default_rng(seed).random((17, 26)) < density
    wide = np.pad(mask, 2 * radius)
    oracle = ndimage.binary_closing(wide, disk(radius))
    inside = slice(2 * radius, -2 * radius)
    closed = room.binary_closing(mask, radius)
    np.testing.assert_array_equal(closed, oracle[inside, inside])
    assert (closed | ~mask).all(), "nothing of the mask is lost"
    np.testing.assert_array_equal(room.binary_closing(closed, radius), closed)


def test_closing_comes_after_opening() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 5:20] = mask[10:30, 22:40] = True
    mask[20, 45:58] = True  # a thread
    assert split(mask, method="components").max() == 3
    assert (split(mask, method="whole") == mask).all()
    assert split(mask, method="components", opening=2).max() == 2
    both = split(mask, method="components", opening=2, closing=3)
    assert both.max() == 1
    assert both[20, 20:22].all()
    assert not both[20, 45:58].any()
    half = split(mask, method="components", opening=4, closing=6, scale=0.5)
    np.testing.assert_array_equal(half, both)


def test_clean_mask_fills_enclosed_holes_only_and_drops_small_parts() -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:20, 5:20] = True
    mask[8:11, 8:11] = False  # a hole of 9
    mask[14:18, 14:18] = False  # a hole of 16
    mask[25:27, 30:33] = True  # a part of 6
    mask[0:4, 36:40] = True
    mask[0:2, 38:40] = False  # 4 px of background in the corner: no hole
    out = room.clean_mask(mask, opening=0, max_hole=9, min_area=7)
    assert out[8:11, 8:11].all()
    assert not out[14:18, 14:18].any()
    assert not out[25:27, 30:33].any()
    assert not out[0:2, 38:40].any()
    assert out.sum() == 225 - 16 + 12
    # At 0.5 um/px the same numbers mean a quarter of the pixels.
    half = room.clean_mask(mask, opening=0, max_hole=36, min_area=28, scale=0.5)
    np.testing.assert_array_equal(half, out)
    assert mask[8:11, 8:11].sum() == 0, "the input is left alone"


def test_clean_mask_leaves_a_tiny_background_alone() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:12, 4:12] = True
    out = room.clean_mask(mask, opening=2, max_hole=300, min_area=20)
    assert 40 <= out.sum() <= 64


def test_two_touching_discs_are_split_and_one_is_not() -> None:
    yy, xx = np.mgrid[:60, :90]
    left = (yy - 30) ** 2 + (xx - 30) ** 2 <= 15**2
    right = (yy - 30) ** 2 + (xx - 56) ** 2 <= 15**2
    labels = split(left | right, footprint=12)
    assert labels.max() == 2
    assert labels[30, 30] != labels[30, 56]
    assert split(left, footprint=12).max() == 1
    assert split(left | right, method="components").max() == 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    density=st.sampled_from([0.3, 0.5, 0.9, 1.0]),
    footprint=st.integers(1, 14),
)
def test_nothing_vanishes(
    seed: int, height: int, width: int, density: float, footprint: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    labels = split(mask, footprint=footprint)
    np.testing.assert_array_equal(labels > 0, mask)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(labels[mask]), np.arange(labels.max()) + 1)
    parts, n = ndimage.label(mask)
    assert labels.max() >= n
    for i in np.unique(labels[mask]):
        assert len(np.unique(parts[labels == i])) == 1, "an instance lies in one component"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.2, 0.6, 0.95]),
    method=st.sampled_from(["watershed", "components"]),
    footprint_scale=st.sampled_from(["mpp", "fixed", "adaptive"]),
    keep_border=st.booleans(),
    opening=st.integers(0, 2),
    closing=st.integers(0, 2),
    min_area=st.integers(0, 12),
)
def test_instances_are_the_mask_without_what_was_dropped(
    seed: int, density: float, min_area: int, method: Any, **more: Any
) -> None:
    """Ids 1..N in use, each big enough and in one part; only small or marker-less parts go."""
    mask = np.random.default_rng(seed).random((30, 33)) < density
    labels = split(mask, method=method, footprint=3, min_area=min_area, **more)
    opening, closing = more["opening"], more["closing"]
    mask = room.binary_opening(mask, opening) if opening else mask
    mask = room.binary_closing(mask, closing) if closing else mask
    assert (areas(labels) >= max(min_area, 1)).all()
    assert len(np.unique(labels[labels > 0])) == labels.max()
    assert not (labels > 0)[~mask].any()
    if min_area == 0 and (more["keep_border"] or method == "components"):
        np.testing.assert_array_equal(labels > 0, mask)
    parts = ndimage.label(mask)[0]
    for i in range(1, labels.max() + 1):
        assert len(np.unique(parts[labels == i])) == 1
        assert ndimage.label(labels == i)[1] == 1
    whole = split(mask, method=method, footprint=3, keep_border=more["keep_border"],
                                 footprint_scale=more["footprint_scale"])  # fmt: skip
    lost = (whole > 0) & (labels == 0)
    assert lost.sum() == sum(a for a in areas(whole).tolist() if a < min_area)


def test_cells_on_the_border_are_kept_or_dropped_as_asked() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[0, 10:20] = True  # nothing but outermost pixels
    mask[20:30, 20:30] = True
    assert split(mask, footprint=9).max() == 2
    cut = split(mask, footprint=9, keep_border=False)
    assert cut.max() == 1
    assert cut[25, 25] == 1


def test_deterministic_and_raster_ordered() -> None:
    mask = blobs(7, (120, 150))
    first, second = (split(mask, footprint=6) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    markers = room.find_markers(room.distance_map(mask, sigma=1.0), mask, Instances(footprint=6))
    starts = [np.flatnonzero(markers == i)[0] for i in range(1, markers.max() + 1)]
    assert starts == sorted(starts)


def test_bare_components_are_numbered_in_raster_order_of_their_peaks() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[2:4, 2:4] = mask[4:34, 2:24] = True  # begins first, its peak is the lower one
    mask[6:16, 28:38] = True
    labels = split(mask, markers=np.zeros(mask.shape, dtype=np.int32))
    assert labels[20, 12] == 2 and labels[11, 33] == 1


def test_given_markers_are_used_and_bare_components_get_one() -> None:
    mask = np.zeros((30, 60), dtype=bool)
    mask[5:15, 5:25] = True
    mask[20:28, 40:50] = True
    markers = np.zeros(mask.shape, dtype=np.int32)
    markers[10, 7], markers[10, 22] = 7, 3
    markers[0, 0] = 9  # outside the mask: no instance
    labels = split(mask, markers=markers)
    assert labels.max() == 3
    assert labels[10, 7] != labels[10, 22]
    np.testing.assert_array_equal(labels > 0, mask)
    lost = split(mask, markers=markers, keep_border=False)
    assert lost.max() == 2


def test_small_instances_are_dropped_and_ids_stay_contiguous() -> None:
    mask = np.zeros((30, 60), dtype=bool)
    mask[2:4, 2:4] = True
    mask[10:20, 10:20] = True
    mask[10:20, 40:50] = True
    labels = split(mask, min_area=5)
    assert areas(labels).tolist() == [100, 100]
    assert split(mask, min_area=401, scale=0.5).max() == 0
    assert split(mask, min_area=400, scale=0.5).max() == 2


def test_footprint_follows_the_scale() -> None:
    yy, xx = np.mgrid[:60, :90]
    mask = (yy - 30) ** 2 + (xx - 30) ** 2 <= 121  # higher, so that the other is no peak
    mask |= (yy - 30) ** 2 + (xx - 47) ** 2 <= 100
    assert split(mask, footprint=30).max() == 1
    assert split(mask, footprint=30, scale=0.4).max() == 2


def test_a_fixed_footprint_does_not_follow_the_scale() -> None:
    distance, mask = np.zeros((4, 4), np.float32), np.ones((4, 4), bool)
    radius = {
        kind: room.footprint_radius(distance, mask, Instances(footprint_scale=kind), scale=0.5)
        for kind in ("mpp", "fixed", "adaptive")
    }
    assert radius == {"mpp": 6, "fixed": 12, "adaptive": 1}
    assert room.footprint_radius(distance, mask, Instances(footprint=1), scale=0.1) == 1


def discs(radius: int, gap: int, count: int) -> np.ndarray:
    """``count`` discs in a row, their centres 2 * radius + gap apart."""
    step = 2 * radius + gap
    yy, xx = np.mgrid[: 4 * radius, : step * count + 2 * radius]
    return np.any(
        [
            (yy - 2 * radius) ** 2 + (xx - step * i - 2 * radius) ** 2 <= radius**2
            for i in range(count)
        ],
        axis=0,
    )


@pytest.mark.parametrize("radius", [5, 9, 16, 30])
def test_an_adaptive_footprint_finds_touching_discs_of_any_size(radius: int) -> None:
    """Where a fixed one takes several small discs for one nucleus."""
    mask = discs(radius, -2, 5)
    distance = room.distance_map(mask, sigma=1.0)
    adaptive = Instances(footprint_scale="adaptive")
    found = room.footprint_radius(distance, mask, adaptive, scale=1.0)
    assert radius - 2 <= found <= radius + 1
    assert split(mask, footprint_scale="adaptive").max() == 5
    if radius == 5:
        assert split(mask, footprint=12).max() < 5


def test_more_than_256_instances_go_through_png(tmp_path: Path) -> None:
    """The high byte of an id lies in another channel; a reader that takes one channel loses it."""
    from coin_ray.data.label_files import read_label_map
    from coin_ray.data.write import write_coin_png

    yy, xx = np.mgrid[: 10 * 20, : 10 * 30]
    mask = (yy % 10 - 5) ** 2 + (xx % 10 - 5) ** 2 <= 9
    mask[:, :3] |= (yy % 10 < 4)[:, :3]  # and some that the border cuts
    labels = split(mask, footprint=4)
    assert labels.max() == 20 * 31
    write_coin_png(tmp_path / "labels.png", labels)
    np.testing.assert_array_equal(read_label_map(tmp_path / "labels.png"), labels)
