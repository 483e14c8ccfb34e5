"""A store that an earlier version wrote is served by this one: nothing of it is computed again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.pipeline.settings import Cell
from coin_ray.planning.plan import plan_cells
from coin_ray.store.artifacts import Store
from tests.fixtures.make_store import run_cell, samples

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("store_*"))
"""One of each release."""
RESULTS: dict[str, dict[str, Any]] = {
    folder.name: json.loads((folder / "results.json").read_text()) for folder in FIXTURES
}


YOUNGER = {"peaks", "candidates", "mine", "complete"}
"""Stages that no release had yet."""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reading marks an artifact as used."""
    made = tmp_path_factory.mktemp("old")
    for folder in FIXTURES:
        shutil.copytree(folder, made / folder.name)
    return made


@pytest.mark.parametrize(
    ("release", "level"), [(name, level) for name, found in RESULTS.items() for level in found]
)
def test_the_store_of_a_release_is_served(copies: Path, release: str, level: str) -> None:
    workspace, told = copies / release, RESULTS[release][level]
    config, tiles = Cell.model_validate(told["config"]), samples(workspace / "tiles")
    data = DataSet(train=[tile.image for tile in tiles], samples=tiles)
    cell = SimpleNamespace(config=config, seed=0, data=SimpleNamespace(name="d"), oracle="")
    assert plan_cells([cell], {"d": data}, workspace).to_compute == {}
    rows, facts, computed = run_cell(config, tiles, workspace)
    assert computed == []
    # As text, in which NaN equals NaN.
    assert json.dumps([rows, facts]) == json.dumps([told[k] for k in ("rows", "facts")])


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_a_fixture_has_every_stage_of_its_release(folder: Path) -> None:
    from coin_ray.pipeline.stages import STAGES
    from coin_ray.pipeline.stages.oracle import ORACLES

    pipeline = {name for name, stage in STAGES.items() if stage not in ORACLES} - YOUNGER
    assert set(Store(folder / "store").stages()) == pipeline
