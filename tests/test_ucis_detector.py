"""The detector: votes on maps whose nuclei are known, and as the coarse model of a cell."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coin_ray.data.synthetic import generate_tile, generated_samples
from coin_ray.labels import centroids, count
from coin_ray.metrics.evaluate import evaluate
from coin_ray.metrics.settings import Evaluate
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.precision import DEVICE, arithmetic
from coin_ray.ucis import detection
from coin_ray.ucis.detector import CELL, WINDOW, VotingNetwork, load_detector
from coin_ray.ucis.settings import DETECTOR, Detector
from tests.conftest import TINY


def disks(*where: tuple[int, int, int], shape: tuple[int, int] = (80, 96)) -> NDArray[np.int32]:
    """Label map of disks (y, x, radius); a later one lies on top."""
    y, x = np.indices(shape)
    out = np.zeros(shape, np.int32)
    for i, (cy, cx, radius) in enumerate(where, 1):
        out[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = i
    return out


def ideal(label_map: NDArray[np.int32]) -> NDArray[np.float32]:
    """What a perfect network reads: (3, H, W)."""
    centre = np.concatenate([np.zeros((1, 2)), centroids(label_map)])[label_map]
    way = centre - np.moveaxis(np.indices(label_map.shape), 0, -1)
    inside = label_map > 0
    return np.stack([inside, *(way[..., axis] * inside for axis in (0, 1))]).astype(np.float32)


def match(found: NDArray[np.int32], truth: NDArray[np.int32]) -> float:
    return evaluate(truth, found, Evaluate(adjacency_radius=None), official=False)["aji"]


TOUCHING = disks((20, 20, 11), (24, 38, 10), (60, 60, 9), (62, 76, 9), (40, 20, 10))


def test_perfect_votes_give_the_nuclei_back_also_where_they_touch() -> None:
    found, certainty = detection.vote(ideal(TOUCHING), Detector(), min_area=0)
    assert match(found, TOUCHING) == 1 and certainty.tolist() == [1.0] * 5


def test_votes_a_little_astray_still_meet() -> None:
    maps = ideal(TOUCHING)
    rng = np.random.default_rng(0)
    maps[1:] += rng.normal(0, 1.5, maps[1:].shape) * (TOUCHING > 0)
    assert match(detection.vote(maps, Detector(), min_area=0)[0], TOUCHING) > 0.95


def test_what_is_unsure_small_or_without_a_centre_is_no_nucleus() -> None:
    label_map = disks((20, 20, 11), (60, 60, 9), (20, 70, 3))
    maps = ideal(label_map)
    maps[0, label_map == 2] = 0.7
    everything = Detector(votes=1.0, certainty=0.0)
    assert count(detection.vote(maps, everything, min_area=0)[0]) == 3
    one, certainty = detection.vote(maps, Detector(), min_area=0)
    assert count(one) == 1 and one[20, 20] == 1 and certainty == pytest.approx([1.0])
    assert count(detection.vote(maps, everything, min_area=40)[0]) == 2
    assert count(detection.vote(maps, Detector(foreground=0.8), min_area=0)[0]) == 1
    # Votes that lead far away from where the others meet belong to nobody.
    maps[1, 10:14, 15:25] = 30
    assert not detection.vote(maps, Detector(), min_area=0)[0][10:14, 15:25].any()


@pytest.mark.parametrize("shape", [(1, 1), (40, 300)])
def test_nothing_votes_on_an_empty_map(shape: tuple[int, int]) -> None:
    found, certainty = detection.vote(np.zeros((3, *shape), np.float32), Detector(), min_area=0)
    assert found.shape == shape and not found.any() and certainty.shape == (0,)


def test_touching_nuclei_are_apart_in_the_mask() -> None:
    from scipy.ndimage import label

    apart = detection.separated(TOUCHING)
    assert label(apart)[1] == 5 and not apart[TOUCHING == 0].any()
    lonely = disks((20, 20, 11), (60, 60, 9))
    assert (detection.separated(lonely) == (lonely > 0)).all()


class Echo(torch.nn.Module):
    """Reads the image itself: red is the probability, green and blue the way / REACH + 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = torch.nn.functional.avg_pool2d(images, CELL)
        red, way = cells[:, :1].clamp(1e-4, 1 - 1e-4).logit(), cells[:, 1:] - 0.5
        return torch.cat([red, red, way], dim=1) + 0 * self.nothing


@pytest.mark.parametrize("shape", [(300, 517), (90, 256), (30, 41)])
def test_windows_are_joined_where_they_overlap(shape: tuple[int, int]) -> None:
    """Smooth pictures, so that a cell of 2 px is as good as a pixel."""
    y, x = np.indices(shape) / 40
    values = np.stack([0.5 + 0.4 * np.sin(y), 0.5 + 0.3 * np.cos(x), 0.5 + 0.3 * np.sin(x + y)])
    image = np.rint(np.moveaxis(values, 0, -1) * 255).astype(np.uint8)
    found = detection.read(image, Echo(), views=1)
    assert found.shape == (3, *shape)
    assert np.abs(found[0] - values[0]).max() < 0.03
    assert np.abs(found[1:] / detection.REACH + 0.5 - values[1:]).max() < 0.03
    assert max(shape) > WINDOW or min(shape) < WINDOW


@pytest.mark.parametrize("view", range(8))
def test_ways_turn_with_the_image(view: int) -> None:
    turned = detection.turned(TOUCHING, view)
    assert detection.turned_back(ideal(turned), view) == pytest.approx(ideal(TOUCHING), abs=1e-4)
    assert view == 0 or turned.shape != TOUCHING.shape or (turned != TOUCHING).any()


def test_views_are_averaged_and_agree() -> None:
    image, truth = generate_tile(904, 192)
    network = load_detector(DETECTOR)
    one, four, eight = (detection.read(image, network, views=n) for n in (1, 4, 8))
    each = [detection.turned_back(detection.read(detection.turned(image, v), network, views=1), v)
            for v in range(4)]  # fmt: skip
    np.testing.assert_allclose(four, np.mean(each, axis=0), atol=1e-4)
    inside = one[0] > 0.9
    assert np.abs(one - eight)[1:, inside].mean() < 2 < np.abs(one[1:, inside]).mean()
    found, _ = detection.detect(image, network, Detector(views=4), min_area=60)
    assert match(found, truth) > 0.5


def test_the_shipped_detector_finds_the_nuclei_of_tiles_that_it_has_not_seen() -> None:
    found = []
    for seed in (901, 902, 903):
        image, truth = generate_tile(seed, 256)
        label_map, certainty = detection.detect(
            image, load_detector(DETECTOR), Detector(), min_area=60
        )
        assert (certainty >= Detector().certainty).all() and len(certainty) == count(label_map)
        found.append(match(label_map, truth))
    assert np.mean(found) > 0.5  # .80 with each of three instruction sets


def test_it_draws_in_fp32_while_nothing_else_computes() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def look(*_: object) -> None:
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        taken: list[bool] = []
        other = Thread(target=lambda: taken.append(DEVICE.acquire(blocking=False)))
        other.start()
        other.join()
        seen.append((products.allow_tf32, convolutions.allow_tf32, *taken))

    network = VotingNetwork(dim=16, depth=1, heads=2).eval()
    network.register_forward_pre_hook(look)
    with arithmetic("cpu", "tf32", deterministic=False):
        detection.detect(np.zeros((9, 9, 3), np.uint8), network, Detector(), min_area=0)
        assert torch.backends.cudnn.allow_tf32
    detection.detect(np.zeros((9, 9, 3), np.uint8), network, Detector(), min_area=0)
    assert seen == [(False, False, False)] * 2


def test_an_image_of_another_resolution_is_brought_to_the_detector_s() -> None:
    image, _ = generate_tile(901, 256)
    small = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(small, (128, 128), mode="area")
    half = small[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    network = load_detector(DETECTOR)
    whole, _ = detection.detect(image, network, Detector(), min_area=60)
    found, certainty = detection.detect(half, network, Detector(), scale=0.5, min_area=60)
    assert found.shape == (128, 128) and count(found) == len(certainty)
    as_it_is, _ = detection.detect(half, network, Detector(), min_area=60)
    assert match(found, whole[::2, ::2]) > max(0.5, match(as_it_is, whole[::2, ::2]))


def test_a_cell_starts_from_the_detector_and_keeps_its_instances(tmp_path: Path) -> None:
    samples = generated_samples(tmp_path / "tiles", 1, size=96, seed=5)
    config = Cell.model_validate(
        {**TINY, "ucis": {"model": "detector"}, "uss": {"family": "none"}, "rounds": {"count": 0}}
    )
    run = open_local(config, 0, [s.image for s in samples], tmp_path / "ws")
    run_local(run, samples)
    made = run.artifact("ucis", samples[0].image).arrays
    assert made["array"].dtype == bool and made["label_map"].shape == (96, 96)
    assert not made["array"][made["label_map"] == 0].any()
    instances = run.artifact("instances", samples[0].image).arrays["array"]
    assert (instances == made["label_map"]).all()
    other = config.model_copy(
        update={"ucis": config.ucis.model_copy(update={"detector": Detector(votes=41.0)})}
    )
    again = open_local(other, 0, [s.image for s in samples], tmp_path / "ws")
    assert again.key("ucis", samples[0].image) != run.key("ucis", samples[0].image)


def test_the_network_s_maps_have_half_the_resolution() -> None:
    network = VotingNetwork(dim=16, depth=2, heads=2)
    assert network(torch.rand(2, 3, WINDOW, WINDOW)).shape == (2, 4, 128, 128)
