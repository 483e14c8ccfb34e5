"""The small promptable segmenter: the contract of ``PromptSegmenter`` and its windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coin_ray import labels
from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.confidence.small import SmallSegmenter, _place, window_corners
from coin_ray.confidence.small_model import PATCH, REACH, SIDE, SmallSam
from coin_ray.data.synthetic import generate_tile
from coin_ray.errors import UserError

TINY = {"dim": 16, "depth": 2, "heads": 2, "decoder_dim": 16}


@pytest.fixture(scope="module")
def tiny() -> SmallSegmenter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallSegmenter(SmallSam(**TINY), batch=4)


@pytest.fixture(scope="module")
def trained() -> SmallSegmenter:
    found = load_segmenter("mini", batch=64)
    assert isinstance(found, SmallSegmenter)
    return found


def test_every_prompt_has_a_window_that_holds_its_surroundings():
    corners = window_corners((1000, 700))
    assert corners.min() == 0
    assert (corners.max(axis=0) == (1000 - 256, 700 - 256)).all()
    y, x = np.mgrid[:1000:7, :700:7]
    points = np.stack([y.ravel(), x.ravel()], 1)
    offset = np.abs(points[:, None] - (corners[None] + 128)).max(axis=2).min(axis=1)
    interior = ((points > 128) & (points < (872, 572))).all(axis=1)
    assert offset[interior].max() <= 96


@pytest.mark.parametrize(
    ("shape", "windows"), [((256, 256), 1), ((100, 90), 1), ((300, 256), 2), ((448, 300), 4)]
)
def test_embedding_is_one_fp16_grid_a_window(tiny, shape, windows):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    embedding = tiny.encode(image)
    assert set(embedding) == {"embedding"}
    assert embedding["embedding"].dtype == np.float16
    assert embedding["embedding"].shape == (windows, 16, 32, 32)


def test_masks_are_crops_in_the_image(tiny):
    image, _ = generate_tile(0, 120)
    points = np.array([[0.0, 0.0], [119.0, 119.0], [60.2, 31.7]])
    masks = tiny.decode(tiny.encode(image), Prompts(points), (120, 120))
    assert len(masks) == 3
    assert masks.predicted_iou.dtype == np.float32
    assert ((masks.predicted_iou >= 0) & (masks.predicted_iou <= 1)).all()
    for box, crop in zip(masks.boxes, masks.crops, strict=True):
        assert crop.dtype == bool
        assert crop.shape == (box[2] - box[0], box[3] - box[1])
        assert (box >= 0).all() and (box <= 120).all()


def test_no_points_no_masks(tiny):
    image, _ = generate_tile(0, 64)
    assert len(tiny.decode(tiny.encode(image), Prompts(np.zeros((0, 2))), (64, 64))) == 0


def test_an_embedding_of_another_size_is_refused(tiny):
    image, _ = generate_tile(0, 64)
    with pytest.raises(ValueError, match="do not belong"):
        tiny.decode(tiny.encode(image), Prompts(np.zeros((1, 2))), (500, 500))


def test_the_neighbourhood_lies_around_the_point():
    model = SmallSam(**TINY)
    # A grid whose two channels hold the row and the column tells which tokens were taken.
    rows, columns = torch.meshgrid(torch.arange(1.0, 33), torch.arange(1.0, 33), indexing="ij")
    grid = torch.stack([rows, columns])[None]
    points = torch.tensor([[100.0, 61.0], [3.0, 255.9]])
    tokens, origin, xy = model.neighbourhoods(grid, torch.zeros(2, dtype=torch.long), points)
    assert tokens.shape == (2, 2, 2 * REACH, 2 * REACH)
    assert tokens[0, 0, REACH, REACH] == 100 // PATCH + 1
    assert tokens[0, 1, REACH, REACH] == 61 // PATCH + 1
    assert origin[0].tolist() == [(12 - REACH) * PATCH, (7 - REACH) * PATCH]
    assert xy[0].tolist() == [61.0 - origin[0, 1], 100.0 - origin[0, 0]]
    assert tokens[1, 0, 0].eq(0).all()  # outside the window there is nothing
    assert tokens[1, 1, REACH, REACH] == 32


def test_a_mask_is_cut_at_the_border_and_keeps_the_piece_at_the_prompt():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:30, 10:30] = True
    mask[15:20, 15:20] = False  # a hole is filled
    mask[50:70, 50:70] = True  # another piece
    box, crop = _place(mask, np.array([-15, 5]), np.array([2.0, 20.0]), (200, 200))
    assert box.tolist() == [0, 15, 15, 35]
    assert crop.all()
    box, _ = _place(np.zeros_like(mask), np.array([0, 0]), np.array([5.0, 5.0]), (200, 200))
    assert box.tolist() == [0, 0, 0, 0]


def test_a_point_does_not_depend_on_its_company(trained):
    image, label_map = generate_tile(21, 300)
    points = labels.centroids(label_map)[:9]
    embedding = trained.encode(image)
    together = trained.decode(embedding, Prompts(points), (300, 300))
    trained.batch, before = 2, trained.batch
    small = trained.decode(embedding, Prompts(points), (300, 300))
    trained.batch = before
    assert np.array_equal(together.boxes, small.boxes)
    assert np.allclose(together.predicted_iou, small.predicted_iou, atol=1e-5)
    alone = trained.decode(embedding, Prompts(points[4:5]), (300, 300))
    assert np.array_equal(alone.crops[0], together.crops[4])


def test_the_trained_masks_find_generated_nuclei(trained):
    image, label_map = generate_tile(10**9 + 77, 256, diameter=24, crowding=0.3)
    points = labels.centroids(label_map)
    masks = trained.decode(trained.encode(image), Prompts(points), (256, 256))
    inside, iou = [], []
    areas = labels.areas(label_map)
    for i, (box, crop) in enumerate(zip(masks.boxes, masks.crops, strict=True)):
        y, x = np.rint(points[i]).astype(int) - box[:2]
        inside.append(0 <= y < crop.shape[0] and 0 <= x < crop.shape[1] and crop[y, x])
        truth = label_map[box[0] : box[2], box[1] : box[3]] == i + 1
        both = (truth & crop).sum()
        iou.append(both / (areas[i] + crop.sum() - both))
    assert np.mean(inside) > 0.95
    assert np.mean(iou) > 0.5


def test_weights_of_another_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "weights" / "other.safetensors")
    (tmp_path / "registry.yaml").write_text(
        "sam_mini: {file: other.safetensors, licence: none, size_mb: 1}\n"
    )
    load_segmenter.cache_clear()
    with pytest.raises(UserError, match=r"not hold the weights of sam_mini[\s\S]*Missing key"):
        load_segmenter("mini", batch=1)
