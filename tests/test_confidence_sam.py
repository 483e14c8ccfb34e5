"""The segment-anything wrapper against segment_anything's own predictor, on a tiny random model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.compat import ensure_torchvision
from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.sam import SamSegmenter, load_sam
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.errors import UserError
from coin_ray.labels import InstanceMasks


def tiny_sam(seed: int = 0, side: int = 128) -> Any:
    """Sam at a thousandth of its size, weights random but loud enough that masks have shapes."""
    ensure_torchvision()
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    torch.manual_seed(seed)
    dim, grid = 32, side // 16
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=2, embed_dim=dim, img_size=side, num_heads=2, out_chans=dim, patch_size=16,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True,
            global_attn_indexes=(1,), window_size=4,
        ),
        prompt_encoder=PromptEncoder(dim, (grid, grid), (side, side), mask_in_chans=8),
        mask_decoder=MaskDecoder(
            transformer_dim=dim,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=2, mlp_dim=64),
            iou_head_hidden_dim=32,
        ),
    )  # fmt: skip
    with torch.no_grad():
        for layer in sam.mask_decoder.output_upscaling:
            if isinstance(layer, torch.nn.ConvTranspose2d):
                layer.weight *= 4
    return sam.eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(120, 255, (height, width, 3))
    yy, xx = np.mgrid[:height, :width]
    for _ in range(12):
        y, x = rng.integers(0, height), rng.integers(0, width)
        image[(yy - y) ** 2 + (xx - x) ** 2 < 60] = rng.integers(0, 160, 3)
    return image.astype(np.uint8)


def full(masks: InstanceMasks, i: int, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, dtype=bool)
    y0, x0, y1, x1 = masks.boxes[i]
    out[y0:y1, x0:x1] = masks.crops[i]
    return out


@pytest.mark.parametrize("shape", [(100, 100), (90, 150), (200, 70), (128, 128)])
def test_encoding_and_decoding_equal_the_predictor(shape: tuple[int, int]) -> None:
    sam = tiny_sam()
    from segment_anything import SamPredictor

    image = picture(*shape)
    points = np.random.default_rng(1).integers(0, shape, (9, 2)).astype(np.float64)
    segmenter = SamSegmenter(sam, batch=4)
    segmenter.batch = 4  # as on a GPU
    embedding = segmenter.encode(image)
    assert embedding["embedding"].dtype == np.float16

    predictor = SamPredictor(sam)
    predictor.set_image(image)
    features = predictor.get_image_embedding()[0].detach().numpy()
    np.testing.assert_allclose(embedding["embedding"], features, rtol=2e-3, atol=2e-3)

    # From here on from the same rounded embedding, so that only the decoding is compared.
    predictor.features = torch.from_numpy(embedding["embedding"].astype(np.float32))[None]
    masks = segmenter.decode(embedding, Prompts(points), shape)
    assert len(masks) == len(points)
    shares = []
    for i, (y, x) in enumerate(points):
        found, iou, _ = predictor.predict(np.array([[x, y]]), np.array([1]), multimask_output=True)
        best = int(iou.argmax())
        mask = full(masks, i, shape)
        assert (mask != found[best]).mean() < 1e-3, "equal up to rounding at the zero line"
        assert masks.predicted_iou[i] == pytest.approx(np.clip(iou[best], 0, 1), abs=1e-5)
        shares.append(mask.mean())
    assert 0.005 < np.median(shares) < 0.98, "the comparison must have outlines to compare"


def test_the_result_does_not_depend_on_the_batch() -> None:
    sam, image = tiny_sam(1), picture(96, 120)
    points = np.random.default_rng(2).integers(0, 96, (7, 2)).astype(np.float64)
    one = SamSegmenter(sam, batch=1)
    embedding = one.encode(image)
    several = SamSegmenter(sam, batch=64)
    several.batch = 64  # as on a GPU
    many = several.decode(embedding, Prompts(points), (96, 120))
    for i, crop in enumerate(one.decode(embedding, Prompts(points), (96, 120)).crops):
        assert crop.shape == many.crops[i].shape
        assert (crop != many.crops[i]).mean() < 1e-3


def test_boxes_fit_tightly_and_empty_masks_are_empty() -> None:
    sam = tiny_sam(2)
    segmenter = SamSegmenter(sam, batch=64)
    embedding = segmenter.encode(picture(80, 80))
    points = np.array([[40.0, 40.0], [10.0, 70.0]])
    masks = segmenter.decode(embedding, Prompts(points), (80, 80))
    for crop in masks.crops:
        assert crop.any()
        for edge in (crop[0], crop[-1], crop[:, 0], crop[:, -1]):
            assert edge.any()
    sam.mask_threshold = 1e9
    nothing = segmenter.decode(embedding, Prompts(points), (80, 80))
    assert nothing.boxes.tolist() == [[0, 0, 0, 0]] * 2
    assert nothing.areas().tolist() == [0, 0]
    back = InstanceMasks.from_arrays(nothing.to_arrays())
    assert len(back) == 2


def test_no_points_give_no_masks() -> None:
    segmenter = SamSegmenter(tiny_sam(), batch=64)
    masks = segmenter.decode(segmenter.encode(picture(30, 30)), Prompts(np.zeros((0, 2))), (30, 30))
    assert len(masks) == 0
    assert masks.boxes.shape == (0, 4)
    assert masks.predicted_iou.shape == (0,)


def test_unknown_models_and_missing_gpus_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"vit_x[\s\S]*sam_vit_b"):
        load_segmenter("vit_x", batch=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="GPU"):
        load_segmenter("vit_b", batch=1, device="cuda")


def home_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]) -> None:
    """A weights folder whose sam_vit_b is this state dict, in the official file format."""
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    torch.save(state, tmp_path / "weights" / "sam_b.pth")
    (tmp_path / "registry.yaml").write_text(
        "sam_vit_b: {file: sam_b.pth, licence: none, size_mb: 1, build: {model: vit_b}}\n"
    )


def test_missing_and_foreign_weights_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_with(tmp_path, monkeypatch, {"image_encoder.pos_embed": torch.zeros(1, 8, 8, 4)})
    with pytest.raises(UserError, match=r"sam_b\.pth: the file does not hold"):
        load_sam("sam_vit_b")
    (tmp_path / "weights" / "sam_b.pth").unlink()
    with pytest.raises(UserError, match="missing"):
        load_segmenter("vit_b", batch=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vit_b_in_the_official_format_loads_through_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_torchvision()
    from segment_anything import SamPredictor, sam_model_registry

    torch.manual_seed(0)
    official = sam_model_registry["vit_b"]()
    home_with(tmp_path, monkeypatch, official.state_dict())
    load_segmenter.cache_clear()
    segmenter = load_segmenter("vit_b", batch=2)
    assert load_segmenter("vit_b", batch=2) is segmenter
    image = picture(64, 48)
    embedding = segmenter.encode(image)
    assert embedding["embedding"].shape == (256, 64, 64)
    # The predictor is handed the embedding, so that the large encoder runs once here; the tiny
    # model above compares the encoding.
    predictor = SamPredictor(official)
    predictor.original_size, predictor.input_size = (64, 48), (1024, 768)
    predictor.is_image_set = True
    predictor.features = torch.from_numpy(embedding["embedding"].astype(np.float32))[None]
    points = np.array([[10.0, 12.0], [50.0, 30.0], [33.0, 5.0]])
    masks = segmenter.decode(embedding, Prompts(points), (64, 48))
    for i, (y, x) in enumerate(points):
        found, iou, _ = predictor.predict(np.array([[x, y]]), np.array([1]))
        assert (full(masks, i, (64, 48)) != found[iou.argmax()]).mean() < 2e-3
    load_segmenter.cache_clear()
