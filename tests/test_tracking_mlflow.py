"""What arrives in MLflow (a small sqlite store), also after crashes, outages and replays."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from coin_ray.api.recording import Recorder
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.pipeline.settings import Cell, dotted_fields
from coin_ray.tracking.describe import cell_digest, describe_cells, describe_study
from coin_ray.tracking.mlflow_store import connect, tracking_uri
from coin_ray.tracking.mlflow_writer import MlflowWriter
from coin_ray.tracking.records import name as key
from coin_ray.tracking.replay import journal_path, sync_journals
from coin_ray.tracking.tracker import Tracker
from tests.tracking_study import (
    AWAY,
    CELL,
    LEVELS,
    PARENT,
    ROUNDS,
    info,
    record_run,
    stored,
    study,
    without_ids,
)

pytestmark = pytest.mark.usefixtures("no_tracker_of_the_user")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests of this file: making its tables takes a second. A blank in the path,
    because database and artifact addresses have to carry it."""
    return tmp_path_factory.mktemp("work space")


@pytest.fixture(scope="module")
def complete(workspace: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    study_id = record_run(workspace, "complete")
    return study_id, stored(workspace, study_id)


Complete = tuple[str, dict[str, dict[str, Any]]]


def test_a_study_is_a_parent_with_one_child_a_cell(complete: Complete) -> None:
    _, runs = complete
    assert set(runs) == {PARENT, *(f"{level} · tiles · seed 0" for level in LEVELS)}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    parent = runs[PARENT]
    assert {run["parent"] for run in runs.values()} == {None, parent["id"]}
    assert parent["parent"] is None
    assert parent["tags"]["factor.backbone"] == '["none", "mae"]'
    assert parent["metrics"]["study_computed"] == [(0, 4.0)]
    assert {"summary.csv", "environment.yaml", "study/resolved.yaml"} <= set(parent["files"])
    assert "coin-ray sweep x.yaml" in parent["tags"]["mlflow.note.content"]


def test_a_child_has_every_setting_and_factor_as_a_flat_param(complete: Complete) -> None:
    params = complete[1][CELL]["params"]
    assert {key for key, _ in dotted_fields()} <= set(params)
    expected = {"uss.family": "mae", "ot.lambda": "0.1", "rounds.count": "2", "backbone": "mae"}
    expected |= {"level": "mae", "dataset": "tiles", "seed": "0", "infer.hflip": "true"}
    assert {key: params[key] for key in expected} == expected


def test_a_child_has_its_tags(complete: Complete) -> None:
    tags = complete[1][CELL]["tags"]
    expected = {"study": "uss_backbones", "level": "mae", "dataset": "tiles", "seed": "0"}
    expected |= {"profile": "mini", "data_digest": "complete", "stage.ucis": "key-ucis"}
    assert {key: tags[key] for key in expected} == expected
    assert tags["stage.features"].endswith("(2 keys)")
    cell = next(c for c in study().cells if c.level == "mae")
    assert tags["coin_ray.cell"] == cell_digest(cell)


def test_metrics_are_by_round_and_nothing_that_is_not_finite(complete: Complete) -> None:
    run = complete[1][CELL]
    assert run["metrics"]["aji"] == [(1, 0.51), (2, 0.52)]
    assert run["metrics"][key("loss@1")] == [(1, 1.0), (2, 0.5)]
    assert run["metrics"]["aji_ucis"] == [(ROUNDS, 0.4)]
    assert run["metrics"]["stages_computed"] == [(ROUNDS, 2.0)]
    assert "spread" not in run["metrics"]
    assert run["tags"]["nonfinite"] == "spread at 1, spread at 2"


def test_artifacts_open_as_what_they_are(complete: Complete) -> None:
    run = complete[1][CELL]
    cell = next(c for c in study().cells if c.level == "mae")
    config = yaml.safe_load(run["files"]["config.yaml"])
    assert type(cell.config).model_validate(config) == cell.config
    rows = list(csv.DictReader(io.StringIO(run["files"]["per_image.csv"].decode())))
    assert rows[1] == {"image": "b", "aji": "0.54", "pq": ""}
    assert run["files"]["overlays/overlay.png"].startswith(b"\x89PNG")
    assert "packages" in yaml.safe_load(run["files"]["environment.yaml"])


def test_the_table_is_one_that_mlflow_loads(
    workspace: Path, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(workspace, tracking_uri(workspace))
    experiment = client.get_experiment_by_name("coin-ray").experiment_id
    run_id = complete[1][CELL]["id"]
    # The client searches through the fluent API here, whose own setter would stay in force.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(workspace))
    table = client.load_table(experiment, "per_image.json", run_ids=[run_id])
    assert table["aji"].tolist() == [0.5, 0.54]


def test_replaying_writes_nothing_twice(workspace: Path) -> None:
    study_id = record_run(workspace, "twice")
    before = stored(workspace, study_id)
    synced = {done.study: done for done in sync_journals(workspace)}[study_id]
    assert (synced.runs, synced.written, synced.missing) == (3, 0, ())
    assert stored(workspace, study_id) == before
    # The study run again by another driver, everything served from the store.
    assert record_run(workspace, "twice") == study_id
    again = stored(workspace, study_id)
    assert again.pop(PARENT)["status"] == "FINISHED"
    assert again == {name: run for name, run in before.items() if name != PARENT}


def test_a_journal_from_elsewhere_reaches_nothing_outside_the_workspace(
    workspace: Path, complete: Complete, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (workspace / "link.txt").symlink_to(secret)
    (workspace / "mine.txt").write_text("mine")
    rows: list[object] = [
        {"event": "StudyDescribed", "time": 1, "name": "foreign", "tags": {}},
        {"event": "Text", "time": 1, "path": "../../../escaped.txt", "text": "x"},
        {"event": "Text", "time": 1, "path": str(tmp_path / "escaped.txt"), "text": "x"},
        {"event": "File", "time": 1, "path": str(secret), "folder": "other"},
        {"event": "File", "time": 1, "path": "link.txt"},
        {"event": "File", "time": 1, "path": "files/../../secret.txt"},
        {"event": "CellFinished", "time": 1, "run": "r", "metrics": []},
        {"event": "Text", "time": 1, "path": "a", "text": "kept"},
        {"event": "Text", "time": 1, "path": "a/b", "text": "no folder"},
        {"event": "File", "time": 1, "path": "mine.txt", "folder": "sub"},
    ]
    journal = journal_path(workspace, "foreign-study")
    journal.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "no JSON\n")
    odd = journal.with_name("x' OR 1=1.jsonl")
    odd.write_text("")
    try:
        done = {one.study: one for one in sync_journals(workspace)}
    finally:
        odd.unlink()
    assert complete[0] in done and "its name is none of ours" in done[odd.stem].bad[0]
    bad = "\n".join(done["foreign-study"].bad)
    for number in (2, 3, 7, 11):
        assert f"line {number}: " in bad
    assert bad.count("lies outside the workspace") == 3 and "a/b: another is attached" in bad
    assert set(stored(workspace, "foreign-study")["foreign"]["files"]) == {"a", "sub/mine.txt"}
    assert not list(tmp_path.rglob("escaped*")) and not list(workspace.rglob("escaped*"))


def test_two_drivers_that_replay_at_once_make_one_store_and_one_run_a_cell(
    workspace: Path, complete: Complete, tmp_path: Path
) -> None:
    # MLflow itself fails here: of several processes that make a store's tables, all but one die.
    # It also shows that a lost database, or a workspace that was moved, costs nothing.
    (tmp_path / "journal").mkdir()
    shutil.copy(journal_path(workspace, complete[0]), tmp_path / "journal")
    shutil.copytree(workspace / "files", tmp_path / "files")
    code = "import sys, pathlib as p; from coin_ray.tracking.replay import sync_journals as s; "
    code += "s(p.Path(sys.argv[1]))"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert without_ids(stored(tmp_path, complete[0]), complete[0]) == without_ids(
        complete[1], complete[0]
    )


def test_what_the_tracker_does_not_take_is_refused_and_not_written(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, info("refused"), uri=AWAY, warn=lambda _: None)
    before = journal_path(tmp_path, tracker.study).read_bytes()
    started = {"event": "CellStarted", "level": "mae", "data": "tiles", "seed": 0}
    for event, error in [
        ({"event": "Unheard"}, ValueError),
        ({"event": "CellStarted", "cell": "mae-tiles-0"}, ValueError),
        ({**started, "cell": "no such cell"}, ValueError),
        ({"event": "Table", "rows": []}, ValueError),
        ({"event": "File", "path": tmp_path / "missing.png"}, FileNotFoundError),
        ({"event": "Metrics", "metrics": {"aji": object()}}, TypeError),
    ]:
        with pytest.raises(error):
            tracker.record(event)
    assert journal_path(tmp_path, tracker.study).read_bytes() == before
    tracker.close()


def test_cells_that_come_up_stop_early_or_are_left_out(workspace: Path) -> None:
    tracker = Tracker(workspace, info("searched", levels=("none",)))
    new = study(("mae",)).cells[0]
    who = (new.key_label, new.level, new.data.name, new.seed)
    tracker.record(events.CellLeftOut("none-tiles-0", "none", "tiles", 0, "decided").to_json())
    with pytest.raises(ValueError, match="no cell 'mae-tiles-0'"):
        tracker.record(events.CellStarted(*who).to_json())
    tracker.add(describe_cells([new]))
    tracker.record(events.CellStarted(*who).to_json())
    tracker.record(events.CellFinished(*who, {"aji": 0.5}, rounds=1).to_json())
    assert tracker.close()
    runs = stored(workspace, tracker.study)
    name = "mae · tiles · seed 0"
    assert runs.keys() == {"uss_backbones (mini, tiles)", name}  # what was left out has no run
    assert runs[name]["tags"]["ended_after_rounds"] == "1"


def test_a_deleted_experiment_is_said_and_not_brought_back(workspace: Path) -> None:
    record_run(workspace, "deleted", experiment="old")
    client = connect(workspace, tracking_uri(workspace))
    client.delete_experiment(client.get_experiment_by_name("old").experiment_id)
    said: list[str] = []
    record_run(workspace, "deleted", experiment="old", warn=said.append)
    assert len(said) == 1
    assert "was deleted" in said[0]
    with pytest.raises(UserError, match="was deleted"):
        sync_journals(workspace, experiment="old")


def test_the_usual_variables_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert tracking_uri(tmp_path) == AWAY
    assert MlflowWriter(tmp_path, "s").experiment == "mine"
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "s.jsonl").write_text('{"event": "Tags", "time": 1, "tags": {}}\n')
    with pytest.raises(UserError, match="does not take the runs"):
        sync_journals(tmp_path)


def test_no_journal_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no journal"):
        sync_journals(tmp_path)


LONG = "x" * 400
HOSTILE = ("a:b", "a>b", "a/b", LONG, LONG + "y", "MAE", "mae")


def test_names_that_mlflow_does_not_take_stay_apart(workspace: Path) -> None:
    made = study()
    cells = tuple(
        replace(
            made.cells[0],
            level=level,
            key_label=f"cell-{i}",
            labels={"seed": level, "level": "mine", "dataset": "d", "f:1": "one", "f>1": "two"},
            config=Cell.model_validate({"ot": {"lambda": 0.1 * (i + 1)}}),
        )
        for i, level in enumerate(HOSTILE)
    )
    factors = {"seed": HOSTILE, "level": ("mine",), "f:1": ("one",), "f>1": ("two",)}
    made = replace(made, cells=cells, levels=HOSTILE, factors=factors, baseline_level="mae")
    tracker = Tracker(workspace, describe_study(made, data_digest="hostile"))
    for cell in cells:
        who = (cell.key_label, cell.level, cell.data.name, cell.seed)
        tracker.record(events.CellFinished(*who, {"aji": 0.5}).to_json())
    columns = ("delta_low", "delta_high", "p_image_adjusted", "p_seed_adjusted")
    rows = [
        {"dataset": "tiles", "level": level, "metric": "aji", "delta": float(i)}
        | dict.fromkeys((*columns, "low", "high"))
        for i, level in enumerate(HOSTILE)
    ]
    Recorder(tracker, made, workspace).comparisons(rows)
    assert tracker.close()
    runs = stored(workspace, tracker.study)
    (parent,) = (run for run in runs.values() if run["parent"] is None)
    deltas = {name: points[0][1] for name, points in parent["metrics"].items() if "delta" in name}
    assert sorted(deltas.values()) == [float(i) for i in range(len(HOSTILE))]
    full = {name: parent["tags"].get(f"name.{name}", name) for name in map(level_of, deltas)}
    assert {full[level_of(name)]: value for name, value in deltas.items()} == {
        level: float(i) for i, level in enumerate(HOSTILE)
    }
    children = [run for run in runs.values() if run["parent"]]
    assert {run["tags"]["level"] for run in children} == set(HOSTILE)
    params = [run["params"] for run in children]
    assert len({p["level"] for p in params}) == len({p["factor.seed"] for p in params}) == 7
    for found in params:
        assert (found["seed"], found["dataset"]) == ("0", "tiles")
        assert (found["factor.level"], found["factor.dataset"]) == ("mine", "d")
        assert sorted(v for k, v in found.items() if re.fullmatch(r"f-1-\w{24}", k)) == [
            *("one", "two")
        ]


def level_of(metric: str) -> str:
    return metric.split("/")[1]
