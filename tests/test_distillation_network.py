"""Shapes and sizes of the students, official encoder files, prediction, instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coin_ray.distillation.inference import instances_from_probability, predict_probability
from coin_ray.distillation.network import build_student
from coin_ray.distillation.settings import Infer, Student
from coin_ray.errors import UserError
from coin_ray.imaging.settings import Instances
from coin_ray.weights.modules import normalise


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ONCE = Infer(scales=(1.0,), hflip=False)


def unet(width: int = 4, edge: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_student(Student(arch="unet", width=width, edge=edge)).eval()


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_unet_size_and_shapes_for_odd_inputs() -> None:
    parameters = sum(p.numel() for p in unet(32).parameters())
    assert 0.88e6 < parameters < 0.95e6
    model = unet()
    with torch.inference_mode():
        for shape in [(1, 3, 1, 1), (2, 3, 37, 53), (1, 3, 64, 80)]:
            segmentation, edge = model(torch.zeros(shape))
            assert segmentation.shape == edge.shape == (shape[0], 2, *shape[2:])
        assert unet(edge=False)(torch.zeros(1, 3, 16, 16))[1] is None


def test_deeplab_shapes_strides_and_dilations() -> None:
    model = build_student(Student(encoder="resnet50", encoder_weights="none")).eval()
    encoder: Any = model.encoder
    assert encoder.feature_info.reduction() == [4, 8]
    assert [encoder.layer4[i].conv2.dilation[0] for i in range(3)] == [1, 4, 4]
    assert [encoder.layer3[i].conv2.dilation[0] for i in range(3)] == [1, 2, 2]
    assert encoder.layer3[0].conv2.stride == (1, 1)
    with torch.inference_mode():
        segmentation, edge = model(torch.zeros(1, 3, 65, 49))
    assert segmentation.shape == edge.shape == (1, 2, 65, 49)


def deeplab(**student: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chosen = Student(encoder="resnet50", encoder_weights="none", **student)
        return build_student(chosen).eval()


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_output_stride_16_is_half_as_fine_with_half_the_rates() -> None:
    model, fine = deeplab(output_stride=16), deeplab()
    assert model.encoder.feature_info.reduction() == [4, 16]
    assert [model.encoder.layer4[i].conv2.dilation[0] for i in range(3)] == [1, 2, 2]
    assert [model.encoder.layer3[i].conv2.dilation[0] for i in range(3)] == [1, 1, 1]
    for network, rates in ((fine, [1, 12, 24, 36]), (model, [1, 6, 12, 18])):
        for head in (network.segmentation, network.edge):
            assert [branch[0].dilation[0] for branch in head.aspp.branches] == rates
    with torch.inference_mode():
        low, high = model.encoder(torch.zeros(1, 3, 64, 96))
        assert (low.shape[2:], high.shape[2:]) == ((16, 24), (4, 6))
        segmentation, edge = model(torch.zeros(1, 3, 65, 49))
    assert segmentation.shape == edge.shape == (1, 2, 65, 49)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in fine.state_dict().items()
    }


def test_a_shared_pyramid_is_there_once_and_serves_both_heads() -> None:
    own, shared = deeplab(), deeplab(shared_aspp=True)
    assert size(own) - size(shared) == size(own.edge.aspp) > 10_000_000
    assert not any(name.startswith("edge.aspp") for name in shared.state_dict())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for before, after in zip(shared(x), moved(shared, x), strict=True):
            assert not torch.equal(before, after)
        before, after = own(x), moved(own, x)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    alone = deeplab(shared_aspp=True, edge=False)
    assert size(alone) == size(deeplab(edge=False)) and alone(x)[1] is None


def moved(model: Any, x: torch.Tensor) -> Any:
    """The outputs after the pyramid of the segmentation head has changed."""
    model.segmentation.aspp.fuse[0][0].weight.mul_(-1)
    return model(x)


def test_official_encoder_file_loads_through_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coin_ray.compat import ensure_torchvision

    ensure_torchvision()
    import timm
    from safetensors.torch import save_file

    (tmp_path / "weights").mkdir()
    official = timm.create_model("resnet50", pretrained=False)
    state = official.state_dict()
    assert "fc.weight" in state
    save_file(state, tmp_path / "weights" / "made_here.safetensors")
    (tmp_path / "registry.yaml").write_text(
        "resnet50_imagenet: {file: made_here.safetensors, licence: none, size_mb: 100}\n"
    )
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    student = Student(encoder="resnet50", edge=False)
    model: Any = build_student(student)
    loaded = model.encoder.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items() if not k.startswith("fc."))

    save_file(
        {"conv1.weight": state["conv1.weight"]}, tmp_path / "weights" / "made_here.safetensors"
    )
    with pytest.raises(UserError, match="not hold the weights of resnet50_imagenet"):
        build_student(student)
    (tmp_path / "weights" / "made_here.safetensors").unlink()
    with pytest.raises(UserError, match="resnet50_imagenet"):
        build_student(student)


def test_normalise_is_imagenet() -> None:
    one = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(one).abs().max() < 0.01
    assert normalise(one * 0)[0, 0, 0, 0] == pytest.approx(-0.485 / 0.229)


@pytest.mark.parametrize("shape", [(33, 47), (64, 50)])
def test_scales_and_flips_keep_the_size(shape: tuple[int, int]) -> None:
    seg, edge = predict_probability(unet(), picture(*shape), Infer())
    assert edge is not None
    for p in (seg, edge):
        assert p.shape == shape and p.dtype == np.float32
        assert (p >= 0).all() and (p <= 1).all() and p.std() > 0
    assert predict_probability(unet(edge=False), picture(*shape), ONCE)[1] is None


def test_average_over_scales_and_flips_by_hand() -> None:
    class Red(nn.Module):
        """Foreground logit = the normalised red channel: the resizing itself is visible."""

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0]], dim=1), None

    image = picture(12, 16)
    p, _ = predict_probability(Red(), image, Infer(scales=(1.0,)))
    red = (image[..., 0] / 255 - 0.485) / 0.229
    assert np.allclose(p, 1 / (1 + np.exp(-red)), atol=1e-6)  # a flip undone is no change
    flat = np.full((12, 16, 3), 200, dtype=np.uint8)
    p, _ = predict_probability(Red(), flat, Infer(scales=(0.5, 1.0, 2.0)))
    expected = 1 / (1 + np.exp(-(200 / 255 - 0.485) / 0.229))
    assert np.allclose(p, expected, atol=1e-5)


def test_a_flip_is_undone() -> None:
    class LeftHalf(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            ramp = torch.linspace(4, -4, x.shape[-1]).expand(1, *x.shape[-2:])
            return torch.stack([-ramp, ramp], dim=1), None

    p, _ = predict_probability(LeftHalf(), picture(4, 9), Infer(scales=(1.0,)))
    assert np.allclose(p, 0.5)  # a model that only knows left averages out
    p, _ = predict_probability(LeftHalf(), picture(4, 9), ONCE)
    assert (np.diff(p[0]) < 0).all()


def test_tiles_agree_with_the_whole_image() -> None:
    model, image = unet(), picture(330, 301)
    whole = predict_probability(model, image, ONCE)
    tiled = predict_probability(model, image, ONCE.model_copy(update={"tile": 64}))
    for a, b in zip(whole, tiled, strict=True):
        assert a is not None and b is not None
        assert np.abs(a - b).max() < 1e-4


def discs(*centres: tuple[int, int], radius: int = 10, side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.any([(y - a) ** 2 + (x - b) ** 2 < radius**2 for a, b in centres], axis=0)


def probability(mask: np.ndarray, inside: float = 0.9, outside: float = 0.1) -> np.ndarray:
    return np.where(mask, inside, outside).astype(np.float32)


def split(
    seg: np.ndarray,
    edge: np.ndarray | None = None,
    instances: dict[str, Any] | None = None,
    evidence: np.ndarray | None = None,
    **infer: Any,
) -> np.ndarray:
    """Instances by settings, the map taken as it is."""
    how = Infer(**{"minmax": False} | infer)
    return instances_from_probability(
        seg, edge, how, Instances(**(instances or {})), evidence=evidence
    )


def test_instances_are_the_split_foreground() -> None:
    mask = discs((20, 16), (20, 33), (50, 50))
    mask[20, 16] = False  # a hole
    got = split(probability(mask), instances={"footprint": 6})
    assert got.max() == 3 and got.dtype == np.int32
    assert got[20, 16] > 0 and got[20, 16] != got[20, 33]
    holed = split(probability(mask), instances={"footprint": 6}, fill_holes=False)
    assert holed[20, 16] == 0


def test_evidence_and_student_share_the_decision() -> None:
    seg = np.full((8, 8), 0.5, dtype=np.float32)
    seg[:4] = 1 / (1 + np.exp(-2.0))  # logit 2
    evidence = np.full((8, 8), -0.6, dtype=np.float32)
    evidence[:, :4] = 0.1
    got = split(seg, evidence=evidence, stain_weight=4.0, fill_holes=False)
    expected = np.where(seg > 0.6, 2.0, 0.0) + 4 * evidence > 0
    assert (
        np.array_equal(got > 0, expected) and expected[:4, :4].all() and not expected[4:, 4:].any()
    )
    alone = split(seg, evidence=evidence, fill_holes=False)
    assert np.array_equal(alone > 0, seg > 0.5)
    with pytest.raises(ValueError, match="evidence"):
        split(seg, stain_weight=1.0)


def test_opening_removes_specks_and_min_area_small_instances() -> None:
    mask = discs((20, 20)) | discs((50, 50), radius=3)
    mask[5, 40:60] = True
    assert split(probability(mask), instances={"opening": 2}, fill_holes=False)[5].any()  # infer's
    kwargs: dict[str, Any] = {"fill_holes": False}
    assert split(probability(mask), **kwargs)[5].any()
    opened = split(probability(mask), opening=2, **kwargs)
    assert not opened[5].any() and opened.max() == 2
    large = split(probability(mask), opening=2, instances={"min_area": 100}, **kwargs)
    assert large.max() == 1


def test_edge_markers_split_what_the_shape_does_not() -> None:
    bar = np.zeros((40, 64), dtype=bool)
    bar[14:26, 6:58] = True
    edge = np.zeros((40, 64), dtype=np.float32)
    edge[:, 31:33] = 0.95
    wide: dict[str, Any] = {"instances": {"footprint": 40}}
    joined = split(probability(bar), edge, **wide)
    apart = split(probability(bar), edge, edge_markers=True, **wide)
    assert apart[20, 10] != apart[20, 50]
    assert np.array_equal(apart > 0, bar) and joined.max() < apart.max()
    # A student without an edge head needs no other settings.
    assert np.array_equal(split(probability(bar), edge_markers=True, **wide), joined)


def test_minmax_stretches_and_survives_a_flat_map() -> None:
    faint = probability(discs((30, 30)), inside=0.3, outside=0.1)
    assert split(faint).max() == 0
    assert split(faint, minmax=True).max() == 1
    flat = np.full((16, 16), 0.2, dtype=np.float32)
    assert split(flat, minmax=True).max() == 0
