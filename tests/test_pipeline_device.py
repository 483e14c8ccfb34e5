"""The kind of device is part of what a stage is: CPU and GPU never serve each other's results, and
whoever reads a cell finds them on either. The GPU of these tests computes on the CPU."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.needs import mask_digest
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.plan import plan_cells
from coin_ray.planning.states import stages_by_cell
from coin_ray.report.values.finished import open_finished
from coin_ray.weights import registry
from tests.test_pipeline_stages import FULL, SMALL, places

CONFIG = Cell.model_validate(SMALL | {"rounds": {"count": 1}, "labels": FULL["labels"]})
ROOT = Path(__file__).parents[1]
PLACE = {"Chain": 99, "open_local": 99, "plan_cells": 4}
"""Of the device among the arguments; 99: it has to be named."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return tuple(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=64, seed=5))


def chain_on(device: str, samples: tuple[Any, ...], trained: str | None = None) -> Chain:
    images = [sample.image for sample in samples[:1]]
    known = registry.identity, mask_digest
    return Chain(CONFIG, 0, images, *known, device=device, trained=trained)


@pytest.fixture(scope="module")
def finished(samples: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory) -> CellRun:
    """A cell that ran on a GPU."""
    workspace = tmp_path_factory.mktemp("workspace")
    here = open_local(CONFIG, 0, [samples[0].image], workspace)
    run = replace(here, chain=chain_on("cuda:1", samples))
    run_local(run, samples[:1])
    return run


def test_what_runs_on_a_gpu_and_what_is_made_of_it_has_other_keys(samples: Any) -> None:
    cpu, cuda, second = (chain_on(device, samples) for device in ("cpu", "cuda", "cuda:1"))
    changed: dict[str, bool] = {}
    for ref in places(CONFIG, cpu, samples[0]):
        changed[ref.stage] = cpu.key(ref) != cuda.key(ref)
        assert cuda.key(ref) == second.key(ref)
        assert '"device"' not in cpu.key(ref).fields
        stage = STAGES[ref.stage]
        on_device = stage.runs != "cpu" and stage.told
        assert ('"device":"cuda"' in cuda.key(ref).fields) is on_device
    assert all(changed.values())  # every chain begins on the device


def test_plan_and_status_find_a_cell_by_its_device(finished: CellRun, samples: Any) -> None:
    workspace = finished.store.root.parent
    data = DataSet(train=(samples[0].image,), samples=samples[:1])
    cell = SimpleNamespace(config=CONFIG, seed=0, data=SimpleNamespace(name="d"), oracle="")
    assert plan_cells([cell], {"d": data}, workspace, "cuda").to_compute == {}
    here = plan_cells([cell], {"d": data}, workspace)
    assert here.stored == 0 and here.to_compute["round"] == 1
    (seen,) = stages_by_cell([cell], {"d": data}, workspace)
    assert not seen.missing
    other = SimpleNamespace(config=CONFIG, seed=1, data=SimpleNamespace(name="d"), oracle="")
    seen, begun = stages_by_cell([cell, other], {"d": data}, workspace)
    stages = Counter(key.stage for key in begun.missing.values())
    assert not seen.missing and stages["round"] == 1 and not stages["features"]


def test_a_laptop_predicts_with_a_student_of_a_gpu(finished: CellRun, samples: Any) -> None:
    workspace, new = finished.store.root.parent, samples[1].image
    cell: Any = SimpleNamespace(config=CONFIG, seed=0, key_label="cell")

    with pytest.raises(UserError, match="has not finished"):
        open_finished(cell, [new], workspace, "cpu")
    run = open_finished(cell, [samples[0].image], workspace, "cpu")
    assert run.key("round", round_=1) == finished.key("round", round_=1)
    assert run.key("predict", new, 1) != finished.key("predict", new, 1)
    np.testing.assert_array_equal(run.array("predict", new, 1), finished.array("predict", new, 1))


def test_every_plan_and_every_chain_says_what_computes() -> None:
    silent: Counter[str] = Counter()
    paths = [*(ROOT / "coin_ray").rglob("*.py")]
    for path in [path for path in paths if path.parent.name != "study"]:  # whose chain is of files
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                named = any(word.arg == "device" for word in node.keywords)
                if node.func.id in PLACE:
                    silent[node.func.id] += not named and len(node.args) < PLACE[node.func.id]
    # The one asks whether the weights of a search are there.
    assert silent == {"Chain": 0, "open_local": 0, "plan_cells": 1}
