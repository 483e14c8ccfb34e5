"""What arrives in MLflow (a small sqlite store), also after crashes, outages and replays."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from coin_ray import safe
from coin_ray.api.recording import Recorder
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.events.tracked import Table
from coin_ray.pipeline.settings import Cell, dotted_fields
from coin_ray.tracking import mlflow_writer, replay
from coin_ray.tracking import tracker as tracker_module
from coin_ray.tracking.describe import cell_digest, describe_cells, describe_study, study_event
from coin_ray.tracking.lines import Line, read_checked
from coin_ray.tracking.mlflow_store import (
    CELL_TAG,
    alone,
    connect,
    locked,
    study_runs,
    tracking_uri,
)
from coin_ray.tracking.mlflow_writer import MlflowWriter
from coin_ray.tracking.records import STUDY, RunRecord, fold
from coin_ray.tracking.records import name as key
from coin_ray.tracking.replay import Replay, journal_path, study_identity, sync_journals
from coin_ray.tracking.tracker import Tracker
from tests.hostile import markdown_text
from tests.tracking_study import LEVELS, ROUNDS, info, run_events, study

# One worker for all files that open MLflow: it takes seconds to import and its tables as long.
AWAY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


@pytest.fixture(autouse=True)
def no_tracker_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests of this file: making its tables takes a second. A blank in the path,
    because database and artifact addresses have to carry it."""
    return tmp_path_factory.mktemp("work space")


def record_run(
    workspace: Path, digest: str, levels: tuple[str, ...] = LEVELS, **options: Any
) -> str:
    """An uninterrupted run of the small study; returns its identity."""
    tracker = Tracker(workspace, info(digest, levels=levels), **options)
    for event in run_events(workspace / "files", levels=levels):
        tracker.record(event)
    tracker.close()
    return tracker.study


def stored(workspace: Path, study_id: str) -> dict[str, dict[str, Any]]:
    """All that the store says of a study, run by run name, without ids and clock times."""
    client = connect(workspace, tracking_uri(workspace))
    experiment = client.get_experiment_by_name("coin-ray")
    found = {}
    for run in study_runs(client, experiment.experiment_id, study_id):
        assert run.info.run_name not in found, "two runs of one cell"
        history = {
            metric: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, metric)]
            for metric in run.data.metrics
        }
        root = Path(workspace / "artifacts" / run.info.run_id / "artifacts")
        files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
        found[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": tags,
            "metrics": {metric: sorted(points) for metric, points in history.items()},
            "files": files,
            "id": run.info.run_id,
            "parent": run.data.tags.get("mlflow.parentRunId"),
        }
    return found


def without_ids(found: dict[str, dict[str, Any]], study_id: str) -> str:
    """Comparable between studies that differ in their identity only."""
    plain = {
        name: {k: v for k, v in run.items() if k not in ("id", "parent")}
        for name, run in found.items()
    }
    for run in plain.values():
        tags = sorted(run["tags"].items())  # in whatever order they came
        run["tags"] = {k: v for k, v in tags if k != "coin_ray.written"}
    digest = study_id.rsplit("-", 1)[1]
    return repr(sorted(plain.items())).replace(digest, "DIGEST")


@pytest.fixture(scope="module")
def complete(workspace: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    study_id = record_run(workspace, "complete")
    return study_id, stored(workspace, study_id)


Complete = tuple[str, dict[str, dict[str, Any]]]
PARENT = "uss_backbones (mini, tiles)"
CELL = "mae · tiles · seed 0"


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


class Crash(Exception):
    """Not one of the tracker's own errors: stands for a killed driver."""


class Crashing:
    """A client that stops the driver at its n-th call, before or after the call takes effect."""

    def __init__(self, client: Any, at: int, late: bool) -> None:
        self.client, self.left, self.late = client, at, late

    def __getattr__(self, method: str) -> Any:
        return self.around(getattr(self.client, method))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.late:
                raise Crash
            result = function(*args, **kwargs)
            if self.left == 0:
                raise Crash
            return result

        return call


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_leaves_what_an_uninterrupted_run_leaves(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    whole = record_run(workspace, f"whole{int(late)}", levels=("mae",))
    wanted = without_ids(stored(workspace, whole), whole)
    recorded = journal_path(workspace, whole).read_text()
    # Every other call: what is not hit before it takes effect is hit after it.
    calls = 0 if late else -1
    crashed = True
    while crashed:
        calls += 2
        study_id = whole.replace("whole", f"crash{calls}")
        path = tmp_path / f"{study_id}.jsonl"
        path.write_text(recorded.replace("whole", f"crash{calls}"))
        writer = MlflowWriter(workspace, study_id)
        writer.open()
        crashing = writer._client = Crashing(writer._client, calls, late)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(mlflow_writer, "attach", crashing.around(mlflow_writer.attach))
                Replay(path, writer).run()
            crashed = False
        except Crash:
            Replay(path, MlflowWriter(workspace, study_id)).run()
        if calls % 3 == 0 or not crashed:  # reading a study back is the slow part
            assert without_ids(stored(workspace, study_id), study_id) == wanted
    assert calls > 10  # every kind of call was hit


def test_an_interrupted_study_that_is_run_again_has_one_run_a_cell(workspace: Path) -> None:
    happening = list(run_events(workspace / "files"))
    half = [e["event"] for e in happening].index("CellFinished") + 3
    tracker = Tracker(workspace, info("killed"))
    for event in happening[:half]:
        tracker.record(event)
    assert tracker.sync()
    assert {run["status"] for run in stored(workspace, tracker.study).values()} == {
        "RUNNING",
        "FINISHED",
    }
    tracker.close()  # and no StudyFinished: the driver is gone
    assert record_run(workspace, "killed") == tracker.study
    runs = stored(workspace, tracker.study)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert runs[CELL]["metrics"]["aji"] == [(1, 0.51), (2, 0.52)]


def test_a_study_that_gained_a_level_is_the_same_study(workspace: Path) -> None:
    study_id = record_run(workspace, "edited", levels=("mae",))
    before = stored(workspace, study_id)
    assert record_run(workspace, "edited", levels=("mae", "none")) == study_id
    after = stored(workspace, study_id)
    assert len(after) == len(before) + 1
    assert after[CELL] == before[CELL]
    assert after[PARENT]["id"] == before[PARENT]["id"]
    assert after[PARENT]["tags"]["factor.backbone"] == '["mae", "none"]'


def test_a_study_runs_on_while_the_tracker_is_away(workspace: Path) -> None:
    said: list[str] = []
    start = time.monotonic()
    uri = AWAY.replace("//", "//user:secret@")
    tracker = Tracker(workspace, info("away"), uri=uri, warn=said.append)
    for event in run_events(workspace / "files"):
        tracker.record(event)
    assert time.monotonic() - start < 5  # recording does not wait for anybody
    assert tracker.close() is False
    assert len(said) == 1
    assert "track sync" in said[0]
    assert "secret" not in said[0]
    synced = {done.study: done for done in sync_journals(workspace)}[tracker.study]
    assert (synced.runs, synced.written) == (3, 3)
    assert stored(workspace, tracker.study)[CELL]["status"] == "FINISHED"


def test_a_file_that_is_gone_is_named_and_costs_nothing_else(workspace: Path) -> None:
    tracker = Tracker(workspace, info("gone"), uri=AWAY, warn=lambda _: None)
    for event in run_events(workspace / "gone"):
        tracker.record(event)
    tracker.close()
    (workspace / "gone" / "overlay.png").unlink()
    synced = {done.study: done for done in sync_journals(workspace)}[tracker.study]
    assert synced.missing == (str(workspace / "gone" / "overlay.png"),)
    assert "per_image.csv" in stored(workspace, tracker.study)[CELL]["files"]


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


@pytest.mark.parametrize("name", ["it's", 'say "x"', "' OR 1=1 --", "a b", "%41?#"])
def test_a_filter_and_an_address_hold_any_name(name: str, tmp_path: Path) -> None:
    from mlflow.utils.search_utils import SearchUtils
    from sqlalchemy.engine import make_url

    (found,) = SearchUtils.parse_search_filter(f"tags.study = {safe.literal(name)}")
    assert found["value"] == name
    assert make_url(tracking_uri(tmp_path / name)).database == str(tmp_path / name / "mlflow.db")


def test_no_filter_holds_both_kinds_of_quotes() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        safe.literal("'\"")


def test_notes_and_tables_are_the_text_that_was_given() -> None:
    told = info("notes") | {"question": "<b>*any*</b>", "command": "coin-ray sweep '```'"}
    note, tags = markdown_text(study_event(told).tags["mlflow.note.content"])
    assert "<b>*any*</b>" in note and "coin-ray sweep '```'" in note
    assert not tags & {"b", "em"}
    rows = [{"image": "=1+1", "value": -0.5}]
    records: dict[str, RunRecord] = {}
    fold(records, Line(1, event=Table("t", rows)))
    assert records[STUDY].texts["t.csv"] == "image,value\n'=1+1,-0.5\n"
    assert json.loads(records[STUDY].texts["t.json"])["data"] == [["=1+1", -0.5]]


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


def test_identity_is_name_profile_and_data() -> None:
    assert study_identity(info("0123456789abcdef")) == "uss_backbones-mini-0123456789ab"
    alike = [
        {**info("x"), **changes}
        for changes in (
            {"study": "a_b"},
            {"study": "a-b"},
            {"study": "a b'c"},
            {"study": "a b_c"},
            {"study": "a", "profile": "b-mini"},
            {"study": "a-b", "profile": "mini"},
            {"study": "a_b", "overrides": {"student.iterations": 9}},
            {"study": "a_b", "overrides": {"student.iterations": 8}},
            {"study": "a_b", "profile": "Mini"},
            {"study": "a_b", "profile": "../../mini"},
        )
    ]
    found = [study_identity(one) for one in alike]
    assert len({one.lower() for one in found}) == len(found) - 1  # a-b with mini is there twice
    assert all(re.fullmatch(r"[\w.-]{1,130}", one, re.ASCII) for one in found)


def test_cells_are_told_apart_by_configuration_data_and_seed() -> None:
    cells = study(seeds=(0, 1)).cells
    assert len({cell_digest(cell) for cell in cells}) == 4
    described = info("x", levels=("mae", "mae"))  # two levels that come to the same
    assert len({cell["digest"] for cell in described["cells"]}) == 2


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


def test_two_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    files = [tmp_path / folder / "s.yaml" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)
    made = replace(study(), source_files=tuple(map(str, files)))
    found = describe_study(made, data_digest="x")["sources"]
    assert found == {"s.yaml": "a", "1-s.yaml": "b"}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    with locked(tmp_path):
        yield tmp_path


def test_the_lock_is_the_workspaces(held: Path) -> None:
    with (held / "mlflow.lock").open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_with_a_server_nobody_waits_for_the_lock(held: Path) -> None:
    server = "http://127.0.0.1:9"
    connect(held, server)
    with alone(held, server):
        pass


def test_a_database_that_could_not_be_made_whole_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill or a full disk in the middle of MLflow's tables leaves no database at all."""
    import mlflow

    real, workspace = mlflow.MlflowClient, tmp_path / "w"

    def half(tracking_uri: str) -> None:
        Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half of its tables")
        raise OSError("No space left on device")

    monkeypatch.setattr(mlflow, "MlflowClient", half)
    with pytest.raises(OSError, match="No space"):
        connect(workspace, tracking_uri(workspace))
    assert not list(workspace.glob("*.db")) and not list(workspace.glob(".coin-ray-*"))
    monkeypatch.setattr(mlflow, "MlflowClient", real)
    assert connect(workspace, tracking_uri(workspace)).search_experiments()
    assert [path.name for path in workspace.glob("*.db")] == ["mlflow.db"]


class Watched:
    """A client that tells its calls, and in which threads they came."""

    def __init__(self, client: Any) -> None:
        self.client, self.calls = client, Counter[str]()
        self.threads: set[int] = set()

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            self.threads.add(threading.get_ident())
            return getattr(self.client, method)(*args, **kwargs)

        return call


def finished_cells(path: Path, digest: str, levels: tuple[str, ...]) -> Replay:
    """A replay of the journal of a run that nobody has written to MLflow."""
    tracker = Tracker(path, info(digest, levels=levels), uri=AWAY, warn=lambda text: None)
    for event in run_events(path / "files", levels=levels):
        tracker.record(event)
    tracker.close()
    return Replay(tracker._journal.path, MlflowWriter(path, tracker.study))


def test_a_cell_is_written_by_as_many_calls_whatever_else_is_there(tmp_path: Path) -> None:
    """It was looked for among all runs of its study, and its values were read back."""
    calls = []
    for number in (2, 12):
        levels = ("mae", *(f"other {i}" for i in range(number - 1)))
        replay = finished_cells(tmp_path / str(number), str(number), levels)
        replay.writer.open()
        watched = replay.writer._client = Watched(replay.writer._client)
        assert replay.run() == number + 1
        calls.append(watched.calls)
    each = {method: (calls[1][method] - calls[0][method]) / 10 for method in calls[1]}
    assert each.pop("log_batch") <= 2
    once = ("create_run", "set_terminated")
    assert each == dict.fromkeys(each, 0) | dict.fromkeys(once, 1)


def test_a_long_journal_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its tables at once took gigabytes."""
    whole = finished_cells(tmp_path, "whole", ("mae", *map(str, range(5))))
    whole.read()
    part = Replay(whole.path, whole.writer)
    taken = []

    def reading(*where: Any, most: int, **how: Any) -> Any:
        taken.append(read_checked(*where, most=most, **how))
        return taken[-1]

    monkeypatch.setattr(replay, "AT_ONCE", 2)
    monkeypatch.setattr(replay, "read_checked", reading)
    part.read()
    assert part.records == whole.records and part.dirty == whole.dirty
    assert (part.offset, part.number, part.bad) == (whole.offset, whole.number, whole.bad)
    assert max(len(lines.good) for lines in taken) == 2 and len(taken) > 6


def test_runs_are_looked_for_once_another_driver_was_here(tmp_path: Path) -> None:
    levels = ("mae", *map(str, range(5)))
    ours = finished_cells(tmp_path, "both", levels)
    theirs = Replay(ours.path, MlflowWriter(tmp_path, ours.writer.study))
    ours.read()
    ours.writer.open()
    watched = ours.writer._client = Watched(ours.writer._client)
    first, *rest = [run for run in sorted(ours.records) if run]
    for run in ("", first):
        ours.writer.write(ours.records[run])
    assert watched.calls["search_runs"] == 0, "nobody else was here"
    theirs.run()
    for run in rest:
        ours.writer.write(ours.records[run])
    assert watched.calls["search_runs"] == len(rest) and watched.calls["create_run"] == 2
    assert len(stored(tmp_path, ours.writer.study)) == 1 + len(levels)


def test_a_server_takes_several_runs_at_once_and_no_lock(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers of one workspace do not wait for each other where a server orders them."""
    monkeypatch.chdir(held)  # a server's artifacts lie where it runs
    replay = finished_cells(held / "w", "served", ("mae", *map(str, range(9))))
    real = connect(held / "mlflow", tracking_uri(held / "mlflow"))
    watched, both = Watched(real), threading.Barrier(2, timeout=60)
    create = real.create_run

    def together(*args: Any, **options: Any) -> Any:
        if CELL_TAG in options["tags"] and watched.calls["create_run"] in (2, 3):
            both.wait()  # for a second one that is on its way
        return create(*args, **options)

    monkeypatch.setattr(real, "create_run", together)
    monkeypatch.setattr(mlflow_writer, "connect", lambda *_: watched)
    monkeypatch.setattr(mlflow_writer, "study_runs", lambda *_: iter(()))
    monkeypatch.setattr(replay.writer, "uri", "http://served")
    monkeypatch.setattr(replay.writer, "workspace", held)
    assert replay.run() == 11 and 1 < len(watched.threads) <= 1 + mlflow_writer.THREADS


def test_an_ended_study_waits_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "LAST", 0.0)
    monkeypatch.setattr(Tracker, "_run", lambda self: None)  # it has come to nothing so far
    said: list[str] = []
    tracker = Tracker(tmp_path, info("late"), warn=said.append)
    for event in run_events(tmp_path / "files"):
        tracker.record(event)
    assert not tracker.close()
    (line,) = said
    assert "3 runs" in line and "within 0 s" in line and "track sync" in line
    (done,) = sync_journals(tmp_path)
    assert done.written == 3
