"""The folder of everything: it is a path, and what lies in it lies below it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.workspace import Workspace

PLACES = [name for name, found in vars(Workspace).items() if isinstance(found, property)]


def test_places_are_plain_folders_and_files_of_their_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    places = [getattr(workspace, name) for name in PLACES]
    assert {place.parent for place in places} == {tmp_path}
    assert len(set(places)) == len(places) >= 5
    assert not any(isinstance(place, Workspace) for place in places)


def test_it_travels_to_workers_and_equals_its_path(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    there = pickle.loads(pickle.dumps(workspace))  # noqa: S301
    assert isinstance(there, Workspace) and there == workspace == tmp_path
    assert Workspace(workspace).resolve().store == tmp_path.resolve() / "store"


@pytest.mark.parametrize("given", ["option", "variable", "nothing"])
def test_the_command_line_makes_one(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("coin_ray.cli.verbs.status._studies", seen.append)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".coin-ray").mkdir()
    option = ["--workspace", ".coin-ray"] if given == "option" else []
    if given == "variable":
        monkeypatch.setenv("COIN_RAY_WORKSPACE", str(tmp_path / ".coin-ray"))
    done = CliRunner().invoke(cli.app, ["status", *option])
    assert done.exit_code == 0, done.output
    assert isinstance(seen[0], Workspace) and seen[0] == tmp_path.resolve() / ".coin-ray"
