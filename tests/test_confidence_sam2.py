"""SAM 2.1 against the package's own predictor, on a small random model of its own making."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.compat import ensure_torchvision
from coin_ray.confidence.frame import Frame
from coin_ray.confidence.prompts import Prompts, make_prompts, with_negatives
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.confidence.settings import segmenter_name
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap
from coin_ray.weights.registry import entry
from tests.test_confidence_sam import full, picture

ensure_torchvision()
SIZES = {"sam2_hiera_t": "tiny", "sam2_hiera_s": "small", "sam2_hiera_b": "base_plus",
         "sam2_hiera_l": "large"}  # fmt: skip
SMALL = [
    "model.image_size=256",
    "model.image_encoder.trunk.embed_dim=16",
    "model.image_encoder.trunk.stages=[1,1,2,1]",
    "model.image_encoder.trunk.global_att_blocks=[3]",
    "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
]


def small_sam2(seed: int = 0) -> Any:
    """SAM 2.1 at a quarter of its size, weights random but loud enough that masks have shapes."""
    build = pytest.importorskip("sam2.build_sam", reason="the extra sam2 is not installed")
    torch.manual_seed(seed)
    sam = build.build_sam2(
        "configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu", hydra_overrides_extra=SMALL
    )
    with torch.no_grad():
        for layer in sam.sam_mask_decoder.output_upscaling:
            if isinstance(layer, torch.nn.ConvTranspose2d):
                layer.weight *= 4
    return sam.eval()


def disks(shape: tuple[int, int]) -> LabelMap:
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    out = np.zeros(shape, dtype=np.int32)
    for i, (y, x, r) in enumerate([(20, 22, 9), (50, 40, 14), (33, 60, 7)], start=1):
        out[(yy - y) ** 2 + (xx - x) ** 2 < r * r] = i
    return out


def predictor_of(sam: Any) -> Any:
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(sam)
    # The package writes the sizes of its own 1024-px models down.
    predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]
    return predictor


@pytest.mark.parametrize("kind", ["centroid", "innermost", "box", "mask"])
@pytest.mark.parametrize("shape", [(80, 80), (70, 110)])
def test_encoding_and_decoding_equal_the_predictor(kind: str, shape: tuple[int, int]) -> None:
    sam = small_sam2()
    from coin_ray.confidence.sam2 import LEVELS, Sam2Segmenter

    image, prompts = picture(*shape), make_prompts(disks(shape), kind)
    segmenter, predictor = Sam2Segmenter(sam, batch=2), predictor_of(sam)
    segmenter.batch = 2  # as on a GPU
    embedding = segmenter.encode(image)
    predictor.set_image(image)
    theirs = [*predictor._features["high_res_feats"], predictor._features["image_embed"]]
    for name, level in zip(LEVELS, theirs, strict=True):
        assert embedding[name].dtype == np.float16
        np.testing.assert_allclose(embedding[name], level[0].numpy(), rtol=5e-3, atol=5e-3)

    # From here on from the same rounded embedding, so that only the decoding is compared.
    again = [torch.from_numpy(embedding[name].astype(np.float32))[None] for name in LEVELS]
    predictor._features = {"image_embed": again[2], "high_res_feats": again[:2]}
    masks = segmenter.decode(embedding, prompts, shape)
    shares = []
    for i, (y, x) in enumerate(prompts.points_yx):
        asked: dict[str, Any] = {"multimask_output": prompts.ambiguous}
        if kind == "box":
            y0, x0, y1, x1 = prompts.boxes_yxyx[i]
            asked["box"] = np.array([x0, y0, x1 - 1, y1 - 1])
        else:
            asked |= {"point_coords": np.array([[x, y]]), "point_labels": np.array([1])}
        if kind == "mask":
            frame = Frame(shape, (256, 256), 256, 64, direct=True)
            asked["mask_input"] = frame.logits(prompts.masks.take(np.array([i])))[0].numpy()
        found, iou, _ = predictor.predict(**asked)
        best, mask = int(iou.argmax()), full(masks, i, shape)
        assert (mask != found[best].astype(bool)).mean() < 2e-3
        assert masks.predicted_iou[i] == pytest.approx(np.clip(iou[best], 0, 1), abs=1e-5)
        shares.append(mask.mean())
    assert any(0.005 < s < 0.98 for s in shares), "the comparison must have outlines to compare"


@pytest.mark.parametrize("kind", ["innermost", "box", "mask"])
def test_points_outside_are_decoded_as_the_predictor_decodes_them(kind: str) -> None:
    """Label 0 in the package's own predictor, beside what else it is told."""
    sam, shape = small_sam2(), (70, 110)
    from coin_ray.confidence.sam2 import LEVELS, Sam2Segmenter

    label_map = disks(shape)
    plain = make_prompts(label_map, kind)
    prompts = with_negatives(plain, label_map, 2, 38.0)
    assert len(set(prompts.negatives().tolist())) > 1
    segmenter, predictor = Sam2Segmenter(sam, batch=2), predictor_of(sam)
    segmenter.batch = 2  # as on a GPU
    embedding = segmenter.encode(picture(*shape))
    predictor.set_image(picture(*shape))
    again = [torch.from_numpy(embedding[name].astype(np.float32))[None] for name in LEVELS]
    predictor._features = {"image_embed": again[2], "high_res_feats": again[:2]}
    masks, alone = (segmenter.decode(embedding, p, shape) for p in (prompts, plain))
    changed = 0
    for i, (y, x) in enumerate(prompts.points_yx):
        outside = prompts.negatives_yx[i, : prompts.negatives()[i]]
        said = [] if kind == "box" else [(y, x)]
        points, kinds = [*said, *outside], [1] * len(said) + [0] * len(outside)
        asked: dict[str, Any] = {"multimask_output": kind == "innermost" and not len(outside)}
        if points:
            asked |= {
                "point_coords": np.array(points)[:, ::-1].copy(),
                "point_labels": np.array(kinds),
            }
        if kind == "box":
            y0, x0, y1, x1 = prompts.boxes_yxyx[i]
            asked["box"] = np.array([x0, y0, x1 - 1, y1 - 1])
        if kind == "mask":
            frame = Frame(shape, (256, 256), 256, 64, direct=True)
            asked["mask_input"] = frame.logits(prompts.masks.take(np.array([i])))[0].numpy()
        found, iou, _ = predictor.predict(**asked)
        best = int(iou.argmax())
        assert (full(masks, i, shape) != found[best].astype(bool)).mean() < 2e-3
        assert masks.predicted_iou[i] == pytest.approx(np.clip(iou[best], 0, 1), abs=1e-5)
        changed += bool((full(masks, i, shape) != full(alone, i, shape)).any())
    assert changed


@pytest.mark.parametrize("model", SIZES)
def test_the_registry_has_the_official_files(model: str) -> None:
    found = entry(segmenter_name(model))
    assert found.file == f"sam2.1_hiera_{SIZES[model]}.pt" and found.url.endswith(found.file)
    assert found.sha256 is not None and found.licence == "Apache-2.0"


def test_a_file_in_the_official_format_loads_through_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dict with a state dict under ``model``; of the smallest size, whose encoder does not run
    here."""
    build = pytest.importorskip("sam2.build_sam", reason="the extra sam2 is not installed")
    torch.manual_seed(0)
    official = build.build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu")
    home_with(tmp_path, monkeypatch, {"model": official.state_dict()})
    segmenter: Any = load_segmenter("sam2_hiera_t", batch=1)
    for name, value in official.state_dict().items():
        assert torch.equal(segmenter.sam.state_dict()[name], value), name
    rng = np.random.default_rng(0)
    sizes = {"quarter": (32, 256, 256), "half": (64, 128, 128), "embedding": (256, 64, 64)}
    embedding = {k: rng.standard_normal(size).astype(np.float16) for k, size in sizes.items()}
    masks = segmenter.decode(embedding, Prompts(np.array([[10.0, 12.0], [50.0, 30.0]])), (64, 48))
    assert len(masks) == 2 and all(0 <= iou <= 1 for iou in masks.predicted_iou)
    load_segmenter.cache_clear()


def home_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: dict[str, Any]) -> None:
    load_segmenter.cache_clear()
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    torch.save(file, tmp_path / "weights" / "tiny.pt")
    (tmp_path / "registry.yaml").write_text(
        "sam2_hiera_t: {file: tiny.pt, licence: none, size_mb: 1, build: {model: sam2.1_hiera_t}}\n"
    )


def test_missing_and_foreign_weights_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sam2.build_sam", reason="the extra sam2 is not installed")
    home_with(tmp_path, monkeypatch, {"model": {"no_mem_embed": torch.zeros(1, 1, 8)}})
    with pytest.raises(UserError, match=r"tiny\.pt: the file does not hold"):
        load_segmenter("sam2_hiera_t", batch=1)
    (tmp_path / "weights" / "tiny.pt").unlink()
    with pytest.raises(UserError, match="missing"):
        load_segmenter("sam2_hiera_t", batch=1)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "sam2":
            raise ImportError("No module named 'sam2'")
        return plain(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    load_segmenter.cache_clear()
    with pytest.raises(UserError, match=r"SAM 2\.1 is not installed[\s\S]*coin-ray\[sam2\]"):
        load_segmenter("sam2_hiera_l", batch=1)
