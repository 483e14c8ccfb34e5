"""What a person sees: MLflow's pages of a tracked study, as a real browser renders them."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from coin_ray.events.tracked import LevelMeasured, Metrics
from coin_ray.tracking.describe import describe_levels
from coin_ray.tracking.mlflow_store import connect, study_runs, tracking_uri
from coin_ray.tracking.server import experiment_address, running_server
from coin_ray.tracking.tracker import Tracker
from coin_ray.tracking.views import LEVELS as BY_LEVEL
from coin_ray.tracking.views import SEEDS
from tests.tracking_study import LEVELS, info, run_events, study

POINTS = {
    ("tiles", level): [
        {"round": r, "metric": "aji", "mean": m + r / 100, "low": m - 0.05, "high": m + 0.05}
        for r in (0, 1, 2)
    ]
    for level, m in (("none", 0.375), ("mae", 0.5))
}
"""Of each level by round, as ``report.values.spreads`` has them."""
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with a study of two cells in its MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(variable, raising=False)
        folder = tmp_path_factory.mktemp("workspace")
        tracker = Tracker(folder, info("browser"))
        for event in run_events(folder / "files"):
            tracker.record(event)
        levels = describe_levels(study(), POINTS, {which: [0, 1] for which in POINTS})
        tracker.add(list(levels.values()))
        for which, level in levels.items():
            for p in POINTS[which]:
                ends = {f"aji_{end}": p[end] for end in ("mean", "low", "high")}
                tracker.record(Metrics(ends, p["round"], level["cell"]).to_json())
            tracker.record(LevelMeasured(level["cell"]).to_json())
        assert tracker.close()
        yield folder


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[str]:
    with running_server(workspace, wait=240) as address:
        yield address


def rendered(url: str, profile: Path) -> list[str]:
    """The words that a page shows once it has loaded, element by element."""
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless=new", "--disable-gpu", "--no-sandbox"),  # no sandbox: also as root
        # A narrow window shows, and renders, the first columns only.
        *("--window-size=1500,1250", f"--user-data-dir={profile}"),
        # The page's own clock stands still while it waits for an answer of the server.
        *("--virtual-time-budget=40000", "--dump-dom", url),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # a group of its own, so that nothing of the browser stays behind
    )
    try:
        page, _ = process.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return [html.unescape(word) for word in re.split(r"(?:\s*<[^>]*>)+\s*", page)]


def in_a_row(words: list[str], *wanted: str) -> bool:
    """Whether ``wanted`` follow each other in ``words``: a row of a table."""
    starts = range(len(words) - len(wanted) + 1)
    return any(tuple(words[start : start + len(wanted)]) == wanted for start in starts)


def test_the_experiment_page_lists_the_cells(server: str, tmp_path: Path) -> None:
    words = rendered(experiment_address(server), tmp_path)
    assert {f"{level} · tiles · seed 0" for level in LEVELS} <= set(words)
    assert {"Metrics", "aji", "Parameters", "level", "dataset", "seed"} <= set(words)
    for level in LEVELS:
        assert in_a_row(words, "0.52", "tiles", level, "0")
    assert in_a_row(words, "2", "matching runs")  # without the study's own run


def test_the_levels_stand_by_the_lower_ends_of_their_intervals(server: str, tmp_path: Path) -> None:
    words = rendered(experiment_address(server, BY_LEVEL), tmp_path)
    assert in_a_row(words, "2", "matching runs")
    assert {"aji_mean", "aji_low", "aji_high", "level", "seeds"} <= set(words)
    assert in_a_row(words, "0.55", "0.45", "0.52", "tiles", "mae")
    assert in_a_row(words, "tiles", "none")
    assert words.index("mae · tiles") < words.index("none · tiles")  # the better one first


def test_the_charts_draw_each_level_with_its_interval_by_round(server: str, tmp_path: Path) -> None:
    words = rendered(experiment_address(server, BY_LEVEL, charts=True), tmp_path)
    lines = {f"{level} · tiles (aji_{end})" for level in LEVELS for end in ("mean", "low", "high")}
    assert lines <= set(words)


def test_the_charts_group_the_seeds_by_level(server: str, tmp_path: Path) -> None:
    words = rendered(experiment_address(server, SEEDS, charts=True), tmp_path)
    assert {f"Group: {level}" for level in LEVELS} <= set(words)
    assert {f"{level} (aji)" for level in LEVELS} <= set(words)


def test_all_cells_can_be_compared(workspace: Path, server: str, tmp_path: Path) -> None:
    client = connect(workspace, tracking_uri(workspace))
    experiment = client.get_experiment_by_name("coin-ray").experiment_id
    runs = {
        run.data.params["level"]: run.info.run_id
        for run in study_runs(client, experiment, "uss_backbones-mini-browser")
        if "level" in run.data.params
    }
    query = urllib.parse.urlencode(
        {
            "runs": json.dumps([runs[level] for level in LEVELS]),
            "experiments": json.dumps([experiment]),
            "workflowType": "machine_learning",
        },
        quote_via=urllib.parse.quote,
    )
    words = rendered(f"{server}/#/compare-runs?{query}", tmp_path)
    assert "Comparing 2 Runs from 1 Experiment" in words
    assert in_a_row(words, "Run Name:", *(f"{level} · tiles · seed 0" for level in LEVELS))
    assert in_a_row(words, "backbone", *LEVELS)
    assert in_a_row(words, "uss.family", *LEVELS)
    # The names of this table come first, then its values row by row.
    assert in_a_row(words, "Metrics", "Show diff only", "aji", "aji_ucis")
    assert in_a_row(words, "0.52", "0.52", "0.4", "0.4")
