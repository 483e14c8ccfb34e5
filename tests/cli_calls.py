"""What the tests of the command line share: calling it, and a store as a run would leave it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coin_ray import cli
from coin_ray.planning.states import CellStages, stages_by_cell
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import read_data
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.study import resolve

WORKSPACE = ".coin-ray"


def call(*args: str) -> Result:
    return CliRunner().invoke(cli.app, list(args))


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, study: str = "") -> Path:
    """Make a folder the current one, with a study ``s.yaml`` and its own workspace."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COIN_RAY_WORKSPACE", raising=False)
    if study:
        (folder / "s.yaml").write_text(study)
    return folder


def study_of(folder: Path, *settings: str, study: str = "s.yaml") -> ResolvedStudy:
    """The study with these settings, on its data."""
    resolved = resolve(str(folder / study), Request(settings=settings))
    return read_data(resolved, folder / WORKSPACE)[0]


def cell_of(study: ResolvedStudy, level: str, seed: int = 0) -> StudyCell:
    """The cell of a level."""
    (cell,) = [c for c in study.cells if (c.level, c.seed) == (level, seed)]
    return cell


def stages_of(folder: Path, *levels: str, study: str = "s.yaml") -> list[CellStages]:
    """The stages of each cell of these levels."""
    workspace = folder / WORKSPACE
    resolved, data = read_data(resolve(str(folder / study), Request()), workspace)
    cells = [cell for cell in resolved.cells if cell.level in levels]
    return stages_by_cell(cells, data, workspace)


def fill(
    folder: Path,
    *levels: str,
    study: str = "s.yaml",
    seconds: float = 1.0,
    leave_out: tuple[str, ...] = (),
) -> None:
    """Put an artifact of nothing under every key of these levels, as if it had been computed."""
    store = Store(folder / WORKSPACE / "store")
    for own in stages_of(folder, *levels, study=study):
        for key in own.missing.values():
            if key.stage not in leave_out:
                store.save(key, Artifact(), seconds)
