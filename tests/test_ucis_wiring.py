"""Trained coarse models in a cell: trained once, shared, resumable, and no part of other keys."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.events.events import CellFinished, Event, StageFinished
from coin_ray.execution.local import Local
from coin_ray.execution.order import up_to
from coin_ray.execution.refusals import segmenters, target
from coin_ray.execution.study_run import run_study
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.needs import needed_weights
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.training import train_stage
from coin_ray.planning.asked import cell_stages
from coin_ray.planning.plan import plan_cells
from coin_ray.report.export import export
from coin_ray.report.values.study_results import read_results
from coin_ray.section import Section, identity
from coin_ray.store.keys import Key, make_key
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import resolve_data, with_data
from coin_ray.study.resolved import Screen, Stopping
from coin_ray.study.study import resolve
from coin_ray.training.world import HERE
from tests.conftest import TINY
from tests.test_cluster_sweep import study

SSA = {
    "width": 4, "encoder": "resnet18", "encoder_width": 8, "start": "stain", "sparsity": 0.2,
    "iterations": 4, "batch": 3, "crop": 32,
}  # fmt: skip
PSM = {
    "activation_encoder": "res2net50_26w_4s", "activation_width": 8, "activation_iterations": 1,
    "attempts": 1, "encoder": "resnet18", "width": 8, "point_iterations": 1, "final_iterations": 2,
    "batch": 2, "region": 64, "crop": 32,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "ssa": {"model": "ssa", "weights": "none", "ssa": SSA},
    "psm": {"model": "psm", "weights": "none", "psm": PSM},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))


def config(ucis: dict[str, Any], **sections: dict[str, Any]) -> Cell:
    """A cell without a backbone or rounds."""
    values = copy.deepcopy(TINY) | {"uss": {"family": "none"}, "rounds": {"count": 0}}
    return Cell.model_validate(values | sections | {"ucis": ucis})


def opened(
    tiles: list[Any], workspace: Path, ucis: dict[str, Any], done: list[Key] | None = None,
    seed: int = 0, **sections: dict[str, Any],
) -> CellRun:  # fmt: skip
    told = (lambda key, seconds: done.append(key)) if done is not None else None
    images = [sample.image for sample in tiles]
    return open_local(config(ucis, **sections), seed, images, workspace, done=told)


@pytest.mark.parametrize("model", MODELS)
def test_a_cell_trains_its_coarse_model_once(tiles: list[Any], tmp_path: Path, model: str) -> None:
    done: list[Key] = []
    run = opened(tiles, tmp_path, MODELS[model], done)
    data = DataSet(train=run.train, samples=tiles)
    cell = SimpleNamespace(config=run.config, seed=0, data=SimpleNamespace(name="d"), oracle="")
    plan = plan_cells([cell], {"d": data}, tmp_path)
    rows, facts = run_local(run, tiles)
    assert Counter(key.stage for key in done) == plan.to_compute
    assert done[0].stage == "ucis_model"
    log = run.artifact("ucis_model").info["log"]
    assert facts["ucis_loss"] == log["loss"][-1] > 0
    assert {f"ucis_{term}" for term in log} <= set(facts)
    assert not run.store.checkpoints(run.key("ucis_model")).exists()
    coarse = {r["image"]: r["value"] for r in rows if (r["step"], r["metric"]) == ("ucis", "aji")}
    assert set(coarse) == {sample.name for sample in tiles}

    done.clear()  # another seed, another threshold, a backbone: the coarse model is the same
    other = opened(tiles, tmp_path, MODELS[model], done, seed=5, uss=TINY["uss"])
    run_local(other, tiles)
    assert done and not {key.stage for key in done} & {"ucis_model", "ucis"}


def train_coarse(run: CellRun, progress: Any = None) -> None:
    train_stage(run, HERE, lambda *round_: None, "ucis_model", progress)


def test_a_run_may_end_with_the_coarse_model(tiles: list[Any], tmp_path: Path) -> None:
    """What comes after it is not asked for: no weights of it, no screening, no other GPU."""
    data = {"tiles": DataSet(tuple(sample.image for sample in tiles), tuple(tiles))}
    rounds, paper = {"count": 3}, {"model": "vit_h"}
    levels = [
        ("mini", "tiles", config(MODELS["ssa"], rounds=rounds)),
        ("paper", "tiles", config(MODELS["ssa"], rounds=rounds, sam=paper)),
    ]
    whole = replace(study(*levels), screen=Screen(1), stopping=Stopping("asha"))
    part, heard = up_to(with_data(whole, data), "ucis_model"), list[Event]()
    with pytest.raises(UserError, match="leave --local out"):
        target(whole, Local("cpu"))
    assert target(part, Local("cpu")).workers == 1 and segmenters(part) == 0
    how: Any = {"workspace": tmp_path, "listen": heard.append, "executor": Local("cpu")}
    outcome = run_study(part, data, **how)
    assert (outcome.computed, outcome.failed, outcome.left_out) == (1, {}, {})
    ends = [event for event in heard if isinstance(event, CellFinished)]
    assert [(end.level, end.rounds) for end in ends] == [("mini", None), ("paper", None)]
    assert ends[0].metrics == ends[1].metrics and ends[0].metrics["ucis_loss"] > 0
    assert {event.stage for event in heard if isinstance(event, StageFinished)} == {"ucis_model"}
    assert not list(tmp_path.glob("runs/*/*/metrics.json"))
    again = run_study(part, data, **how)
    assert (again.computed, again.reused, again.failed) == (0, 1, {})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_training_goes_on(
    tiles: list[Any], tmp_path: Path, model: str, stop: int
) -> None:
    every_step = {"rounds": {"count": 0, "checkpoint": 0.0}}
    whole = opened(tiles, tmp_path / "whole", MODELS[model])
    train_coarse(whole)

    def break_off(step: int, steps: int, loss: float) -> None:
        if step == stop:
            raise KeyboardInterrupt

    run, seen = opened(tiles, tmp_path / "twice", MODELS[model], **every_step), list[int]()
    with pytest.raises(KeyboardInterrupt):
        train_coarse(run, break_off)
    assert not run.store.has(run.key("ucis_model"))
    train_coarse(run, lambda step, steps, loss: seen.append(step))
    assert seen == [*range(stop + 1, 5)]
    one, two = whole.artifact("ucis_model"), run.artifact("ucis_model")
    assert one.info == two.info
    assert all(one.arrays[name].tobytes() == two.arrays[name].tobytes() for name in one.arrays)


def digests(ucis: dict[str, Any], images: Any, seed: int = 0) -> dict[str, set[str]]:
    """Stage -> digests of the keys of a cell."""
    keys = Chain(config(ucis, rounds={"count": 1}), seed, images, str, lambda f, n: f"{f}/{n}")
    found: dict[str, set[str]] = {}
    for key in cell_stages(keys, DataSet(train=images, samples=[])):
        found.setdefault(key.stage, set()).add(key.digest)
    return found


def test_other_coarse_masks_do_not_know_of_the_training(tiles: list[Any], tmp_path: Path) -> None:
    images = [sample.image for sample in tiles]
    other = {"ssa": SSA, "psm": PSM, "weights": "none", "seed": 3, "path": "masks"}
    for own in ({"model": "stain"}, {"model": "files", "path": "masks"}):
        assert digests(own, images) == digests(own | other, images)
    # What was computed before there were coarse models to train is still there.
    before = {
        "model": "stain", "path": None, "sigma": 1.5, "contrast_sigma": 12.0, "opening": 2,
        "max_hole": 300, "min_area": 60, "min_contrast": 0.4, "min_share": 0.2,
    }  # fmt: skip
    inputs = {"image": images[0].digest(), "scale": "1.0"}
    key = Chain(config({}), 0, images, str, str).key(Ref("ucis", images[0]))
    assert key == make_key("ucis", 1, images[0].name, before, inputs)


def test_a_trained_model_is_one_of_its_images_and_settings(tiles: list[Any]) -> None:
    images = [sample.image for sample in tiles]
    base = digests(MODELS["ssa"], images)
    assert digests(MODELS["ssa"] | {"min_area": 9, "psm": PSM}, images) == base
    assert digests(MODELS["ssa"], images, seed=1)["ucis"] == base["ucis"]
    changes = [
        digests(MODELS["ssa"] | {"seed": 1}, images),
        digests(MODELS["ssa"] | {"ssa": SSA | {"lr": 0.5}}, images),
        digests(MODELS["ssa"], images[:1]),
        digests(MODELS["psm"], images),
    ]
    models = [found["ucis_model"] for found in [base, *changes]]
    assert all(len(found) == 1 for found in models)
    assert len(set.union(*models)) == len(models)
    assert all(not found["ucis"] & base["ucis"] for found in changes)


def test_a_runtime_setting_of_an_inner_section_is_no_part_of_the_identity() -> None:
    from pydantic import Field

    class Inner(Section):
        depth: int = 1
        workers: int = Field(1, json_schema_extra={"runtime": True})

    class Outer(Section):
        inner: Inner = Inner()
        lambda_: float = Field(0.1, alias="lambda")

    assert identity(Outer(inner=Inner(workers=8))) == {"inner": {"depth": 1}, "lambda": 0.1}
    assert identity(Outer(), ("lambda",)) == {"lambda": 0.1}


def test_imagenet_weights_are_needed_by_what_starts_from_them() -> None:
    def names(**ucis: Any) -> set[str]:
        return set(needed_weights(config(ucis))) - {"sam_mini"}

    assert names(model="ssa") == names(model="psm") == {"resnet34_imagenet"}
    assert names() == names(**MODELS["ssa"]) == set()
    for narrow in ({"ssa": {"encoder_width": 16}}, {"ssa": {"encoder": "resnet18"}}):
        with pytest.raises(ValueError, match=r"ucis\.weights: none"):
            config({"model": "ssa"} | narrow)


def test_missing_imagenet_weights_stop_with_the_line_that_gets_them(
    tiles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    data = DataSet(train=[s.image for s in tiles], samples=tiles)
    cell = config({"model": "ssa"})
    with pytest.raises(UserError, match="models fetch resnet34_imagenet"):
        plan_cells(
            [SimpleNamespace(config=cell, seed=0, data=SimpleNamespace(name="d"), oracle="")],
            {"d": data}, tmp_path,
        )  # fmt: skip


IDS = np.zeros((96, 96), dtype=np.int64)
IDS[10:30, 20:40], IDS[50:70, 60:80] = 256, 70_000
CODE = np.stack([0 * IDS, IDS // 300 % 256, IDS % 250], axis=2).astype(np.uint8)
FOLDERS = {
    "binary png": (".png", (255 * (IDS > 0)).astype(np.uint8)),
    "one-bit png": (".png", IDS > 0),
    "black and white rgb png": (".png", np.dstack([255 * (IDS > 0)] * 3).astype(np.uint8)),
    "uint8 instances png": (".png", (IDS % 254).astype(np.uint8)),
    "uint16 instances png": (".png", (IDS % 65_000).astype(np.uint16)),
    "COIN code png": (".png", CODE),
    "binary tif": (".tif", (IDS > 0).astype(np.uint8)),
    "uint16 tif": (".tif", (IDS % 65_000).astype(np.uint16)),
    "uint32 tif": (".tiff", IDS.astype(np.uint32)),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_masks_of_others_are_coarse_masks(tiles: list[Any], tmp_path: Path, kind: str) -> None:
    suffix, values = FOLDERS[kind]
    path = tmp_path / f"{tiles[0].name}{suffix}"
    Image.fromarray(values).save(path) if suffix == ".png" else tifffile.imwrite(path, values)
    run = opened(tiles[:1], tmp_path / "work", {"model": "files", "path": str(tmp_path)})
    np.testing.assert_array_equal(run.array("ucis", tiles[0].image), IDS > 0)


STUDY = """
study: coarse
extends: mini
data: {generated: {test: 2, size: 96}}
report: [aji]
baseline:
  ucis:
    ssa: {width: 4, encoder_width: 8, iterations: 3, batch: 3, crop: 32}
  student: {width: 4, iterations: 2, batch: 2, crop: 64}
  rounds: {count: 1}
factors:
  model:
    baseline: SSA
    levels:
      SSA: {ucis.model: ssa, uss.family: none, rounds.count: 0}
      SSA + COIN: {ucis.model: ssa}
"""


def test_one_table_of_a_model_alone_and_with_coin(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    study = resolve(str(tmp_path / "s.yaml"), Request())
    (spec,) = study.data
    data = resolve_data(spec, tmp_path)
    done: list[Key] = []
    for cell in study.cells:
        run = open_local(
            cell.config, cell.seed, data.train, tmp_path, done=lambda key, s: done.append(key)
        )
        values, facts = run_local(run, data.samples)
        told = {"cell": cell.key_label, **facts}
        export(run, data.samples, tmp_path / "runs" / cell.key_label, values, told)
    assert [key.name for key in done if key.stage == "ucis_model"] == ["ssa"]
    results = read_results(study, tmp_path / "runs")
    (table,) = results.tables
    levels = ["SSA", "SSA + COIN"]
    assert list(table.rows) == levels
    frame = results.frame
    for level in levels:
        own = frame.filter((frame["level"] == level) & (frame["metric"] == "aji"))
        assert set(own["step"]) >= {"ucis", "step1"}
        assert ("round_1" in set(own["step"])) is level.endswith("COIN")


def test_the_shipped_study_has_every_model_alone_and_with_coin() -> None:
    study = resolve("main_comparison", Request())
    assert study.levels == ("SSA", "SSA + COIN", "PSM", "PSM + COIN", "stain", "stain + COIN")
    for cell in study.cells:
        model, _, coin = cell.level.partition(" + ")
        assert cell.config.ucis.model == model.lower()
        assert (cell.config.rounds.count > 0) is (cell.config.uss.family != "none") is bool(coin)
    assert study.published is not None and "stain" not in study.published.rows


@pytest.mark.parametrize(
    "text",
    [
        "ucis: {ssa: {width: 8}}",
        "ucis: {ssa.width: 8}",
        "ucis.ssa: {width: 8}",
        "ucis.ssa.width: 8",
    ],
)
def test_inner_sections_in_a_study(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"study: s\nextends: mini\nbaseline:\n  {text}\n")
    config = resolve(str(path), Request()).cells[0].config
    assert config.ucis.ssa.width == 8 and config.ucis.ssa.encoder == "resnet18"  # of the profile
    over = resolve(str(path), Request(settings=("ucis.ssa.width=9",))).cells[0].config
    assert over.ucis.ssa.width == 9 and over.uss == config.uss


def test_mistakes_in_inner_sections(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("study: s\nextends: mini\nbaseline:\n  ucis: {ssa: {widht: 8}, psmm: {a: 1}}\n")
    with pytest.raises(UserError) as told:
        resolve(str(path), Request(settings=("ucis.psm.widht=8", "ucis.psm=8")))
    for hint in ("'ucis.ssa.width'", "'ucis.psm'?", "'ucis.psm.width'", "keys of ucis.psm: "):
        assert hint in str(told.value)
