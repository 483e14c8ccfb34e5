"""Crops keep image and targets aligned, and are those of the literal way; a batch does not depend
on the number of workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.distillation import augment, sampling
from coin_ray.distillation.augment import Tiles, make_batch, placed_tiles
from coin_ray.distillation.settings import Student
from coin_ray.distillation.targets import PseudoLabels, edge_target
from tests.literal_crops import sample_crop


def cropped(
    image: np.ndarray,
    pseudo: PseudoLabels,
    rng: np.random.Generator,
    contours: np.ndarray | None = None,
    **student: Any,
) -> list[np.ndarray]:
    """A crop without turns and jitter unless ``student`` says so."""
    chosen = Student(**{"color_jitter": 0.0} | student)
    drawn = sampling.draw_crop(0, pseudo.label_map, rng, chosen)
    tiles = placed_tiles([(image, pseudo)], chosen, torch.device("cpu"))
    if contours is not None:
        tiles = replace(tiles, lines=[augment._counted(contours)])
    return [part[0].numpy() for part in make_batch(tiles, [drawn], chosen)]


def coded(height: int = 150, width: int = 130) -> tuple[np.ndarray, PseudoLabels]:
    """Discs on dark ground: red = foreground, green = ignore, blue = where in the image."""
    y, x = np.mgrid[:height, :width]
    label_map = np.zeros((height, width), dtype=np.int32)
    centres = [(y0, x0) for y0 in range(20, height, 35) for x0 in range(15, width, 30)]
    for i, (y0, x0) in enumerate(centres, start=1):
        label_map[(y - y0) ** 2 + (x - x0) ** 2 < 100] = i
    ignore = (label_map == 0) & (x % 40 < 12)
    image = np.stack([250 * (label_map > 0), 250 * ignore, (y + x) % 200], axis=-1)
    return image.astype(np.uint8), PseudoLabels(label_map, ignore)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 0.5), (1.7, 1.7), (0.6, 1.8)])
def test_image_and_targets_stay_aligned(scale: tuple[float, float], rotate: bool) -> None:
    image, pseudo = coded()
    rng = np.random.default_rng(3)
    for _ in range(6):
        crop, foreground, edge, ignore = cropped(
            image, pseudo, rng, crop=64, scale=scale, rotate=rotate
        )
        assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
        wrong = ((crop[..., 0] > 125) != foreground).mean()
        wrong_ignore = ((crop[..., 1] > 125) != ignore).mean()
        # Exact without resampling; else pixels on a contour may differ (a shift by 2 px: .1).
        assert max(wrong, wrong_ignore) <= (0 if scale == (1.0, 1.0) else 0.05)
        assert not edge[~foreground].any() and edge.any()


def test_edges_are_those_of_the_crop() -> None:
    image, pseudo = coded()
    rng = np.random.default_rng(0)
    _, foreground, edge, _ = cropped(image, pseudo, rng, crop=64, scale=(1.0, 1.0))
    assert np.array_equal(edge, edge_target(foreground.astype(np.int32)))


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("factor", [0.4, 0.7, 1.0, 1.6])
def test_contours_are_cut_out_with_the_image(factor: float, rotate: bool) -> None:
    """Lines stay where they were, and none tears: a gap would let the inside leak out."""
    from scipy.ndimage import binary_dilation, binary_erosion, label

    image, pseudo = coded()
    contours = edge_target(pseudo.label_map)
    image[..., 2] = np.where(contours, 255, 0)
    options = {"rotate": rotate, "scale": (factor, factor), "contours": contours}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        crop, foreground, edge, ignore = cropped(image, pseudo, rng, crop=64, **options)
        near = binary_dilation(edge, np.ones((3, 3)))
        assert edge.any() and (near | (crop[..., 2] < 120)).all()
        parts, _ = label(~edge)
        core = parts[binary_erosion(foreground, iterations=2) & ~edge]
        around = parts[~binary_dilation(foreground, iterations=2)]
        assert len(core) and not set(core.tolist()) & set(around.tolist())
        if factor == 1.0:
            assert np.array_equal(edge, crop[..., 2] == 255)
        assert not edge[ignore & (crop == (124, 116, 104)).all(axis=2)].any()


def test_small_image_is_placed_and_the_rest_ignored() -> None:
    image, pseudo = coded(40, 50)
    pseudo = PseudoLabels(pseudo.label_map, np.zeros((40, 50), dtype=bool))
    rng = np.random.default_rng(1)
    places = set()
    for _ in range(8):
        crop, foreground, _, ignore = cropped(image, pseudo, rng, crop=96, scale=(1.0, 1.0))
        assert (~ignore).sum() == 40 * 50 and foreground.sum() == (pseudo.label_map > 0).sum()
        assert (crop[ignore] == (124, 116, 104)).all() and not foreground[ignore].any()
        places.add(int(np.flatnonzero(~ignore)[0]))
    assert len(places) > 4


def test_wide_image_is_padded_in_one_direction_only() -> None:
    image, pseudo = coded(40, 200)
    rng = np.random.default_rng(1)
    _, _, _, ignore = cropped(image, pseudo, rng, crop=96, scale=(2.0, 2.0))
    inside = ~ignore
    padded_rows = 96 - inside.any(axis=1).sum()
    assert padded_rows == 96 - 80


def test_crops_prefer_labelled_nuclei() -> None:
    label_map = np.zeros((512, 512), dtype=np.int32)
    label_map[100:260, 100:260] = 1
    pseudo = PseudoLabels(label_map, np.zeros(label_map.shape, dtype=bool))
    image = np.zeros((512, 512, 3), dtype=np.uint8)
    hits = [
        cropped(image, pseudo, np.random.default_rng(i), crop=64, scale=(1.0, 1.0))[1].any()
        for i in range(200)
    ]
    # One draw hits with (160 + 63)^2 / 449^2 = .25 or less, four with at most .68.
    assert 0.5 < np.mean(hits) < 0.8


def test_colour_jitter_leaves_the_targets_and_changes_the_colours() -> None:
    image, pseudo = coded()
    kwargs = {"crop": 64, "scale": (1.0, 1.0), "rotate": True}
    changed = 0
    for i in range(20):
        plain = cropped(
            image, pseudo, np.random.default_rng(i), color_jitter=0, stain_jitter=0, **kwargs
        )
        jittered = cropped(
            image,
            pseudo,
            np.random.default_rng(i),
            color_jitter=0.4,
            stain_jitter=0,
            hue_jitter=0.1,
            **kwargs,
        )
        assert all(np.array_equal(a, b) for a, b in zip(plain[1:], jittered[1:], strict=True))
        changed += not np.array_equal(plain[0], jittered[0])
    assert 4 <= changed <= 16  # probability one half


def test_stain_jitter_changes_the_colours() -> None:
    image, pseudo = coded()
    rng = np.random.default_rng(5)
    kwargs = {"crop": 64, "scale": (1.0, 1.0), "rotate": False, "color_jitter": 0.0}
    crop, foreground, _, _ = cropped(image, pseudo, rng, stain_jitter=0.3, **kwargs)
    assert not np.array_equal(crop[..., 0] == 250, foreground)


BOTH = [coded(), coded(70, 150)]
STUDENTS: list[dict[str, Any]] = [
    {"scale": (1.0, 1.0), "edge_target": "boundary"},
    {"scale": (0.5, 2.0), "rotate": True, "hue_jitter": 0.3},
    {"scale": (0.7, 1.4), "rotate": True, "stain_jitter": 0.2, "edge_target": "boundary"},
    {"scale": (0.4, 0.5), "rotate": True, "color_jitter": 0.0},
]


@pytest.mark.parametrize("options", STUDENTS)
def test_a_batch_is_what_the_literal_way_cuts_one_by_one(options: dict[str, Any]) -> None:
    """The same bytes, but for one level where the last bit of an exponential decides."""
    student = Student(**{"crop": 96, "batch": 24, "edge_target": "canny"} | options)
    tiles = placed_tiles(BOTH, student, torch.device("cpu"))
    maps = [pseudo.label_map for _, pseudo in BOTH]
    drawn = sampling.draw_crops(maps, student, (3, 2), 5, range(24))
    assert {crop.image for crop in drawn} == {0, 1}
    literal = [
        sample_crop(
            *BOTH[crop.image],
            sampling.crop_generator((3, 2), 5, index),
            student,
            augment.canny_target(maps[crop.image]) if tiles.lines else None,
        )
        for index, crop in enumerate(drawn)
    ]
    images, *targets = (part.numpy() for part in make_batch(tiles, drawn, student))
    expected, *wanted = (np.stack(parts) for parts in zip(*literal, strict=True))
    differs = np.abs(images.astype(int) - expected)
    assert differs.max() <= (1 if student.stain_jitter else 0) and (differs > 0).mean() < 1e-4
    assert all(np.array_equal(a, b) for a, b in zip(targets, wanted, strict=True))


def test_data_that_lies_on_the_device_gives_the_same_batch() -> None:
    student = Student(crop=96, batch=8, edge_target="canny", rotate=True, stain_jitter=0.1)
    tiles = placed_tiles(BOTH, student, torch.device("cpu"))
    layers = (tiles.pixels, tiles.labels, tiles.ignore, tiles.lines)
    there = Tiles(tiles.device, *([torch.tensor(one) for one in layer] for layer in layers))
    maps = [pseudo.label_map for _, pseudo in BOTH]
    drawn = sampling.draw_crops(maps, student, (0, 1), 0, range(8))
    pairs = zip(make_batch(there, drawn, student), make_batch(tiles, drawn, student), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_precision_of_the_network_does_not_touch_the_crops() -> None:
    student = Student(crop=96, batch=8, rotate=True, stain_jitter=0.2, hue_jitter=0.2)
    tiles = placed_tiles(BOTH, student, torch.device("cpu"))
    maps = [pseudo.label_map for _, pseudo in BOTH]
    drawn = sampling.draw_crops(maps, student, (0, 1), 0, range(8))
    plain = make_batch(tiles, drawn, student)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(make_batch(tiles, drawn, student)[0], plain[0])


@pytest.mark.parametrize("size", [(60, 52), (150, 130), (97, 84), (300, 260)])
def test_a_device_resamples_as_pillow_does(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (150, 130, 3), dtype=np.uint8)
    ours = augment.resampled(torch.tensor(noise), *size).numpy()
    differs = np.abs(ours - augment._resized(torch.tensor(noise), *size).numpy().astype(int))
    assert differs.max() <= 1 and (differs > 0).mean() < 1e-3


def test_worker_count_only_shards_the_batch() -> None:
    student = Student(crop=64, batch=6, rotate=True)
    maps = [pseudo.label_map for _, pseudo in BOTH]

    def batch(rank: int, world: int) -> list[str]:
        share = range(rank, 6, world)
        return [repr(crop) for crop in sampling.draw_crops(maps, student, (7, 2), 5, share)]

    whole = batch(0, 1)
    assert whole[0::2] == batch(0, 2) and whole[1::2] == batch(1, 2)
    assert len(set(whole)) == 6  # every crop has a stream of its own


def test_seed_round_and_step_each_change_the_draws() -> None:
    draws = {
        sampling.crop_generator((seed, round_), step, index).random()
        for seed, round_, step, index in [
            (0, 1, 0, 0),
            (1, 1, 0, 0),
            (0, 2, 0, 0),
            (0, 1, 1, 0),
            (0, 1, 0, 1),
        ]
    }
    assert len(draws) == 5


def test_images_come_in_shuffled_passes() -> None:
    passes = [[sampling.image_index((0, 1), 5 * lap + i, 5) for i in range(5)] for lap in range(6)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
