"""Mining in a cell: what enters the labels and the result, at what price, and under which keys."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from coin_ray.compat import ensure_torchvision
from coin_ray.confidence import mining, windowed
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.confidence.settings import Mine
from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.labels import InstanceMasks, count, keep_instances
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.plan import plan_cells
from coin_ray.slides.method import Method, segment
from coin_ray.store.keys import Key
from tests.computing import FakeImage, given
from tests.conftest import TINY
from tests.test_confidence_mining import disk
from tests.test_confidence_sam import home_with, tiny_sam

ALL = {"points": ["grid", "stain", "student"], "min_iou": 0.6, "min_area": 40}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))


@pytest.fixture(scope="module")
def masks(tiles: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coarse masks that lost every other nucleus."""
    folder = tmp_path_factory.mktemp("masks")
    for tile in tiles:
        truth = tile.load_label_map()
        known = keep_instances(truth, np.arange(count(truth)) % 2 == 0) > 0
        Pillow.fromarray(known.astype(np.uint8) * 255).save(folder / f"{tile.name}.png")
    return folder


@pytest.fixture(scope="module")
def opened(tiles: list[Any], masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``opened(mine={...}, ...)``: a cell on these masks; all share one store."""
    workspace = tmp_path_factory.mktemp("workspace")

    def make(seed: int = 0, done: list[Key] | None = None, **sections: dict[str, Any]) -> CellRun:
        values = copy.deepcopy(TINY) | {"uss": {"family": "none"}}
        values["ucis"] = {"model": "files", "path": str(masks)}
        values["infer"] |= {"stain_weight": 0.0, "redraw": True}
        for name, patch in sections.items():
            values[name] = values.get(name, {}) | patch
        told = (lambda key, seconds: done.append(key)) if done is not None else None
        images = [tile.image for tile in tiles]
        return open_local(Cell.model_validate(values), seed, images, workspace, done=told)

    return make


def test_what_a_coarse_mask_lost_enters_the_labels_and_the_result(
    opened: Any, tiles: list[Any]
) -> None:
    computed: list[Key] = []
    plain, run = opened(), opened(0, computed, mine=ALL)
    data = DataSet(tuple(run.train), tuple(tiles))
    cell = SimpleNamespace(config=run.config, seed=0, data=SimpleNamespace(name="d"), oracle="")
    planned = plan_cells([cell], {"d": data}, run.store.root.parent).to_compute
    run_local(run, tiles)
    assert planned == Counter(key.stage for key in computed)
    assert planned["candidates"] == len(tiles) * (2 + 2)  # grid, stain; two students
    found = 0
    for tile in tiles:
        image = tile.image
        new = run.array("mine", image, 1)
        before, after = (cell.labels(image, 1).arrays for cell in (plain, run))
        lost = after["label_map"] > 0
        assert np.array_equal(lost, (before["label_map"] > 0) | (new > 0))
        kept = before["label_map"] > 0
        assert np.array_equal(after["label_map"][kept], before["label_map"][kept])
        assert not (new[(run.array("instances", image) > 0) | before["ignore"]]).any()
        assert not (after["ignore"] & lost).any()
        result, drawn = run.labels_at(image, "round_2"), run.array("redraw", image, 2)
        assert np.array_equal(result[drawn > 0], drawn[drawn > 0])
        added = run.info(Ref("complete", image, 2))["mined"]
        assert count(result) == count(drawn) + added
        truth = tile.load_label_map()
        missed = keep_instances(truth, np.arange(count(truth)) % 2 == 1)
        found += int((InstanceMasks.from_label_map(missed).best_iou(new) > 0.5).sum())
    assert found > 0


def test_candidates_are_drawn_once_for_all_rounds_seeds_and_thresholds(
    opened: Any, tiles: list[Any]
) -> None:
    run_local(opened(mine=ALL), tiles)
    computed: list[Key] = []
    grid = {"points": "grid", "min_iou": 0.7, "min_agreement": 0.5, "min_free": 0.9, "min_area": 40}
    again = opened(1, computed, mine=grid)
    run_local(again, tiles)
    stages = Counter(key.stage for key in computed)
    assert stages["candidates"] == stages["peaks"] == 0
    assert stages["mine"] == 2 * len(tiles) and stages["round"] == 2
    keys = {cell.key("masks", tiles[0].image, 1).digest for cell in (again, opened())}
    assert len(keys) == 1


def test_off_leaves_every_key_and_every_stage_as_it_was(opened: Any, tiles: list[Any]) -> None:
    image = tiles[0].image
    asked = [Ref("select", image, 1), Ref("round", round=2), Ref("redraw", image, 2)]
    plain, off = opened(), opened(mine={"points": [], "step": 5, "min_iou": 0.1, "max_area": 99})
    assert [plain.chain.key(r) for r in asked] == [off.chain.key(r) for r in asked]
    told = plain.chain.key(asked[0]).fields
    assert "mine" not in told
    # Without a student there is none to ask: the first labels are as before, the second are not.
    student = opened(mine={"points": "student"})
    assert student.chain.key(asked[0]) == plain.chain.key(asked[0])
    later = Ref("select", image, 2)
    assert student.chain.key(later) != plain.chain.key(later)


def test_labels_that_come_of_cheaper_predictions_are_mined_beside_these(opened: Any) -> None:
    run = opened(mine=ALL, relabel={"scales": [0.5]})
    image = run.train[0]
    mined = run.chain.sources(Ref("mine", image, 2))["candidates"]
    assert mined[-1] == Ref("candidates", image, 1, step="labels")
    assert run.chain.sources(mined[-1])["peaks"] == Ref("peaks", image, 1, step="labels")
    result = run.chain.sources(Ref("complete", image, 1))["candidates"]
    assert result[-1] == Ref("candidates", image, 1)
    assert run.chain.key(mined[-1]) != run.chain.key(result[-1])


def test_what_a_remembered_mask_holds_is_not_mined_again() -> None:
    known, lost, new = (disk(20, x, 6).astype(np.int32) for x in (10, 26, 42))
    before: dict[str, Any] = {"label_map": known, "scores": np.array([0.8], np.float32)}
    before |= InstanceMasks.from_label_map(known).to_arrays()
    mined = np.maximum(disk(20, 11, 6), 2 * lost).astype(np.int32)
    one = np.ones(1, np.float32)
    score = {"scores": one, "area_ratio": one, "holds_point": one > 0}
    inputs: dict[str, Any] = {"score": score, "instances": new, "mined": mined, "scale": 1.0}
    inputs |= {"masks": InstanceMasks.from_label_map(new), "before": before}
    values = {"uss": {"family": "none"}, "labels": {"memory": True}, "mine": {"points": ["grid"]}}
    ref = Ref("select", FakeImage("a", size=known.shape), 2)
    for area, shown in ((60, known + 2 * new + 3 * lost), (200, known + 2 * new)):
        values["mine"]["min_area"] = area
        cell = Cell.model_validate(values | {"select": {"rule": "fixed", "value": 0.1}})
        found = STAGES["select"].compute(given("select", cell, inputs, ref)).arrays["label_map"]
        np.testing.assert_array_equal(found > 0, shown > 0)
        assert count(found) == shown.max()
    keys = {
        name: Chain(Cell.model_validate(values | patch), 0, (ref.image,), str, lambda f, n: n)
        for name, patch in {"both": {}, "mined": {"labels": {}}, "known": {"mine": {}}}.items()
    }
    told = {name: chain.key(ref).fields for name, chain in keys.items()}
    assert [name for name, fields in told.items() if "min_free" in fields] == ["both"]
    assert "min_free" not in keys["both"].key(ref._replace(round=1)).fields


@pytest.mark.parametrize("student", [False, True])
def test_slides_are_mined_as_studies_are(opened: Any, tiles: list[Any], student: bool) -> None:
    run = opened(mine=ALL, ucis={"model": "stain", "path": None})
    image, weights = tiles[0].image, None
    if student:
        run_local(run, tiles)
        weights = run.student(2).arrays
    found, score = segment(image.load(), Method(run.config, student=weights), 1.0)
    assert count(found) == len(score) and ((score >= 0) & (score <= 1)).all()
    if student:
        np.testing.assert_array_equal(found, run.labels_at(image, "round_2"))
    off = run.config.model_copy(update={"mine": Mine()})
    without, _ = segment(image.load(), Method(off, student=weights), 1.0)
    np.testing.assert_array_equal(found[without > 0], without[without > 0])


def test_other_segmenters_are_asked_the_same_way(
    tiles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAM on windows, of a file in the official format: its masks are those asked for by hand."""
    ensure_torchvision()
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_sam)
    home_with(tmp_path, monkeypatch, tiny_sam().state_dict())
    load_segmenter.cache_clear()
    image = replace(tiles[0].image, mpp=0.5)
    mine = Mine(points=("grid",), step=24, min_iou=0.0, min_area=4, max_area=9000)
    values = copy.deepcopy(TINY) | {"uss": {"family": "none"}, "rounds": {"count": 0}}
    values |= {"sam": {"model": "vit_b", "window": 96}, "mine": mine.model_dump(mode="json")}
    run = open_local(Cell.model_validate(values), 0, [image], tmp_path / "workspace")
    stored = run.get(Ref("candidates", image, step="grid"))
    found = mining.Candidates.from_arrays(stored.arrays)
    assert stored.info == {"asked": len(found.points_yx), "drawn": len(found.masks)}
    assert run.labels(image, 1).info["labelled"] >= run.labels(image, 1).info["accepted"]

    segmenter, pixels = SamSegmenter(tiny_sam(), batch=1), image.load()
    seen = windowed.encode(segmenter, pixels, 48)
    points = mining.grid_points(pixels.shape[:2], 24, scale=0.5)
    by_hand = mining.ask(
        points,
        lambda prompts: windowed.decode(segmenter, seen, prompts, pixels.shape[:2]),
        mine,
        scale=0.5,
    )
    assert len(points) == 64 and len(by_hand.masks) > 0
    np.testing.assert_array_equal(found.masks.boxes, by_hand.masks.boxes)
    np.testing.assert_array_equal(found.asked, by_hand.asked)
    load_segmenter.cache_clear()
