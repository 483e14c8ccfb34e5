"""What a study leaves on its own run: the report's files and the comparison with the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from coin_ray.api.recording import Recorder, recorder
from coin_ray.errors import UserError
from coin_ray.events.events import CellFinished, RoundFinished
from coin_ray.execution.cell_spec import who
from coin_ray.report.values.study_results import Results
from coin_ray.tracking.describe import describe_study
from coin_ray.tracking.lines import read_checked
from coin_ray.tracking.records import STUDY, RunRecord, fold
from coin_ray.tracking.replay import journal_path
from coin_ray.tracking.tracker import Tracker
from tests.report_study import NUMBERS, finished

AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A finished study without its level 3.0."""
    return finished(tmp_path_factory.mktemp("study"), NUMBERS, without=["3.0"])


@pytest.fixture
def tracker(results: Results, tmp_path: Path) -> Iterator[Tracker]:
    info = describe_study(results.study, data_digest="d")
    made = Tracker(tmp_path, info, uri=AWAY, warn=lambda _: None)
    yield made
    made.close()


def parent(tracker: Tracker) -> RunRecord:
    records: dict[str, RunRecord] = {}
    for line in read_checked(journal_path(tracker.workspace, tracker.study)).good:
        fold(records, line)
    return records[STUDY]


def test_the_comparison_with_the_baseline_is_on_the_studys_own_run(
    results: Results, tracker: Tracker
) -> None:
    rows = results.compared.to_dicts()
    Recorder(tracker, results.study, results.runs).comparisons(rows)
    run = parent(tracker)
    (row,) = (r for r in rows if r["level"] == "1.0" and r["metric"] == "aji")
    expected = {
        "generated/1.0/aji_delta": row["delta"],
        "generated/1.0/aji_delta_low": row["low"],
        "generated/1.0/aji_delta_high": row["high"],
        "generated/1.0/aji_p_image_adjusted": row["p_image_adjusted"],
        "generated/1.0/aji_p_seed_adjusted": row["p_seed_adjusted"],
    }
    assert None not in expected.values()
    values = {name: value for (name, _), (value, _) in run.metrics.items()}
    assert {name: values[name] for name in expected} == expected
    # A level that is missing has no value, and its row with the reason.
    assert not [name for name in values if "/3.0/" in name]
    assert "missing: 3.0" in run.texts["comparisons.csv"]
    assert "comparisons.json" in run.tables


def test_the_report_keeps_its_folders(results: Results, tracker: Tracker, tmp_path: Path) -> None:
    files = [tmp_path / "report.html", tmp_path / "figures" / "levels.svg"]
    files[1].parent.mkdir()
    for file in files:
        file.write_text("x")
    Recorder(tracker, results.study, results.runs).report(files, [{"level": "1.0", "mean": 0.5}])
    run = parent(tracker)
    assert set(run.files) == {"report/report.html", "report/figures/levels.svg"}
    assert run.tables == {"summary.json"}


def levels_of(tracker: Tracker) -> dict[str, list[RunRecord]]:
    """Name of each level's run -> its records, in the journal's order."""
    records: dict[str, RunRecord] = {}
    for line in read_checked(journal_path(tracker.workspace, tracker.study)).good:
        fold(records, line)
    found: dict[str, list[RunRecord]] = {}
    for run in records.values():
        if "kind" in run.tags:
            found.setdefault(run.name, []).append(run)
    return found


def test_a_level_has_a_run_of_its_own_with_its_interval_by_round(
    results: Results, tracker: Tracker
) -> None:
    Recorder(tracker, results.study, results.runs).levels(results)
    found = levels_of(tracker)
    assert found.keys() == {f"{level} · generated" for level in ("off", "0.1", "1.0")}
    (run,) = found["1.0 · generated"]
    assert (run.status, run.tags["kind"], run.tags["seeds"]) == ("FINISHED", "level", "0, 1")
    assert (run.params["level"], run.params["weight"]) == ("1.0", "1.0")
    assert "seed" not in run.params
    values = {key: value for key, (value, _) in run.metrics.items()}
    assert {step for _, step in values} == {0, 1, 2}
    for step in (0, 1, 2):
        low, mean, high = (values[f"aji_{end}", step] for end in ("low", "mean", "high"))
        assert low < mean < high
    row = results.compared.filter(level="1.0", metric="aji").to_dicts()[0]
    assert values["aji_mean", 2] == pytest.approx(row["level_mean"])


def test_a_cell_has_its_values_by_round(results: Results, tracker: Tracker) -> None:
    """What MLflow draws a band of where cells are grouped by level."""
    cell = next(c for c in results.study.cells if (c.level, c.seed) == ("1.0", 0))
    record = Recorder(tracker, results.study, results.runs)
    for round_ in (1, 2):
        record(RoundFinished(**who(cell), round=round_, metrics={"loss": 1.0}, seconds=1.0))
    record(CellFinished(**who(cell), metrics={"aji": 0.75}, rounds=None))
    records: dict[str, RunRecord] = {}
    for line in read_checked(journal_path(tracker.workspace, tracker.study)).good:
        fold(records, line)
    (run,) = [run for run in records.values() if ("loss", 1) in run.metrics]
    found = {step: value for (name, step), (value, _) in run.metrics.items() if name == "aji"}
    own = results.frame.filter(cell=cell.key_label, metric="aji").group_by("step")
    means = dict(own.agg(pl.col("value").mean()).iter_rows())
    assert found == {0: means["step1"], 1: means["round_1"], 2: 0.75}


def test_a_level_of_more_seeds_is_a_run_of_its_own(
    results: Results, tracker: Tracker, tmp_path: Path
) -> None:
    record = Recorder(tracker, results.study, results.runs)
    fewer = replace(results, frame=results.frame.filter(seed=0))
    for told in (fewer, results, results):
        record.levels(told)
    for runs in levels_of(tracker).values():
        told = [(run.tags["kind"], run.tags["seeds"]) for run in runs]
        assert told == [("level before", "0"), ("level", "0, 1")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("Ray did not start"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_a_study_that_did_not_even_start_is_not_left_scheduled(
    error: BaseException,
    status: str,
    results: Results,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    study = replace(results.study, contents={spec.name: "d" for spec in results.study.data})
    with (
        pytest.raises(type(error)),
        recorder(study, tmp_path, results.runs, device="cpu", command="sweep"),
    ):
        raise error
    (journal,) = (tmp_path / "journal").iterdir()
    records: dict[str, RunRecord] = {}
    for line in read_checked(journal).good:
        fold(records, line)
    assert records[STUDY].status == status
