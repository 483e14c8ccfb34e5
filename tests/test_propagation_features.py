from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coin_ray.imaging.windows import grid
from coin_ray.propagation.backbones import Backbone
from coin_ray.propagation.centroids import ClassSums, centroids, class_sums, merge
from coin_ray.propagation.features import (
    WindowFeatures,
    blocks,
    extract_features,
    normalise_features,
    window_side,
)
from coin_ray.propagation.settings import Uss
from coin_ray.propagation.similarity import similarity_map, stretched


def extract(
    image: NDArray[np.uint8], backbone: Backbone, *, zoom: float, batch: int = 8, **settings: Any
) -> WindowFeatures:
    return extract_features(image, backbone, Uss(**settings), zoom=zoom, batch=batch)


def similar(pairs: Any, relu: bool = False, **settings: Any) -> NDArray[np.float32]:
    return stretched(similarity_map(pairs, relu=relu), Uss(**settings))


def pooling_backbone(patch: int = 4, offset: float = 0.0) -> Backbone:
    """Tokens = mean colour of each patch, and of its left half minus its right half."""

    def tokens(batch: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(batch, patch)
        half = torch.nn.functional.avg_pool2d(batch, (patch, patch // 2))
        return torch.cat([mean + offset, half[..., ::2] - half[..., 1::2]], 1)

    device = torch.device("cpu")
    return Backbone(patch, 6, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), device, tokens)


def random_features(
    shape: tuple[int, int] = (37, 52), side: int = 14, stride: int = 9, dim: int = 5, seed: int = 0
) -> WindowFeatures:
    rng = np.random.default_rng(seed)
    origins = np.array(grid(shape, side, stride))
    tokens = rng.normal(1, 1, (len(origins), dim, 4, 4)).astype(np.float16)
    return window_features(tokens, origins, side, shape)


def window_features(
    tokens: NDArray[np.float16], origins: NDArray[np.int64], side: int, shape: tuple[int, int]
) -> WindowFeatures:
    geometry = np.array([*np.atleast_1d(side), *shape])
    return WindowFeatures.from_arrays({"tokens": tokens, "origins": origins, "geometry": geometry})


def tokens_of(features: WindowFeatures) -> NDArray[np.float16]:
    return features.to_arrays()["tokens"]


def random_image(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def literal_pixels(features: WindowFeatures) -> NDArray[np.float64]:
    """(D, H, W): every window up-sampled by torch, added, divided by the number of windows."""
    all_tokens = tokens_of(features)
    total = np.zeros((all_tokens.shape[1], *features.shape))
    count = np.zeros(features.shape)
    side = features.window[0]
    for tokens, (y, x) in zip(all_tokens, features.origins, strict=True):
        up = torch.nn.functional.interpolate(
            torch.from_numpy(tokens.astype(np.float64))[None],
            (side, side),
            mode="bilinear",
            align_corners=False,
        )
        total[:, y : y + side, x : x + side] += up[0].numpy()
        count[y : y + side, x : x + side] += 1
    assert count.min() >= 1
    return total / count


def pixels(features: WindowFeatures, rows: int | None = None) -> NDArray[np.float32]:
    found = torch.cat([block for _, block in blocks(features, rows)])
    return found.permute(2, 0, 1).numpy()


@pytest.mark.parametrize("length", [174, 200, 256, 333, 512, 1000, 1024])
@pytest.mark.parametrize(("zoom", "windows"), [(6, 81), (4, 36)])
def test_number_of_windows_of_a_square_image(length: int, zoom: int, windows: int) -> None:
    side = window_side((length, length), zoom=zoom, window=None)
    assert len(grid((length, length), side, int(side * 2 / 3))) == windows


@pytest.mark.parametrize("shape", [(174, 174), (90, 130), (130, 90), (7, 9), (3, 40), (1, 1)])
@pytest.mark.parametrize("zoom", [1.5, 4, 6])
def test_every_pixel_is_covered_and_finite(shape: tuple[int, int], zoom: float) -> None:
    features = extract(random_image(*shape), pooling_backbone(), zoom=zoom, batch=64)
    assert features.shape == shape
    found = pixels(features)
    assert found.shape == (6, *shape)
    assert np.isfinite(found).all()
    literal_pixels(features)  # asserts the coverage


def test_window_is_given_after_zoom_and_never_above_the_image() -> None:
    assert window_side((1000, 1000), zoom=6, window=None) == 166
    assert window_side((1000, 1000), zoom=2, window=256) == 128
    assert window_side((100, 300), zoom=2, window=256) == 100
    assert window_side((3, 40), zoom=6, window=None) == 1
    one = extract(random_image(30, 30), pooling_backbone(), zoom=2, window=256)
    assert len(one.origins) == 1
    assert tokens_of(one).shape == (1, 6, 15, 15)


def test_the_paper_settings_give_its_token_grid() -> None:
    seen = []

    def tokens(batch: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(batch.shape))
        return torch.zeros(len(batch), 1, batch.shape[2] // 16, batch.shape[3] // 16)

    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    backbone = Backbone(16, 1, zero, one, torch.device("cpu"), tokens)
    # the 166 px window of a 1000 px image at zoom 6 becomes 996 px, then 1008 for patches of 16
    image = random_image(166, 276)
    features = extract(image, backbone, zoom=6, window=996, hflip=False, batch=2)
    assert tokens_of(features).shape == (2, 1, 63, 63)
    assert features.origins.tolist() == [[0, 0], [0, 110]]
    assert seen == [(2, 3, 1008, 1008)]


def test_input_is_bicubic_normalised_rgb() -> None:
    image = random_image(16, 16)
    backbone = pooling_backbone(patch=2)
    plain = extract(image, backbone, zoom=1, window=16, hflip=False)
    mean = image.reshape(8, 2, 8, 2, 3).mean((1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(tokens_of(plain)[0, :3], mean, atol=1e-3)
    shifted = Backbone(2, 6, (0.5, 0.0, 0.0), (0.1, 1.0, 1.0), backbone.device, backbone.tokens)
    found = extract(image, shifted, zoom=1, window=16, hflip=False)
    np.testing.assert_allclose(tokens_of(found)[0, 0], (mean[0] - 0.5) / 0.1, atol=1e-2)


def test_flip_averages_the_unmirrored_tokens_of_the_mirrored_window() -> None:
    image = random_image(24, 24)
    backbone = pooling_backbone()
    plain = extract(image, backbone, zoom=2, hflip=False)
    both = extract(image, backbone, zoom=2, hflip=True)
    # the mean colour is blind to mirroring, left minus right is cancelled by it
    np.testing.assert_allclose(tokens_of(both)[:, :3], tokens_of(plain)[:, :3], atol=1e-3)
    assert np.abs(tokens_of(plain)[:, 3:]).max() > 0.02
    np.testing.assert_allclose(tokens_of(both)[:, 3:], 0, atol=1e-3)


def test_batches_do_not_change_the_tokens() -> None:
    image, backbone = random_image(60, 70), pooling_backbone()
    one = extract(image, backbone, zoom=4, batch=1)
    many = extract(image, backbone, zoom=4, batch=64)
    np.testing.assert_array_equal(tokens_of(one), tokens_of(many))


@pytest.mark.parametrize("rows", [1, 7, 37, 500, None])
def test_pixel_features_are_the_mean_of_upsampled_windows(rows: int | None) -> None:
    features = random_features()
    found = pixels(features, rows)
    np.testing.assert_allclose(found, literal_pixels(features), atol=2e-5)


def test_windows_of_one_token_are_constant() -> None:
    features = window_features(
        np.full((1, 2, 1, 1), 3, np.float16), np.zeros((1, 2), int), 5, (5, 5)
    )
    np.testing.assert_array_equal(pixels(features), np.full((2, 5, 5), 3))


def test_arrays_round_trip() -> None:
    features = random_features()
    back = WindowFeatures.from_arrays(features.to_arrays())
    assert (back.window, back.shape) == (features.window, features.shape)
    np.testing.assert_array_equal(tokens_of(back), tokens_of(features))
    np.testing.assert_array_equal(back.origins, features.origins)


def channels_of(features: WindowFeatures) -> NDArray[np.float64]:
    return tokens_of(features).astype(np.float64).transpose(1, 0, 2, 3).reshape(5, -1)


def test_standardise_and_whiten() -> None:
    features = random_features()
    mixing = np.diag([1, 2, 3, 0.5, 4]) + 0.3
    mixed = window_features(
        np.einsum("ij,njhw->nihw", mixing, tokens_of(features)).astype(np.float16),
        features.origins,
        features.window,
        features.shape,
    )
    assert normalise_features(mixed, "none") is mixed
    standard = channels_of(normalise_features(mixed, "standardise"))
    np.testing.assert_allclose(standard.mean(1), 0, atol=1e-3)
    np.testing.assert_allclose(standard.std(1), 1, atol=1e-2)
    white = channels_of(normalise_features(mixed, "whiten"))
    np.testing.assert_allclose(np.cov(white, bias=True), np.eye(5), atol=2e-2)


def literal_centroids(
    pairs: list[tuple[WindowFeatures, NDArray[np.bool_]]],
) -> NDArray[np.float64]:
    """Means of the concatenated unit pixel features of each class."""
    unit, inside = [], []
    for features, mask in pairs:
        flat = literal_pixels(features).reshape(5, -1)
        unit.append(flat / np.linalg.norm(flat, axis=0))
        inside.append(mask.ravel())
    everything, mask = np.concatenate(unit, axis=1), np.concatenate(inside)
    return np.stack([everything[:, ~mask].mean(1), everything[:, mask].mean(1)])


def test_streamed_centroids_equal_the_concatenated_mean() -> None:
    rng = np.random.default_rng(1)
    shapes = [(37, 52), (60, 40), (30, 33)]
    pairs = [
        (random_features(shape, seed=i), rng.random(shape) < 0.1 * (i + 1))
        for i, shape in enumerate(shapes)
    ]
    sums = [class_sums(features, mask) for features, mask in pairs]
    own = centroids(sums[0])
    np.testing.assert_allclose(own, literal_centroids(pairs[:1]), atol=1e-6)
    dataset = centroids(sums[0], merge(sums, "pixel"))
    np.testing.assert_allclose(dataset[1], literal_centroids(pairs)[1], atol=1e-6)
    np.testing.assert_array_equal(dataset[0], own[0])
    assert np.abs(dataset[1] - own[1]).max() > 1e-3
    assert sums[0].counts.sum() == 37 * 52


def test_merge_weights_by_pixels_and_keeps_its_parts() -> None:
    one = ClassSums(np.array([[1.0], [2.0]]), np.array([1, 2]))
    two = ClassSums(np.array([[5.0], [12.0]]), np.array([1, 4]))
    both = merge([one, two], "pixel")
    np.testing.assert_array_equal(both.sums, [[6], [14]])
    np.testing.assert_array_equal(both.counts, [2, 6])
    np.testing.assert_array_equal(one.counts, [1, 2])
    np.testing.assert_allclose(centroids(one, both), [[1], [14 / 6]])


def test_merge_by_images_is_the_mean_of_the_images_means() -> None:
    rng = np.random.default_rng(3)
    pairs = [
        (random_features(shape, seed=i), rng.random(shape) < share)
        for i, (shape, share) in enumerate([((37, 52), 0.1), ((60, 40), 0.5), ((30, 33), 0.0)])
    ]
    sums = [class_sums(features, mask) for features, mask in pairs]
    means = [literal_centroids(pairs[i : i + 1])[1] for i in range(2)]
    found = centroids(sums[0], merge(sums, "image"))
    # the third image has no foreground, so it has no say
    np.testing.assert_allclose(found[1], (means[0] + means[1]) / 2, atol=1e-6)
    np.testing.assert_array_equal(found[0], centroids(sums[0])[0])
    assert np.abs(found - centroids(sums[0], merge(sums, "pixel"))).max() > 1e-3
    assert merge(sums, "image").counts.tolist() == [3, 2]


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        class_sums(random_features(), np.zeros((3, 3), bool))


def test_similarity_is_the_cosine() -> None:
    features = random_features()
    centre = np.random.default_rng(2).normal(size=(2, 5))
    full = literal_pixels(features)
    cosine = np.einsum("cd,dyx->cyx", centre, full) / np.linalg.norm(full, axis=0)
    cosine /= np.linalg.norm(centre, axis=1)[:, None, None]
    raw = similar([(features, centre)], minmax=False, complement=False)
    assert raw.dtype == np.float32
    np.testing.assert_allclose(raw, cosine, atol=1e-5)
    relu = similar([(features, centre)], relu=True, minmax=False, complement=False)
    assert (cosine < -0.1).any()
    np.testing.assert_allclose(relu, np.maximum(cosine, 0), atol=1e-5)
    low, high = cosine.min((1, 2), keepdims=True), cosine.max((1, 2), keepdims=True)
    unit = (cosine - low) / (high - low)
    found = similar([(features, centre)], complement=False)
    np.testing.assert_allclose(found, unit, atol=2e-5)
    with_complement = similar([(features, centre)])
    np.testing.assert_allclose(with_complement[1], unit[1], atol=2e-5)
    np.testing.assert_allclose(with_complement[0], np.maximum(unit[0], 1 - unit[1]), atol=2e-5)


def test_similarity_ignores_the_length_of_centroids_and_features() -> None:
    features = random_features()
    centre = np.random.default_rng(2).normal(size=(2, 5))
    longer = window_features(
        tokens_of(features) * 2, features.origins, features.window, features.shape
    )
    np.testing.assert_allclose(
        similar([(features, centre)]), similar([(longer, 10 * centre)]), atol=1e-5
    )


def test_cosines_of_several_zooms_are_averaged_before_they_are_stretched() -> None:
    rng = np.random.default_rng(4)
    pairs = [
        (random_features((37, 52), side=side, dim=dim, seed=side), rng.normal(size=(2, dim)))
        for side, dim in ((14, 5), (20, 3))
    ]
    raw = [similar([pair], minmax=False, complement=False) for pair in pairs]
    mean = (raw[0] + raw[1]) / 2
    found = similar(iter(pairs), minmax=False, complement=False)
    np.testing.assert_allclose(found, mean, atol=1e-6)
    assert np.abs(raw[0] - raw[1]).max() > 0.5
    relu = similar(pairs, relu=True, minmax=False, complement=False)
    np.testing.assert_allclose(relu, np.maximum(mean, 0), atol=1e-6)
    low, high = mean.min((1, 2), keepdims=True), mean.max((1, 2), keepdims=True)
    stretched = similar(pairs, complement=False)
    np.testing.assert_allclose(stretched, (mean - low) / (high - low), atol=1e-5)


def test_percentiles_cut_the_tails_off() -> None:
    pair = (random_features(), np.random.default_rng(2).normal(size=(2, 5)))
    raw = similar([pair], minmax=False, complement=False)
    found = similar([pair], percentile=5.0, complement=False)
    assert found.dtype == np.float32
    for channel, cosine in zip(found, raw, strict=True):
        low, high = np.quantile(cosine, [0.05, 0.95])
        np.testing.assert_allclose(channel, np.clip((cosine - low) / (high - low), 0, 1), atol=1e-5)
        # a twentieth of the pixels at either end
        assert (channel == 0).mean() == pytest.approx(0.05, abs=2e-3)
        assert (channel == 1).mean() == pytest.approx(0.05, abs=2e-3)
