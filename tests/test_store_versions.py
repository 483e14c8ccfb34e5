"""A store that an earlier version wrote is served by this one: nothing of it is computed again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coin_ray.pipeline.settings import Cell
from coin_ray.planning.plan import plan_cells
from coin_ray.store.artifacts import Store
from tests.fixtures.make_store import CELLS, run_cell, samples

FIXTURE = Path(__file__).parent / "fixtures" / "store_0_1"
RESULTS: dict[str, Any] = json.loads((FIXTURE / "results.json").read_text())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: reading marks an artifact as used."""
    return Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("old") / "workspace"))


@pytest.mark.parametrize("level", CELLS)
def test_a_store_of_version_0_1_is_served(workspace: Path, level: str) -> None:
    config, tiles = Cell.model_validate(RESULTS[level]["config"]), samples(workspace / "tiles")
    data = SimpleNamespace(train=[tile.image for tile in tiles], samples=tiles)
    cell = SimpleNamespace(config=config, seed=0, data=SimpleNamespace(name="d"))
    assert plan_cells([cell], {"d": data}, workspace).to_compute == {}
    rows, facts, computed = run_cell(config, tiles, workspace)
    assert computed == []
    # As text, in which NaN equals NaN.
    assert json.dumps([rows, facts]) == json.dumps([RESULTS[level][k] for k in ("rows", "facts")])


def test_the_fixture_has_every_stage() -> None:
    from coin_ray.pipeline.stages import STAGES

    assert set(Store(FIXTURE / "store").stages()) == set(STAGES)
