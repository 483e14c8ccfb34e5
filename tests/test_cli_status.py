"""``coin-ray status`` and ``coin-ray why``: from the store, the journals and the runs alone."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from typer.testing import Result

from coin_ray.cli.verbs.status import history
from coin_ray.execution.trial_log import TrialLog, runs_folder, with_proposals
from coin_ray.store import lease
from coin_ray.store.artifacts import Store
from coin_ray.tracking.journal import Journal
from coin_ray.tracking.lines import parsed
from tests.cli_calls import call, cell_of, enter, fill, stages_of, study_of

STUDY = """
study: small
extends: mini
seeds: 1
baseline: {rounds.count: 1, infer.redraw: false}
data: {generated: {train: 1, test: 1, size: 64}}
factors:
  lambda:
    baseline: "0.1"
    levels:
      "0.1": {ot.lambda: 0.1}
      "0.3": {ot.lambda: 0.3}
      "1.0": {ot.lambda: 1.0}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch, STUDY)


def journal(folder: Path, *events: dict[str, object]) -> None:
    log = Journal(folder / ".coin-ray" / "journal" / "small-mini-123.jsonl")
    tags = {"study": "small", "profile": "mini", "dataset": "generated"}
    tags |= {"runs": study_of(folder).run_name}
    log.append({"event": "StudyDescribed", "name": "small", "tags": tags})
    for event in events:
        log.append(event)
    log.close()


def who(folder: Path, level: str) -> dict[str, object]:
    """The fields of a cell's events."""
    cell = cell_of(study_of(folder), level)
    return {"cell": cell.key_label, "level": level, "data": cell.data.name, "seed": cell.seed}


def claim(folder: Path, level: str, stage: str, silent: float = 0.0) -> None:
    """Somebody on another machine is at a stage of a level."""
    import os

    (own,) = stages_of(folder, level)
    key = next(key for key in own.missing.values() if key.stage == stage)
    path = Store(folder / ".coin-ray" / "store").claim(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("node7:4242:token")
    os.utime(path, (0, time.time() - silent))


def rows(done: Result) -> dict[str, list[str]]:
    return {li.split()[0]: li.split()[1:] for li in done.stdout.splitlines() if li.strip()}


def test_each_cell_of_a_study_has_its_state(folder: Path) -> None:
    fill(folder, "0.1")
    fill(folder, "0.3", leave_out=("round", "predict", "evaluate", "masks", "score"))
    claim(folder, "0.3", "round")
    journal(
        folder,
        {"event": "StudyStarted", "study": "small", "cells": 3},
        {"event": "CellStarted", **who(folder, "0.3")},
        {"event": "CellStarted", **who(folder, "1.0")},
        {"event": "CellFailed", **who(folder, "1.0"), "cause": "OutOfMemoryError: no"},
    )
    done = call("status", "s.yaml")
    assert done.exit_code == 0, done.output
    found = rows(done)
    assert found["0.1"][2:] == ["finished", "27", "of", "27"]
    assert found["0.3"][2] == "running" and "at round round1-seed0" in done.output
    assert found["1.0"][2] == "failed" and "OutOfMemoryError: no" in done.output
    assert "1 running, 1 failed, 1 finished" in done.output
    assert "at work: round round1-seed0 (node7, process 4242, heartbeat " in done.output
    table = [li for li in done.output.splitlines() if not li.startswith("results: ")]
    assert max(map(len, table)) <= 120


def test_a_dead_owner_and_an_edited_study(folder: Path) -> None:
    fill(folder, "0.1")
    claim(folder, "0.3", "transport", silent=lease.STALE + 5)
    journal(
        folder,
        {"event": "StudyStarted", "study": "small", "cells": 3},
        {"event": "CellFinished", **who(folder, "0.1"), "metrics": {}},
        {"event": "CellLeftOut", **who(folder, "1.0"), "reason": "screened out"},
    )
    text = (folder / "s.yaml").read_text()
    (folder / "s.yaml").write_text(text.replace("baseline: {", "baseline: {student.ema: 0.5, ", 1))
    done = call("status", "s.yaml")
    found = rows(done)
    assert found["0.3"][2] == "missing" and "at work" not in done.output
    assert found["0.1"][2] == "missing" and "have changed since it ran" in done.output
    assert found["1.0"][2:4] == ["left", "out"] and "screened out" in done.output


def test_all_studies_of_a_workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, "0.1")
    name = study_of(folder).run_name
    for level in ("0.1", "0.3"):
        place = folder / ".coin-ray" / "runs" / name / str(who(folder, level)["cell"])
        place.mkdir(parents=True)
        (place / "metrics.json").write_text(json.dumps({"rows": []}))
    other = folder / ".coin-ray" / "runs" / "untracked-mini-x" / "a"
    other.mkdir(parents=True)
    (other / "metrics.json").write_text("{}")
    started = {"event": "StudyStarted", "study": "small", "cells": 3}
    failed = {"event": "CellFailed", **who(folder, "1.0"), "cause": "no"}
    journal(folder, started, failed)
    assert rows(call("status"))[name][-1] == "running"  # just heard of
    monkeypatch.setattr("coin_ray.cli.verbs.status.QUIET", 0.0)
    found = rows(call("status"))
    assert found[name][:3] == ["3", "2", "1"] and "stopped;" in found[name]
    assert found["untracked-mini-x"][:2] == ["?", "1"]
    claim(folder, "1.0", "transport")
    assert rows(call("status"))[name][-1] == "running"
    journal(folder, {"event": "StudyFinished", "study": "small", "computed": 1, "reused": 1})
    assert rows(call("status"))[name][-1] == "ended"


def test_a_restart_forgets_earlier_failures() -> None:
    cell = {"cell": "a", "level": "l", "data": "d", "seed": 0, "time": 5}
    tags = {"study": "small", "profile": "mini", "dataset": "x, y"}
    name, told = history(
        parsed(row)
        for row in [
            {"event": "StudyDescribed", "name": "n", "tags": tags, "time": 4},
            {"event": "CellFailed", "cause": "no", **cell},
            {"event": "StudyFinished", "study": "s", "computed": 0, "reused": 0, "time": 6},
            {"event": "StudyStarted", "study": "s", "cells": 2, "time": 7},
            {"event": "KindOfALaterVersion", "time": 7},
            {"event": "CellStarted", **cell, "time": 8},
        ]
    )
    assert name == "small-mini-x+y"
    assert (told.open, told.total, told.time) == (True, 2, 8)
    assert told.cells["a"].state == "running" and not told.of("failed")


def test_a_cell_that_was_ended_early_is_finished(folder: Path) -> None:
    journal(
        folder,
        {"event": "StudyStarted", "study": "small", "cells": 3},
        {"event": "CellFinished", **who(folder, "0.3"), "rounds": 0},
        {"event": "CellFinished", **who(folder, "1.0"), "cell": "of other settings", "rounds": 0},
    )
    done = call("status", "s.yaml")
    assert rows(done)["0.3"][2] == "finished" and "ended after round 0" in done.output
    assert rows(done)["1.0"][2] == "missing" and "have changed since it ran" in done.output


def test_status_needs_a_workspace_and_no_ray(folder: Path) -> None:
    done = call("status", "--workspace", "nowhere")
    assert done.exit_code == 2 and "there is no workspace" in done.stderr
    (folder / ".coin-ray").mkdir()
    assert "no study has run in" in call("status").output
    import subprocess

    code = (
        "import sys\nfrom coin_ray.cli import app\n"
        "try:\n    app(['status', 's.yaml'])\nexcept SystemExit as e:\n    assert not e.code\n"
        "assert not {'ray', 'torch', 'mlflow', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- why


def test_why_a_cell_is_to_be_computed(folder: Path) -> None:
    fill(folder, "0.1", "0.3")
    done = call("why", "1.0", "s.yaml")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    name = cell_of(study_of(folder), "1.0").key_label
    assert lines[0] == f"{name}: 16 of 27 stages are to be computed"
    assert lines[1].startswith("  transport of ") and "nearest stored one differs in" in lines[1]
    assert lines[2].strip() in ("lambda  here 1.0, stored 0.3", "lambda  here 1.0, stored 0.1")
    assert lines[3] == "  14 more follow from these"
    name = cell_of(study_of(folder), "0.3").key_label
    assert call("why", name, "s.yaml").stdout == (f"{name}: all 27 stages are stored\n")


def test_why_follows_a_difference_upstream_to_where_it_begins(folder: Path) -> None:
    fill(folder, "0.1")
    done = call("why", "round", "s.yaml", "--set", "uss.zoom=3.0", "--set", "student.lr=0.5")
    text = done.stdout
    assert "round: 3 of 3 are to be computed" in text
    assert "lr  here 0.5, stored 0.003" in text
    assert "features: zoom  here 3.0, stored 2.0" in text
    assert "masks" not in text and "select" not in text  # they differ because of these


def test_why_names_another_seed_and_another_image(folder: Path) -> None:
    fill(folder, "0.1", "0.3", "1.0")
    text = call("why", "round", "s.yaml", "--seeds", "0,5").stdout
    assert "round: 3 of 6 are to be computed" in text and "seed  here 5, stored 0" in text
    tiles = folder / ".coin-ray" / "data"
    image = next(path for path in tiles.glob("*/test/**/*.png") if "label" not in str(path))
    from PIL import Image

    with Image.open(image) as old:
        old.transpose(Image.Transpose.ROTATE_180).save(folder / "turned.png")
    image.write_bytes((folder / "turned.png").read_bytes())
    text = call("why", "predict", "s.yaml").stdout
    assert "the pixels of the image" in text and "seed" not in text


def test_why_of_an_empty_store_and_of_what_is_not_needed(folder: Path) -> None:
    assert "none of this stage is stored" in call("why", "transport", "s.yaml").stdout
    fill(folder, "0.1", "0.3", "1.0")
    done = call("store", "gc", "--quota", "0")
    assert "features: 2 artifacts" in done.stdout
    text = call("why", "features", "s.yaml").stdout
    assert text == "features: 0 of 2 are stored; what the other 2 were needed for is stored\n"
    # The features have gone, so the way back to them is said to have gone too.
    text = call("why", "centroids", "s.yaml", "--set", "uss.normalise=none").stdout
    assert "normalise  here none, stored whiten" in text


def test_why_of_a_name_that_is_none(folder: Path) -> None:
    done = call("why", "featurs", "s.yaml")
    assert done.exit_code == 2 and "did you mean 'features'?" in done.stderr


def test_why_knows_the_trials_of_a_search(folder: Path) -> None:
    space = "design: search\ntrials: 2\nspace: {ot.lambda: {log: [0.01, 3.0]}}\n"
    (folder / "s.yaml").write_text(STUDY.partition("factors:")[0] + space)
    study, workspace = study_of(folder), folder / ".coin-ray"
    runs = runs_folder(study, workspace)
    TrialLog(study, runs).propose({"ot.lambda": 0.1})
    cell = cell_of(with_proposals(study, runs), "ot.lambda 0.1")
    for name in ("ot.lambda 0.1", cell.key_label):
        assert call("why", name, "s.yaml").stdout.startswith(f"{cell.key_label}: 27 of 27 stages")
    assert "round: 2 of 2 are to be computed" in call("why", "round", "s.yaml").stdout
    assert "did you mean 'ot.lambda 0.1'?" in call("why", "ot.lambda 0.2", "s.yaml").stderr
    # Its student may be asked for as any other level's.
    done = call("export", "s.yaml:ot.lambda 0.1", "--out", "student.safetensors")
    assert done.exit_code == 2 and "this cell has not finished" in done.stderr


def test_of_a_journal_only_what_tells_of_a_state_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables and settings of every cell are nearly all of its bytes."""
    from coin_ray.tracking import journal as journals

    own, read = who(folder, "0.1"), []
    table = {"event": "Table", "name": "per_image", "rows": [{"aji": 0.5}] * 800}
    journal(
        folder,
        {"event": "StudyStarted", "study": "small", "cells": 3},
        {"event": "CellStarted", **own},
        *[{**table, "cell": own["cell"], "run": "r"}] * 5,
        {"event": "CellFinished", **own, "metrics": {}},
    )
    whole = journals._parsed
    monkeypatch.setattr(journals, "_parsed", lambda line: read.append(len(line)) or whole(line))
    result = call("status")
    assert result.exit_code == 0 and "small-mini" in result.output
    assert len(read) == 4 and max(read) < 1000
