"""plan, sweep, report, predict and evaluate as a user calls them."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from coin_ray.data.sample import Sample
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.study.command_line import Request
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.study import resolve
from tests.cli_calls import call, cell_of, enter, study_of

STUDY = """
study: small
title: Small study
extends: mini
seeds: 1
data: {generated: {train: 1, test: 2, size: 128}}
factors:
  backbone:
    baseline: none
    levels:
      none: {uss.family: none}
      mae: {uss.family: mae}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch, STUDY)


def finish(
    study: ResolvedStudy, cell: StudyCell, samples: tuple[Sample, ...], runs: Path, value: float
) -> None:
    """Leave what a finished cell leaves."""
    place = runs / cell.key_label
    place.mkdir(parents=True, exist_ok=True)
    config = cell.config.model_dump(mode="json", by_alias=True)
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"image": image, "step": step, "metric": metric, "value": value + shift}
        for step in ("ucis", "step1", "round_1")
        for metric in ("aji", "pq", "dice", "miou")
        for image, shift in zip((sample.name for sample in samples), (0.0, 0.1), strict=True)
    ]
    who = {"cell": cell.key_label, "level": cell.level, "data": cell.data.name, "seed": cell.seed}
    told = {**who, "content": study.contents[cell.data.name]}
    (place / "metrics.json").write_text(json.dumps({"cell": told, "rows": rows}))


class Runs:
    """Stands for the cluster: finishes cells at once, or fails as told."""

    def __init__(self, failing: tuple[str, ...] = (), error: BaseException | None = None) -> None:
        self.failing, self.error = failing, error
        self.left_out: dict[str, str] = {}
        self.value = 0.5
        self.options: dict[str, Any] = {}
        self.study: ResolvedStudy | None = None

    def __call__(self, study: ResolvedStudy, data: Any, **options: Any) -> Any:
        from coin_ray.execution.study_run import Outcome

        self.study, self.options = study, options
        listen, failed = options["listen"], {}
        listen(events.StudyStarted(study.name, len(study.cells), {"features": 2}))
        if self.error is not None:
            raise self.error
        for cell in study.cells:
            who = (cell.key_label, cell.level, cell.data.name, cell.seed)
            if cell.level in self.failing:
                failed[cell.key_label] = "ValueError: no"
                listen(events.CellFailed(*who, cause="ValueError: no"))
                continue
            runs = options["workspace"] / "runs" / study.run_name
            finish(study, cell, data[cell.data.name].samples, runs, self.value)
            listen(events.CellFinished(*who, metrics={"agreement": 0.4}, seconds=1))
        traces = dict.fromkeys(failed.values(), "Traceback:\n  here")
        return Outcome(7, 3, failed, 65.0, study, traces=traces, left_out=self.left_out)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.setattr("coin_ray.execution.study_run.run_study", lambda *a, **k: fake(*a, **k))
    # The figures have tests of their own, and take most of a report's time.
    render = "coin_ray.report.figures.style.render"
    monkeypatch.setattr(render, lambda draw: (b"<svg/>", b"%PDF"))
    return fake


def test_sweep_prints_the_table_and_where_things_are(runs: Runs, folder: Path) -> None:
    done = call("sweep", "s.yaml", "--no-tracking", "--workers", "2", "--device", "cpu")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any("1 cell" in li or "2 cells; to compute: features 2" in li for li in lines)
    assert any(li.split()[:3] == ["none", "(baseline)", "2"] for li in lines)
    assert "7 stages computed, 3 reused, in 1:05" in lines
    assert runs.study is not None and runs.study.run_name == study_of(folder).run_name
    place = folder / ".coin-ray" / "runs" / runs.study.run_name
    assert f"label maps and overlays: {place}" in lines
    assert f"tables, figures and per-image values: {place / 'report' / 'report.html'}" in lines
    assert (runs.options["workers"], runs.options["device"]) == (2, "cpu")
    assert runs.options["workspace"] == folder / ".coin-ray"
    assert (place / "report" / "per_image.parquet").is_file()
    assert "coin-ray ui" not in done.output


def test_sweep_takes_its_workspace_from_the_environment(
    runs: Runs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COIN_RAY_WORKSPACE", str(folder / "elsewhere"))
    assert call("sweep", "s.yaml", "--no-tracking").exit_code == 0
    assert runs.options["workspace"] == folder / "elsewhere"


def test_failed_cells_are_reported_once_a_cause(runs: Runs) -> None:
    runs.failing = ("none", "mae")
    done = call("sweep", "s.yaml", "--no-tracking")
    assert done.exit_code == 1
    assert done.stderr.count("ValueError: no") == 1
    assert runs.study is not None
    names = ", ".join(cell.key_label for cell in runs.study.cells)
    assert f"failed: {names}: ValueError: no" in done.stderr
    assert done.stderr.count("  Traceback:\n    here\n") == 1
    assert "nothing to measure" in done.stdout


def test_what_was_left_out_is_said_once_a_reason(runs: Runs) -> None:
    why = "decided after 2 random seeds: worse"
    given = resolve("s.yaml", Request(seeds="4"))
    runs.left_out = {cell_of(given, "mae", seed).key_label: why for seed in (2, 3)}
    done = call("sweep", "s.yaml", "--no-tracking", "--seeds", "4")
    assert f"left out: mae ({why})" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "the same command continues"),
        (UserError("no weights", do="fetch them"), 2, "do: fetch them"),
    ],
)
def test_how_a_sweep_ends(runs: Runs, error: BaseException, code: int, text: str) -> None:
    runs.error = error
    done = call("sweep", "s.yaml", "--no-tracking")
    assert done.exit_code == code and text in done.stderr


def test_tracking_gets_the_events_the_tables_and_the_summary(
    runs: Runs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    levels: list[str] = []
    closed: list[bool] = []

    class Tracker:
        def __init__(self, workspace: Path, info: dict[str, Any]) -> None:
            told.append({"event": "info", "study": info["study"], "cells": len(info["cells"])})

        def add(self, cells: list[dict[str, Any]]) -> None:
            levels.extend(cell["cell"] for cell in cells)

        def record(self, event: dict[str, Any]) -> None:
            told.append(event)

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("coin_ray.tracking.tracker.Tracker", Tracker)
    done = call("sweep", "s.yaml")
    assert done.exit_code == 0, done.output
    assert len(levels) == 2
    assert {event["cell"] for event in told if event["event"] == "LevelMeasured"} == {*levels}
    told = [event for event in told if event.get("cell") not in levels]
    kinds = [event["event"] for event in told]
    assert kinds == [
        "info", "StudyStarted", *(["CellFinished", "Table", "Metrics"] * 2),
        *(["File"] * (len(kinds) - 11)), "Table", "Table", "Metrics",
    ]  # fmt: skip
    assert [event["name"] for event in told[-3:-1]] == ["summary", "comparisons"]
    assert (
        told[3]["cell"] == cell_of(study_of(folder), "none").key_label
        and len(told[3]["rows"]) == 24
    )
    files = {(event["folder"], Path(event["path"]).name) for event in told[8:-3]}
    page, figure = ("report", "report.html"), ("report/figures", "levels-generated.svg")
    assert {page, ("report", "report.tex"), figure} <= files and not told[8]["cell"]
    assert "compare the runs: coin-ray ui" in done.output
    runs.error = KeyboardInterrupt()
    call("sweep", "s.yaml")
    assert closed == [True, True]  # also after an interruption


def test_report(runs: Runs, folder: Path) -> None:
    missing = call("report", "s.yaml")
    assert missing.exit_code == 2 and "has not run with these options" in missing.stderr
    call("sweep", "s.yaml", "--no-tracking")
    done = call("report", "s.yaml")
    assert done.exit_code == 0 and "Small study" in done.output and ".550" in done.output
    place = re.search(r"wrote (\S+/report/report\.html)", done.output)
    assert place and Path(place[1]).is_file()
    written = call("report", "s.yaml", "--out", "deep/report")
    assert written.exit_code == 0 and "deep/report/report.html" in written.output
    out = folder / "deep" / "report"
    assert "| none (baseline) | 2 |" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert "coin-ray" in page and "Images of generated and the digests" in page
    # The study changes: its old numbers are not shown under the new settings.
    (folder / "s.yaml").write_text(STUDY + "baseline: {ot.lambda: 0.7}\n")
    edited = call("report", "s.yaml")
    assert ".550" not in edited.output and "nothing to measure" in edited.output
    assert "has run with other settings, and not again" in edited.output
    (folder / "s.yaml").write_text(STUDY)
    assert ".550" in call("report", "s.yaml").output


def test_a_study_with_other_settings_leaves_the_results_there_are(runs: Runs, folder: Path) -> None:
    call("sweep", "s.yaml", "--no-tracking")
    first = tree(folder / ".coin-ray" / "runs")
    options = ("s.yaml", "--set", "student.iterations=9")
    missing = call("report", *options)
    assert missing.exit_code == 2 and "has not run with these options" in missing.stderr
    runs.value = 0.7
    done = call("sweep", *options, "--no-tracking")
    assert done.exit_code == 0 and ".750" in done.output
    assert first.items() <= tree(folder / ".coin-ray" / "runs").items()
    assert ".550" in call("report", "s.yaml").output
    assert ".750" in call("report", *options).output
    # Other images under the same name, and the same images at another resolution.
    for size, mpp in ((64, "0.25"), (96, "0.25"), (64, "0.5")):
        tiles = folder / f"at{size}" / "tiles"
        if not tiles.is_dir():
            generated_samples(tiles, 2, size=size, seed=1)
        runs.value += 0.01
        there = tree(folder / ".coin-ray" / "runs")
        data = ("s.yaml", "--data", str(tiles), "--mpp", mpp)
        assert call("sweep", *data, "--no-tracking").exit_code == 0
        assert there.items() <= tree(folder / ".coin-ray" / "runs").items()
        assert f".{round(100 * runs.value) + 5}0" in call("report", *data).output


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_that_cannot_be_written_says_where_it_could(runs: Runs, folder: Path) -> None:
    assert call("sweep", "s.yaml", "--no-tracking").exit_code == 0
    assert runs.study is not None
    place = folder / ".coin-ray" / "runs" / runs.study.run_name / "report"
    shutil.rmtree(place)
    place.write_text("")  # to whoever writes, the same as a folder of a colleague
    done = call("report", "s.yaml")
    assert done.exit_code == 2 and "AJI" in done.stdout
    assert str(place) in done.stderr and "  do: write it elsewhere: --out FOLDER" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert call("report", "s.yaml", "--out", "mine").exit_code == 0


def test_a_full_disk_fails_the_cell_in_words() -> None:
    from coin_ray.execution.failures import cause, trace

    error = RuntimeError("task")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "store/tmp/1")
    assert cause(error).startswith("store/tmp/1: the disk is full; do: make room")
    assert trace(error) == ""
    told = UserError("bad image", where="a.png")
    told.__cause__ = ValueError("decoder")
    error.__cause__ = told
    assert cause(error) == "a.png: bad image" and trace(error) == ""


def test_segment_from_a_study_needs_a_finished_cell(folder: Path) -> None:
    from coin_ray.data.synthetic import generated_samples

    generated_samples(folder / "images", 1, size=64, seed=1)
    wrong = call("segment", "images", "--from", "s.yaml:mea", "--out", "o", "--mpp", "0.25")
    assert wrong.exit_code == 2 and "did you mean 'mae'?" in wrong.stderr
    done = call("segment", "images", "--from", "s.yaml", "--out", "o", "--mpp", "0.25")
    assert done.exit_code == 2 and "this cell has not finished" in done.stderr
    assert not (folder / "o").exists()
    gone = call("predict", "s.yaml", "--images", "images", "--out", "o")
    assert gone.exit_code == 2 and "coin-ray segment IMAGES --from STUDY[:LEVEL]" in gone.stderr


def bad_images(kind: str, folder: Path) -> str:
    """A folder with one image that cannot be used; what the message must name."""
    from PIL import Image

    (folder / "image").mkdir()
    (folder / "mask").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    path = folder / "image" / "tile.png"
    Image.fromarray(pixels).save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    if kind == "grey":
        Image.fromarray(pixels[..., 0]).save(path)
    if kind == "transparent":
        Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(path)
    if kind == "empty":
        path.unlink()
        return "no image"
    if kind == "mask":
        Image.fromarray(np.zeros((40, 49), np.uint16)).save(folder / "mask" / "tile.png")
        return "40 x 49"
    return "tile.png"


@pytest.mark.parametrize("kind", ["truncated", "grey", "transparent", "empty", "mask"])
def test_bad_images_stop_a_sweep_before_it_starts(kind: str, folder: Path):
    tiles = folder / "tiles"
    tiles.mkdir()
    named = bad_images(kind, tiles)
    result = call("sweep", "s.yaml", "--data", str(tiles), "--mpp", "0.25")
    assert result.exit_code == 2, result.output
    assert named in result.output
    assert "Traceback" not in result.output
    assert not (folder / ".coin-ray" / "store").exists()
    assert not (folder / ".coin-ray" / "journal").exists()


def test_a_gpu_that_is_not_there_stops_a_sweep_with_one_message(folder: Path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = call("sweep", "s.yaml", "--device", "cuda")
    assert result.exit_code == 2, result.output
    assert "GPU" in result.output
    assert not (folder / ".coin-ray" / "store").exists()
