"""SSA: its losses, threshold, crops, and a run that learns, repeats, resumes and refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coin_ray.errors import UserError
from coin_ray.training.checkpoint import Checkpoint
from coin_ray.training.world import World
from coin_ray.ucis import ssa, ssa_data, ssa_prediction
from coin_ray.ucis.settings import Ssa
from coin_ray.ucis.ssa_losses import (
    TRANSFORMS,
    equivariance,
    scale_equivariance,
    smoothness,
)
from coin_ray.ucis.ssa_network import (
    REACH,
    AttentionNetwork,
    SparseSigmoid,
    build_classifier,
    network_input,
)
from tests.conftest import SEED
from tests.test_imaging_stain import field

SMALL: dict[str, Any] = {
    "width": 4,
    "encoder": "resnet18",
    "encoder_width": 8,
    "start": "stain",
    "sparsity": 0.2,
    "batch": 6,
    "crop": 32,
    "lr": 1e-3,
    "ema": 0.9,
}


ARGUMENTS = {"weights", "scales", "seed", "world", "checkpoint", "progress"}


def train_ssa(images: Any, **options: Any) -> Any:
    """A training without ImageNet weights; ``options`` are settings and arguments."""
    how = {k: v for k, v in options.items() if k in ARGUMENTS}
    settings = {k: v for k, v in options.items() if k not in ARGUMENTS}
    return ssa.train_ssa(images, Ssa(**settings), **{"weights": "none"} | how)


def ssa_mask(weights: Any, image: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return ssa_prediction.ssa_mask(weights, image, Ssa(width=4), scale=scale)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def maps(*rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)[:, None]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_smoothness_by_hand() -> None:
    attention = maps([[0.0, 1.0, 1.0], [0.0, 0.0, 0.5]])
    # Across: 1, 0, 0, 0.5; down: 0, 1, 0.5.
    assert smoothness(attention).item() == pytest.approx(1.5 / 4 + 1.5 / 3)


def test_equivariance_by_hand() -> None:
    attention = maps([[0.0, 1.0], [0.5, 0.0]])
    transformed = maps([[1.0, 0.5], [0.0, 0.0]])  # mirrored and one value off by a half
    flip = TRANSFORMS[0][1]
    assert equivariance(attention, transformed, flip).item() == pytest.approx(
        (0.5**2 + 0 + 0.5**2 + 0) / 4
    )


def test_scale_equivariance_by_hand() -> None:
    ones, quarter = [[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]
    attention = maps(ones, quarter, quarter)
    halved = maps([[0.5]], [[0.25]], [[0.75]])
    loss = scale_equivariance(attention, halved, (torch.tensor([0]), torch.tensor([1, 2])))
    assert loss.item() == pytest.approx(0.5 * (0.5**2 + (0 + 0.5**2) / 2))


def test_classification_loss_is_the_cross_entropy_of_the_magnification() -> None:
    """With a classifier that says nothing the first step costs ln 3."""
    image, _ = field()

    class Mute(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            attention, logits = self.model(x)
            return attention, 0 * logits

    _, log = train_ssa([image], iterations=1, world=World(wrap=Mute), **SMALL)
    assert log["classification"][0] == pytest.approx(math.log(3), rel=1e-5)
    terms = ("classification", "smoothness", "equivariance", "scale_equivariance")
    assert log["loss"][0] == pytest.approx(sum(log[name][0] for name in terms), rel=1e-5)


def test_threshold_is_the_batch_mean_of_a_rank_and_runs_on() -> None:
    sparse = SparseSigmoid(sparsity=0.25)
    first = torch.arange(8.0).view(1, 1, 2, 4)  # descending rank 2 of 8 is 5
    both = torch.cat([first, first + 10])
    out = sparse(both)
    assert sparse.threshold.item() == 10  # mean of 5 and 15
    torch.testing.assert_close(out, torch.sigmoid(20 * (both - 10)))
    sparse(both, running=True)
    assert sparse.threshold.item() == 10
    torch.testing.assert_close(sparse(first), torch.sigmoid(20 * (first - 5)))
    assert sparse.threshold.item() == pytest.approx(0.9 * 10 + 0.1 * 5)
    torch.testing.assert_close(sparse(first, running=True), torch.sigmoid(20 * (first - 9.5)))
    torch.testing.assert_close(sparse.eval()(first), torch.sigmoid(20 * (first - 9.5)))
    assert sparse.threshold.item() == pytest.approx(9.5)


def test_about_the_sparse_share_is_attended_to() -> None:
    a = torch.randn(1, 1, 40, 50, generator=torch.Generator().manual_seed(0))
    assert (SparseSigmoid(0.07)(a) > 0.5).sum() == 140
    a.requires_grad_()
    SparseSigmoid(0.07)(a).sum().backward()
    assert a.grad is not None and (a.grad >= 0).all()  # the threshold takes no gradient back


def test_transforms_are_undone_by_their_inverses_and_differ() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    turned = [apply(x) for apply, _ in TRANSFORMS]
    for (_, inverse), y in zip(TRANSFORMS, turned, strict=True):
        assert torch.equal(inverse(y), x) and not torch.equal(y, x)
    assert len({(y.shape, tuple(y.flatten().tolist())) for y in turned}) == 6


def symmetric(kernel: torch.Tensor) -> torch.Tensor:
    """The mean over the eight turns and mirror images of a square kernel."""
    turned = torch.stack([torch.rot90(kernel, quarters, (-2, -1)) for quarters in range(4)])
    return ((turned + turned.transpose(-2, -1)) / 2).mean(dim=0)


@pytest.mark.parametrize("index", range(6))
def test_auxiliary_branch_is_equivariant_where_the_network_is(index: int) -> None:
    """Kernels that no transform changes give a loss of zero, others do not."""
    apply, inverse = TRANSFORMS[index]
    torch.manual_seed(0)
    network = AttentionNetwork(4, 0.07)
    x = torch.randn(2, 3, 24, 24)

    def loss() -> float:
        network.sparse.batches.zero_()  # the running threshold is that of the next batch
        attention = network(x)
        return equivariance(attention, network(apply(x), running=True), inverse).item()

    with torch.no_grad():
        assert loss() > 1e-3
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(symmetric(module.weight))
        assert loss() < 1e-8


def test_stain_start_attends_to_hematoxylin() -> None:
    image, truth = field()
    network = AttentionNetwork(4, sparsity=float(truth.mean()))
    network.start_from_stain()
    with torch.no_grad():
        attention = network(network_input(image[None], "cpu"))[0, 0].numpy()
    assert attention[truth].mean() > 0.8 > 0.1 > attention[~truth].mean()


def test_output_pixels_see_no_further_than_the_reach() -> None:
    """Without the ReLUs' zeros the gradient reaches exactly that far."""
    network = AttentionNetwork(2, 0.07).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().add_(1e-3)
    x = torch.ones(1, 3, 2 * REACH + 3, 1, dtype=torch.float64, requires_grad=True)
    features = network.blocks(torch.relu(network.stem(x)))
    features[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, :, 0].sum(dim=0).nonzero().max().item() == REACH


def test_imagenet_encoder_needs_its_file_and_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    with pytest.raises(UserError, match="models fetch resnet34_imagenet"):
        build_classifier(Ssa(), "imagenet")
    with pytest.raises(UserError, match="published width"):
        build_classifier(Ssa(encoder_width=16), "imagenet")


def test_imagenet_encoder_takes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    donor = build_classifier(Ssa(), "none")
    state = {k[2:]: v for k, v in donor.state_dict().items() if k.startswith("0.")}
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "resnet34-b627a593.pth"
    torch.save(state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, file)
    (tmp_path / "registry.yaml").write_text(
        f"resnet34_imagenet: {{file: {file.name}, licence: none, size_mb: 87}}\n"
    )
    taken = build_classifier(Ssa(), "imagenet").state_dict()
    assert all(torch.equal(taken[f"0.{k}"], v) for k, v in state.items())


def test_levels_are_area_means_and_crops_fit_whatever_the_image() -> None:
    image, _ = field()
    target = ssa_data.stain_statistics(image)
    levels = ssa_data.pyramid(image, target)
    assert [level.image.shape[0] for level in levels] == [160, 80, 40]
    blocks = levels[0].image.astype(float).reshape(40, 4, 40, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(levels[2].image, blocks, atol=0.51)
    for shape in ((160, 160), (50, 30), (1, 7)):
        small = ssa_data.pyramid(image[: shape[0], : shape[1]], target)
        for level in range(3):
            rng = np.random.default_rng(level)
            crop = ssa_data.draw_crop([small], rng, level=level, crop=64, jitter=0.03)
            assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8


def test_crops_are_drawn_where_tissue_is() -> None:
    image, _ = field()
    half_empty = np.concatenate([np.full_like(image, 245), image])
    levels = ssa_data.pyramid(half_empty, ssa_data.stain_statistics(half_empty))
    rng = np.random.default_rng(0)
    crops = [ssa_data.draw_crop([levels], rng, level=0, crop=40, jitter=0.0) for _ in range(20)]
    assert np.mean([ssa_data.tissue_of(crop).mean() for crop in crops]) > 0.9


def test_stain_normalisation_reaches_its_target() -> None:
    image, _ = field()
    other = np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8)
    target = ssa_data.stain_statistics(other)
    from skimage.color import rgb2lab

    tissue = ssa_data.tissue_of(image)
    found = rgb2lab(ssa_data.match_stain(image, target))[tissue]
    np.testing.assert_allclose(found.mean(axis=0), target[0], atol=1.5)
    np.testing.assert_allclose(found.std(axis=0), target[1], rtol=0.15)


IMAGES = [field(seed)[0] for seed in range(2)]


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    return train_ssa(IMAGES, iterations=100, seed=SEED, **SMALL | {"lr": 2e-3})


@pytest.mark.trained
def test_short_run_lowers_the_loss_and_keeps_the_nuclei(trained: Any) -> None:
    weights, log = trained
    # It falls to about a fifth of what it was; untrained it stays.
    assert np.mean(log["loss"][-8:]) < 0.6 * np.mean(log["loss"][:8])
    image, truth = field(7)
    mask = ssa_mask(weights, image)
    assert mask.dtype == bool and mask.shape == truth.shape
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "deep" / "ssa.ckpt", "a", every=0.0)

    def stop(step: int, total: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    options = {**SMALL, "iterations": 5, "lr_drops": [2, 4], "seed": 3}
    whole = train_ssa(IMAGES, **options)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train_ssa(IMAGES, checkpoint=kept, progress=stop, **options)
    seen: list[int] = []
    resumed = train_ssa(
        IMAGES, checkpoint=kept, progress=lambda step, total, loss: seen.append(step), **options
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [4, 5]
    assert same(whole[0], resumed[0]) and whole[1] == resumed[1]
    again = train_ssa(IMAGES, checkpoint=kept, **options)  # nothing is left to do
    assert same(whole[0], again[0])
    with pytest.raises(UserError, match="another run"):
        train_ssa(IMAGES, checkpoint=replace(kept, run="b"), **options)


def test_single_small_image_and_images_without_tissue_beside_it() -> None:
    blank = np.full((40, 40, 3), 245, dtype=np.uint8)
    one, _ = train_ssa([IMAGES[0][:20, :25]], iterations=1, **SMALL)
    assert all(np.isfinite(v).all() for v in one.values())
    with_blank, _ = train_ssa([blank, IMAGES[0][:20, :25]], iterations=1, **SMALL)
    assert same(one, with_blank)
    with pytest.raises(UserError, match="no tissue"):
        train_ssa([blank], iterations=1, **SMALL)


@pytest.mark.parametrize("shape", [(40, 40), (1, 1), (3, 50)])
def test_images_without_tissue_have_an_empty_mask(trained: Any, shape: tuple[int, int]) -> None:
    assert not ssa_mask(trained[0], np.full((*shape, 3), 245, np.uint8)).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 4)])
def test_tiny_images_have_a_mask_of_their_shape(trained: Any, shape: tuple[int, int]) -> None:
    mask = ssa_mask(trained[0], IMAGES[0][: shape[0], : shape[1]])
    assert mask.shape == shape


@pytest.mark.trained
def test_squares_of_a_large_image_are_those_of_the_whole(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    image = np.tile(IMAGES[0], (4, 1, 1))[:, :90] + rng.integers(0, 20, (640, 90, 3), np.uint8)
    whole = ssa_mask(trained[0], image)
    monkeypatch.setattr(ssa_prediction, "TILE", 250)
    assert (ssa_mask(trained[0], image) == whole).mean() > 0.9999


@pytest.mark.trained
def test_half_micron_images_take_the_scale(trained: Any) -> None:
    image, truth = field(9, radius=4)
    mask = ssa_mask(trained[0], image, scale=0.5)
    assert mask.shape == truth.shape
    assert (mask & truth).sum() / (mask | truth).sum() > 0.3
    weights, _ = train_ssa([image], scales=[0.5], iterations=1, **SMALL)
    assert np.isfinite(weights["target"]).all()


def test_workers_share_the_crops_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[float]] = []
    draw = ssa_data.draw_crop

    def record(images: Any, rng: np.random.Generator, **options: Any) -> np.ndarray:
        drawn[-1].append(rng.bit_generator.state["state"]["state"])
        return draw(images, rng, **options)

    monkeypatch.setattr(ssa_data, "draw_crop", record)
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        drawn.append([])
        train_ssa(IMAGES, iterations=1, world=World(rank, world), **SMALL)
    assert sorted(drawn[0]) == sorted(drawn[1] + drawn[2])
    with pytest.raises(UserError, match="too small for the number of workers"):
        train_ssa(IMAGES, iterations=1, world=World(0, 3), **SMALL)
