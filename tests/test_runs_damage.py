"""Files beside the cells that are cut, empty or gone: a sweep writes again what it can make, and
says of the others which and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import coin_ray
from coin_ray.api.studies import Study
from coin_ray.errors import UserError
from coin_ray.execution.local import Local
from coin_ray.execution.trial_log import runs_folder
from coin_ray.report.values.claims import registered
from coin_ray.report.values.study_results import last_sweep

STUDY = """
study: kept
extends: mini
baseline: {rounds.count: 0, uss.family: none}
data: {generated: {train: 0, test: 2, size: 64}}
seeds: 1
report: [aji]
factors: {ot.lambda: {baseline: 0.1, levels: [0.1]}}
"""
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "cut inside a letter": lambda content: content[:9] + b"\xc3",
    "no object": lambda content: b"3",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "kept.yaml").write_text(STUDY)
    made = coin_ray.load_study(folder / "kept.yaml", workspace=folder)
    sweep(made)
    return made


def sweep(study: Study) -> None:
    coin_ray.run(study, executor=Local("cpu"), tracking=False)


def place(study: Study) -> Path:
    """The folder of the only cell."""
    (cell,) = study.resolved.cells
    return runs_folder(study.resolved, study.workspace) / cell.key_label


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["metrics.json", "times.json", "config.yaml"])
def test_a_damaged_file_of_a_cell_counts_as_absent_and_is_written_again(
    study: Study, name: str, damage: str
) -> None:
    file = place(study) / name
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    left = coin_ray.results(study.workspace, study).per_image()
    assert left.height > 0 if name == "times.json" else left.height == 0
    sweep(study)
    assert file.read_bytes() == whole
    assert coin_ray.results(study.workspace, study).per_image().height > 0


@pytest.mark.parametrize("gone", ["predictions/*", "overlays/*", "*/generated_0_0001.*"])
def test_label_maps_and_overlays_that_were_deleted_come_back(study: Study, gone: str) -> None:
    folder = place(study)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(before) == 7
    for path in folder.glob(gone):
        path.unlink()
    sweep(study)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "read", "do"),
    [
        ("gates.json", registered, "put a copy of it back"),
        ("sweep.json", last_sweep, "it writes the file again"),
    ],
)
def test_a_damaged_file_that_the_store_cannot_make_is_named(
    tmp_path: Path, name: str, read: Callable[[Path], object], do: str, damage: str
) -> None:
    (tmp_path / name).write_bytes(DAMAGES[damage](b'{"claims": {"it helps": {}}}'))
    with pytest.raises(UserError, match=do) as caught:
        read(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert (tmp_path / name).read_bytes() == DAMAGES[damage](b'{"claims": {"it helps": {}}}')
