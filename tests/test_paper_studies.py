"""The tables and figures of the paper as studies: each plans on every data set that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

import coin_ray
from coin_ray.cli import VERBS
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.study.files import find_study
from coin_ray.study.study import resolve
from tests.conftest import ROOT

PAPER = {path.stem: path for path in sorted(ROOT.glob("ablations/paper/*.yaml"))}


def named(study: str) -> list[str]:
    """The data sets of its published numbers."""
    published = resolve(study).published
    assert published is not None
    return sorted({name for by_data in published.rows.values() for name in by_data})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stand-in")
    generated_samples(folder, 2, size=64, seed=1)
    return folder


@pytest.mark.filterwarnings("ignore::coin_ray.data.resolution.MissingMpp")
@pytest.mark.parametrize(("study", "data"), [(s, d) for s in PAPER for d in named(s)])
def test_each_plans_on_each_data_set_that_it_names(
    study: str, data: str, tiles: Path, tmp_path: Path
) -> None:
    loaded = coin_ray.load_study(study, data=f"{data}={tiles}", workspace=tmp_path)
    plan = coin_ray.plan(loaded)
    assert plan.to_compute["evaluate"] >= 2
    assert all(cell.config.ucis.model != "stain" or "stain" in cell.level
               for cell in loaded.resolved.cells)  # fmt: skip


def test_they_are_found_by_name_and_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for asked in ("table_11", "paper/table_11", "ablations/paper/table_11.yaml"):
        assert find_study(asked) == PAPER["table_11"]


def test_table_11_has_its_six_rows() -> None:
    study = resolve("table_11")
    config = {level: study.configuration(level) for level in study.levels}
    rows = [
        (c.uss.family != "none", c.ot.enabled, c.crf.enabled, c.instances.method == "watershed")
        for c in config.values()
    ]
    assert rows == [
        (False, False, False, False),
        (True, False, False, False),
        (True, True, False, False),
        (True, False, True, False),
        (True, True, True, False),
        (True, True, True, True),
    ]


@pytest.mark.parametrize("table", ["table_10", "table_13", "table_14"])
def test_adjacency_is_read_both_ways(table: str) -> None:
    one, two = resolve(table), resolve(f"{table}_two_neighbours")
    assert {c.config.evaluate.adjacency_neighbours for c in one.cells} == {1}
    assert {c.config.evaluate.adjacency_neighbours for c in two.cells} == {2}
    assert one.levels == two.levels and one.published == two.published


def test_the_page_names_every_study_and_no_other() -> None:
    text = (ROOT / "docs" / "reproduce.md").read_text()
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(name.strip(" `") for cell in first for name in cell.split(",")) == list(PAPER)
    for line in text.splitlines():
        if (words := line.split()) and words[0] == "coin-ray":
            assert words[1] in VERBS, line
            assert all(w in PAPER for w in words[2:] if w.startswith(("table_", "figure_"))), line


@pytest.mark.filterwarnings("ignore::coin_ray.data.resolution.MissingMpp")
def test_step_2_has_no_result_of_images_that_are_not_trained_on(
    tiles: Path, tmp_path: Path
) -> None:
    generated_samples(tmp_path / "others", 1, size=64, seed=2)
    data = {"data": f"MoNuSeg-train={tiles}", "train": tmp_path / "others"}
    loaded = coin_ray.load_study("table_10", workspace=tmp_path, **data)
    with pytest.raises(UserError, match="pseudo labels are made for images that are trained on"):
        coin_ray.plan(loaded)
