"""The steps of PSM by hand: losses, activation map, clusters, points, Voronoi labels."""

from __future__ import annotations

from math import e, exp, log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coin_ray.ucis import psm
from coin_ray.ucis.psm_activation import rotation_loss, self_activation_map
from coin_ray.ucis.psm_clusters import cluster_mask, jet, k_means
from coin_ray.ucis.psm_network import ResUNet, bounded_loss
from coin_ray.ucis.psm_points import nuclear_points, voronoi_label
from coin_ray.ucis.settings import Psm
from tests.test_imaging_stain import field


def test_rotation_loss_by_hand() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x[:, :1, 0, 0] + x[:, 1:2, 0, 1]

    images = torch.zeros(2, 3, 3, 4)
    images[0, 0, 0, 0], images[0, 0, 2, 3] = 5.0, 1.0  # 2 * 5 against 2 * 1
    images[1, 1, 0, 1], images[1, 1, 2, 2] = 3.0, 10.0  # 3 against 10
    assert rotation_loss(Corner(), images).item() == pytest.approx((8 + 7) / 2)


def twice(z: tuple[float, float], target: int) -> float:
    p = exp(z[1]) / (exp(z[0]) + exp(z[1]))
    q = (1 - p, p)
    return log(exp(q[0]) + exp(q[1])) - q[target]


def test_bounded_loss_by_hand() -> None:
    z = [(0.0, 2.0), (1.0, -1.0), (0.5, 0.5)]
    logits = torch.tensor(z).T.reshape(1, 2, 1, 3).contiguous().requires_grad_()
    foreground = torch.tensor([[[True, True, False]]])
    ignore = torch.tensor([[[False, False, True]]])
    expected = (twice(z[0], 1) + twice(z[1], 1)) / 2
    loss = bounded_loss(logits, foreground, ignore)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 2] == 0).all() and (logits.grad[..., :2] != 0).all()


def test_bounded_loss_has_bounds_and_takes_a_batch_without_targets() -> None:
    sure = torch.tensor([[[[-50.0]], [[50.0]]]])
    none = torch.zeros(1, 1, 1, dtype=torch.bool)
    assert bounded_loss(sure, ~none, none).item() == pytest.approx(log(1 + 1 / e), abs=1e-6)
    assert bounded_loss(sure, none, none).item() == pytest.approx(log(1 + e), abs=1e-6)
    assert bounded_loss(sure, none, ~none).item() == 0


def test_final_terms_by_hand() -> None:
    """Masked pixels give no background; the Voronoi label alone says what is foreground."""
    z = [(1.0, 0.0), (0.0, 3.0), (0.2, 0.1), (2.0, 1.0)]
    logits = torch.tensor(z).T.reshape(1, 2, 1, 4)
    image = torch.zeros(1, 1, 4, 3, dtype=torch.uint8)
    mask = torch.tensor([[[False, True, True, False]]])
    foreground = torch.tensor([[[False, True, False, False]]])
    ignore = torch.tensor([[[True, False, False, True]]])
    terms = psm._final_terms(1.5, lambda x: logits, [image, mask, foreground, ignore])  # type: ignore[arg-type]
    assert terms["background"].item() == pytest.approx((twice(z[0], 0) + twice(z[3], 0)) / 2)
    expected = 1.5 * (twice(z[1], 1) + twice(z[2], 0)) / 2
    assert terms["voronoi"].item() == pytest.approx(expected)


def test_mask_terms_by_hand() -> None:
    z = [(1.0, 0.0), (0.0, 3.0)]
    logits = torch.tensor(z).T.reshape(1, 2, 1, 2)
    image = torch.zeros(1, 1, 2, 3, dtype=torch.uint8)
    mask = torch.tensor([[[True, False]]])
    terms = psm._mask_terms(lambda x: logits, [image, mask])  # type: ignore[arg-type]
    assert terms["mask"].item() == pytest.approx((twice(z[0], 1) + twice(z[1], 0)) / 2)


class Toy(nn.Module):
    """Three blocks x, 2x, x after an identity stem; output 3 mean(red) - mean(green)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.ParameterList([nn.Parameter(torch.tensor(g)) for g in (1.0, 2.0, 1.0)])
        for name in ("conv1", "bn1", "act1", "maxpool", "layer2", "layer3", "layer4"):
            setattr(self, name, nn.Identity())
        self.layer1 = [lambda x, g=g: x * g for g in self.gain]

    def forward_head(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3))
        return 3 * means[:, 0] - means[:, 1]


def test_self_activation_map_by_hand() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    # The gradient of the output is (3, -1, 0) / n, twice that before the second block.
    cam = 3.0 * image[..., 0] - image[..., 1]
    expected = (cam - cam.min()) / (cam.max() - cam.min())
    found = self_activation_map(Toy(), image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_self_activation_map_of_a_flat_image_is_zero() -> None:
    assert (self_activation_map(Toy(), np.full((6, 6, 3), 9, np.uint8)) == 0).all()


def test_jet_runs_from_dark_blue_over_green_to_dark_red() -> None:
    values = np.array([[0, 0.25, 0.5, 0.75, 1]], dtype=np.float32)
    expected = [[0.5, 0, 0], [1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1], [0, 0, 0.5]]
    np.testing.assert_allclose(jet(values)[0], expected, atol=1e-6)


def test_k_means_separates_blobs_and_repeats() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600)
    centres = np.array([[0, 0, 0], [90, 0, 10], [0, 80, 80]])
    points = (centres[truth] + rng.normal(0, 4, (600, 3))).astype(np.float32)
    found = k_means(points, 3, np.random.default_rng(1), 10)
    pairs = {(int(a), int(b)) for a, b in zip(truth, found, strict=True)}
    assert len(pairs) == 3 and {b for _, b in pairs} == {0, 1, 2}
    np.testing.assert_array_equal(found, k_means(points, 3, np.random.default_rng(1), 10))


def test_k_means_keeps_the_most_compact_attempt() -> None:
    """Four corners of a long rectangle in two: a bad start pairs along the long side."""
    points = np.array([[0, 0], [0, 10], [40, 0], [40, 10]], dtype=np.float32)
    found = [tuple(k_means(points, 2, np.random.default_rng(s), attempts=1)) for s in range(20)]
    assert any(f[0] != f[1] for f in found)
    for s in range(20):
        best = k_means(points, 2, np.random.default_rng(s), attempts=20)
        assert best[0] == best[1] != best[2] == best[3]


def test_k_means_of_equal_points_is_one_cluster() -> None:
    found = k_means(np.ones((50, 3), dtype=np.float32), 3, np.random.default_rng(0), 10)
    assert len(np.unique(found)) == 1


@pytest.mark.parametrize("polarity", [1, -1])
def test_cluster_mask_is_the_nuclei_whatever_the_sign_of_the_activation(polarity: int) -> None:
    image, truth = field()
    noise = np.random.default_rng(0).normal(0, 0.05, truth.shape)
    activation = np.clip(0.5 + polarity * (0.35 * truth - 0.2) + noise, 0, 1).astype(np.float32)
    mask = cluster_mask(image, activation, np.random.default_rng(0), Psm())
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_cluster_mask_fills_holes_and_drops_specks() -> None:
    image, truth = field()
    activation = truth.astype(np.float32)
    light = image[0, 0]
    image[15, 15] = light  # in the middle of the first nucleus
    activation[15, 15] = 0
    mask = cluster_mask(image, activation, np.random.default_rng(0), Psm(max_hole=64))
    assert truth[15, 15] and mask[15, 15]
    for other in (Psm(max_hole=0), Psm(min_area=400)):
        assert not cluster_mask(image, activation, np.random.default_rng(0), other)[15, 15]


@pytest.mark.parametrize("spread", [0, 3])
def test_cluster_mask_without_tissue_is_empty(spread: int) -> None:
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(238, spread, (60, 60, 3)), 0, 255).astype(np.uint8)
    activation = rng.random((60, 60)).astype(np.float32)
    assert not cluster_mask(image, activation, rng, Psm()).any()


def blobs(*centres: tuple[int, int], size: int = 80, radius: float = 5) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    distance = [np.hypot(y - cy, x - cx) for cy, cx in centres]
    return np.clip(1.5 - np.min(distance, axis=0) / (2 * radius), 0, 1).astype(np.float32)


def test_points_are_the_peaks_border_ones_too() -> None:
    centres = [(15, 15), (15, 50), (60, 30), (79, 70)]
    points = nuclear_points(blobs(*centres), 6, 20)
    assert len(points) == 4
    found = points[np.lexsort(points.T[::-1])]
    np.testing.assert_allclose(found, centres, atol=1.5)


def test_close_peaks_become_their_mean_and_chains_do_not() -> None:
    image = blobs((40, 20), (40, 34), radius=3)
    assert len(nuclear_points(image, 6, 10)) == len(nuclear_points(image, 6, 0)) == 2
    np.testing.assert_allclose(nuclear_points(image, 6, 20), [[40, 27]], atol=1)
    chain = blobs((40, 10), (40, 24), (40, 38), (40, 52), (40, 66), radius=3)
    assert len(nuclear_points(chain, 6, 20)) >= 2


def test_no_point_where_the_probability_stays_low() -> None:
    assert nuclear_points(0.45 * blobs((40, 40)), 6, 20).shape == (0, 2)


def test_voronoi_label_of_two_points() -> None:
    foreground, ignore = voronoi_label(np.array([[5.0, 4.0], [5.0, 15.0]]), (11, 20), radius=2)
    y, x = np.mgrid[:11, :20]
    disks = ((y - 5) ** 2 + (x - 4) ** 2 <= 4) | ((y - 5) ** 2 + (x - 15) ** 2 <= 4)
    np.testing.assert_array_equal(foreground, disks)
    background = ~foreground & ~ignore
    np.testing.assert_array_equal(background, x == 9)  # 4 + 15 halved, one pixel wide


def test_voronoi_borders_lie_between_the_nearest_points() -> None:
    points = np.random.default_rng(0).uniform(0, 60, (12, 2))
    foreground, ignore = voronoi_label(points, (60, 60), radius=1)
    grid = np.stack(np.mgrid[:60, :60], axis=-1)[..., None, :]
    distance = np.sort(np.linalg.norm(grid - np.rint(points), axis=-1), axis=-1)
    gap = distance[..., 1] - distance[..., 0]  # 0 halfway between the two nearest points
    border = ~foreground & ~ignore
    assert (gap[border] <= 2).all() and border.sum() > 60  # a step changes the gap by 2 at most


def test_voronoi_label_of_no_point_and_of_one() -> None:
    foreground, ignore = voronoi_label(np.zeros((0, 2)), (6, 7), 2)
    assert not foreground.any() and ignore.all()
    foreground, ignore = voronoi_label(np.array([[3.0, 3.0]]), (6, 7), 2)
    assert foreground[3, 3] and (foreground ^ ignore).all()


@pytest.mark.parametrize("shape", [(64, 64), (33, 50), (1, 7)])
def test_network_takes_any_size(shape: tuple[int, int]) -> None:
    model: Any = ResUNet("resnet18", 4, "none").eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, *shape)).shape == (1, 2, *shape)
