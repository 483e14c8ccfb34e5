"""MaskCut on tokens whose objects are known, and as the coarse model of a cell."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.ucis.maskcut import cut_window, maskcut
from coin_ray.ucis.settings import Maskcut
from tests.conftest import TINY

OBJECTS = (np.s_[2:5, 2:6], np.s_[9:12, 3:6], np.s_[4:7, 10:14], np.s_[11:14, 11:13])


def tokens(objects: tuple[Any, ...] = OBJECTS, side: int = 16) -> np.ndarray:
    """(8, side, side): the ground looks one way, every object another, and all a little apart."""
    rng = np.random.default_rng(0)
    out = 0.05 * rng.standard_normal((8, side, side))
    out[0] += 1
    for place in objects:
        out[0][place] -= 1
        out[1][place] += 1
    return out.astype(np.float16)


def test_objects_are_cut_off_one_after_the_other() -> None:
    found = cut_window(tokens(), Maskcut(masks=4))
    truth = np.zeros((4, 16, 16), dtype=bool)
    for i, place in enumerate(OBJECTS):
        truth[i][place] = True
    assert len(found) == 4 and not np.sum(found, axis=0).max() > 1
    assert {mask.tobytes() for mask in found} == {mask.tobytes() for mask in truth}
    assert len(cut_window(tokens(), Maskcut(masks=2))) == 2


def test_the_side_with_the_corners_is_ground() -> None:
    """Also where more tokens are of an object than of the ground."""
    large = (np.s_[1:15, 1:15],)
    (mask,) = cut_window(tokens(large), Maskcut(masks=1))
    assert mask[1:15, 1:15].all() and mask.sum() == 14 * 14


def test_tokens_beyond_the_grid_are_averaged() -> None:
    fine = tokens().repeat(2, axis=1).repeat(2, axis=2)
    pooled = cut_window(fine, Maskcut(masks=4, grid=16))
    assert {m.tobytes() for m in pooled} == {
        m.tobytes() for m in cut_window(tokens(), Maskcut(masks=4))
    }


@pytest.mark.parametrize("least", [0, 80])
def test_windows_become_one_label_map(least: int) -> None:
    """Windows of 16 tokens, 4 px each, half over each other: an object that one of them cuts off is
    taken from the other, and one that both see is there once."""
    whole = tokens((np.s_[4:8, 13:19], np.s_[10:13, 3:6], np.s_[9:11, 9:11]), side=24)
    starts = [0, 8]
    origins = np.array([(4 * y, 4 * x) for y in starts for x in starts])
    parts = [whole[:, y : y + 16, x : x + 16] for y in starts for x in starts]
    found = maskcut(parts, origins, (64, 64), (96, 96), Maskcut(masks=3), min_area=least)
    assert found.dtype == np.int32 and found.shape == (96, 96)
    middles = [(24, 64), (46, 18), (40, 40)]
    ids = [int(found[at]) for at in middles]
    assert all(ids[:2]) and ids[0] != ids[1] and found[4, 4] == 0
    assert bool(ids[2]) == (not least), "64 px"
    assert found.max() == 3 - bool(least)
    for i, area in zip(ids, (384, 144, 64), strict=True):
        assert not i or (found == i).sum() == pytest.approx(area, rel=0.35)


def test_in_a_cell_its_instances_are_those_of_the_coarse_mask(tmp_path: Path) -> None:
    samples = list(generated_samples(tmp_path / "tiles", 2, size=96, seed=3))
    values = copy.deepcopy(TINY)
    values["ucis"] = {**values.get("ucis", {}), "model": "maskcut", "maskcut": {"masks": 4}}
    values["evaluate"] = {**values.get("evaluate", {}), "result": "coarse"}
    run = open_local(Cell.model_validate(values), 0, [s.image for s in samples], tmp_path)
    rows, _ = run_local(run, samples)
    image = samples[0].image
    made = run.artifact("ucis", image).arrays
    assert made["label_map"].max() > 1
    np.testing.assert_array_equal(made["array"], made["label_map"] > 0)
    coarse = run.get(Ref("instances", image, step="ucis")).arrays["array"]
    np.testing.assert_array_equal(coarse, made["label_map"])
    assert run.array("instances", image).shape == coarse.shape and rows


def test_without_a_backbone_it_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"maskcut cuts the tokens of uss\.family"):
        Cell.model_validate({"ucis": {"model": "maskcut"}, "uss": {"family": "none"}})
