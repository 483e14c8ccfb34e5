"""Generated tiles: a pure function of the seed, with the statistics of H&E at 0.25 um/px."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from coin_ray import labels
from coin_ray.data.synthetic import SMALLEST, generate_tile, generated_samples
from coin_ray.data.synthetic_nuclei import outline, place
from coin_ray.data.synthetic_tissue import colour, share_mask, smooth_noise
from coin_ray.errors import UserError

TILES = [generate_tile(seed, 192) for seed in range(12)]
VARIED = [generate_tile(seed, 192, varied=True) for seed in range(12)]


def test_same_seed_same_tile_and_another_seed_another():
    image, label_map = generate_tile(7, 96)
    again, label_again = generate_tile(7, 96)
    other, _ = generate_tile(8, 96)
    assert np.array_equal(image, again)
    assert np.array_equal(label_map, label_again)
    assert not np.array_equal(image, other)


def test_nuclei_of_a_varied_tile_are_filled_less_evenly():
    def unevenness(tiles):
        return np.mean(
            [
                image[..., 0][label_map == i].std()
                for image, label_map in tiles
                for i in range(1, label_map.max() + 1)
            ]
        )

    assert unevenness(VARIED) > unevenness(TILES)
    again = generate_tile(0, 192, varied=True)
    assert all(np.array_equal(a, b) for a, b in zip(again, VARIED[0], strict=True))


def test_generating_leaves_the_global_random_state_alone():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    generate_tile(1, 64)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("size", [64, 192])
def test_types_and_contiguous_ids(size):
    image, label_map = generate_tile(11, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert label_map.shape == (size, size)
    assert label_map.dtype == np.int32
    assert np.array_equal(np.unique(label_map), np.arange(label_map.max() + 1))


@pytest.mark.parametrize("tiles", [TILES, VARIED], ids=["plain", "varied"])
def test_no_instance_is_a_sliver(tiles):
    assert all(labels.areas(label_map).min(initial=SMALLEST) >= SMALLEST for _, label_map in tiles)


@pytest.mark.parametrize("tiles", [TILES, VARIED], ids=["plain", "varied"])
def test_nuclei_are_darker_in_red_than_their_surroundings(tiles):
    # Hematoxylin absorbs red, eosin hardly: the channel that tells nuclei apart in every H&E image.
    darker = [
        image[..., 0][label_map > 0].mean() < image[..., 0][label_map == 0].mean()
        for image, label_map in tiles
        if (label_map > 0).any()
    ]
    assert np.mean(darker) >= 0.9


def test_diameter_is_the_one_asked_for():
    for diameter in (14, 30):
        found = []
        for seed in range(4):
            _, label_map = generate_tile(seed, 192, diameter=diameter, crowding=0.2)
            box = labels.boxes(label_map)
            inside = (box[:, :2] > 0).all(axis=1) & (box[:, 2:] < 192).all(axis=1)
            found.extend(2 * np.sqrt(labels.areas(label_map)[inside] / np.pi))
        assert 0.75 * diameter < np.median(found) < 1.25 * diameter


def test_crowding_gives_more_nuclei_and_contacts():
    def contacts(label_map):
        pairs = (
            (label_map[:, 1:] != label_map[:, :-1])
            & (label_map[:, 1:] > 0)
            & (label_map[:, :-1] > 0)
        )
        return pairs.sum()

    sparse = [generate_tile(s, 192, diameter=20, crowding=0.05)[1] for s in range(4)]
    crowded = [generate_tile(s, 192, diameter=20, crowding=1.0)[1] for s in range(4)]
    assert sum(m.max() for m in crowded) > 3 * sum(m.max() for m in sparse)
    assert sum(map(contacts, crowded)) > 10 * (1 + sum(map(contacts, sparse)))


def test_stain_and_field_vary_between_seeds():
    means = np.array([image.mean((0, 1)) for image, _ in TILES])
    assert (means.std(axis=0) > 8).all()
    assert len({int(label_map.max()) for _, label_map in TILES}) > 6


def test_a_tile_too_small_for_a_nucleus_is_refused():
    with pytest.raises(UserError, match="room for a nucleus"):
        generate_tile(0, 16)


def test_share_mask_covers_the_share():
    field = smooth_noise(np.random.default_rng(0), 128, 16)
    assert abs((share_mask(field, 0.3, 0.01) > 0.5).mean() - 0.3) < 0.03
    assert not share_mask(field, 0.0, 0.1).any()


def test_outline_is_one_on_an_ellipse():
    y = np.zeros((1, 1), np.float32)
    rng = np.random.default_rng(0)
    # Circle, no ripple: radius 8 along any direction is the outline.
    assert outline(rng, y, y + 8, 8.0, 1.0, 0.3, 0.0) == pytest.approx(1.0)
    # Aspect 1/4: half axes 16 and 4; the short axis is not bent.
    assert outline(rng, y + 4, y, 8.0, 0.25, 0.0, 0.0) == pytest.approx(1.0)


def test_placed_centres_keep_their_distance():
    centres = place(np.random.default_rng(0), np.ones((128, 128), np.float32), 8.0, 60, 1.0)
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 1e9 * np.eye(len(centres))
    assert len(centres) > 20
    assert gaps.min() >= 0.75 * 16


def test_no_dye_is_glass_and_dye_darkens():
    nothing = np.zeros((4, 4), np.float32)
    glass = colour(np.random.default_rng(0), nothing, nothing, nothing)
    dyed = colour(np.random.default_rng(0), nothing + 1, nothing, nothing)
    washed = colour(np.random.default_rng(0), nothing + 1, nothing, nothing + 1)
    assert (glass > 200).all()
    assert (dyed < glass).all()
    assert np.allclose(washed, glass)


def test_samples_are_written_once_and_read_back(tmp_path):
    samples = generated_samples(tmp_path, 2, size=64, seed=5)
    assert [s.name for s in samples] == ["generated_5_0000", "generated_5_0001"]
    image, label_map = generate_tile(5 * 1_000_003, 64)
    assert np.array_equal(np.asarray(Image.open(samples[0].image.path)), image)
    assert np.array_equal(np.asarray(Image.open(samples[0].truth_path)), label_map)
    stamps = [s.image.path.stat().st_mtime_ns for s in samples]
    again = generated_samples(tmp_path, 2, size=64, seed=5)
    assert [s.image.path.stat().st_mtime_ns for s in again] == stamps


def test_an_interrupted_set_is_completed(tmp_path):
    samples = generated_samples(tmp_path, 2, size=64, seed=5)
    samples[1].truth_path.unlink()
    assert generated_samples(tmp_path, 2, size=64, seed=5)[1].truth_path.exists()


def test_another_set_in_the_folder_is_an_error(tmp_path):
    generated_samples(tmp_path, 1, size=64, seed=5)
    with pytest.raises(UserError, match="other generated tiles"):
        generated_samples(tmp_path, 1, size=64, seed=6)
    assert json.loads((tmp_path / "generated.json").read_text())["seed"] == 5
