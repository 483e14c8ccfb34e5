"""The coarse mask of the stain: odd images, scale, the score on real tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coin_ray.imaging.instances import split_instances
from coin_ray.imaging.settings import Instances
from coin_ray.metrics.settings import Evaluate
from coin_ray.ucis import stain
from coin_ray.ucis.settings import Ucis
from coin_ray.ucis.stain import stain_mask
from tests.test_imaging_stain import field

UCIS = Ucis()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def test_nuclei_of_a_generated_field_are_found() -> None:
    image, truth = field()
    mask = stain_mask(image, UCIS)
    assert mask.dtype == bool
    assert iou(mask, truth) > 0.85
    np.testing.assert_array_equal(mask, stain_mask(image, UCIS))


def test_half_micron_tiles_take_the_scale() -> None:
    image, truth = field(radius=4)
    assert iou(stain_mask(image, UCIS, scale=0.5), truth) > 0.7


@pytest.mark.parametrize("shape", [(200, 200), (20, 20), (1, 1), (3, 90)])
@pytest.mark.parametrize("level", [255, 232, 0])
def test_empty_images_have_an_empty_mask(shape: tuple[int, int], level: int) -> None:
    image = np.full((*shape, 3), level, dtype=np.uint8)
    assert not stain_mask(image, UCIS).any()


def test_noise_without_tissue_has_an_empty_mask() -> None:
    noise = np.random.default_rng(0).normal(238, 3, (200, 200, 3))
    assert not stain_mask(np.clip(noise, 0, 255).astype(np.uint8), UCIS).any()
    pink = np.array([230, 180, 210]) + np.random.default_rng(0).normal(0, 4, (200, 200, 3))
    assert not stain_mask(np.clip(pink, 0, 255).astype(np.uint8), UCIS).any()


def test_grey_images_are_taken_by_their_darkness() -> None:
    image, truth = field()
    grey = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert iou(stain_mask(grey, UCIS), truth) > 0.6


def test_a_tiny_image_works() -> None:
    image, truth = field(size=20, radius=5)
    mask = stain_mask(image, UCIS)
    assert mask.shape == truth.shape
    assert iou(mask, truth) > 0.5


def test_faint_and_small_instances_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = field()
    assert not stain_mask(image, UCIS.model_copy(update={"min_contrast": 9})).any()
    none_dropped = UCIS.model_copy(update={"min_contrast": -9, "min_share": 0})
    monkeypatch.setattr(stain, "MIN_OD", 9)
    assert not stain_mask(image, none_dropped).any()
    monkeypatch.setattr(stain, "MIN_OD", -9)
    everything = stain_mask(image, none_dropped)
    assert everything.any()
    monkeypatch.undo()
    assert not (stain_mask(image, UCIS) & ~everything).any()


def test_real_tiles_reach_what_was_measured(real_tiles: Path) -> None:
    """Mean AJI of two tiles a set against the prototype's; ground truth only scores."""
    from coin_ray.metrics.evaluate import evaluate

    floors = {"CryoNuSeg": 0.43, "TNBC": 0.61}
    for name, floor in floors.items():
        folder = real_tiles / "coin_layout" / name / "test"
        found = []
        for path in sorted((folder / "image").iterdir())[:2]:
            image = np.array(Image.open(path).convert("RGB"))
            code = np.array(Image.open(folder / "mask" / f"{path.stem}.png").convert("RGB"))
            ids = code[..., 2].astype(int) * 256 + code[..., 1]
            truth = np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.int32)
            predicted = split_instances(stain_mask(image, UCIS), Instances(footprint=9))
            found.append(evaluate(truth, predicted, Evaluate())["aji"])
        assert np.mean(found) >= floor, (name, found)
