"""Studies on a real Ray cluster of two CPUs: equal to one process, shared, resumable, isolated."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from coin_ray.cluster.sweep import Resources, run_study
from coin_ray.data.folder import find_samples
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.pipeline import events
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.study.datasets import Resolved
from coin_ray.study.resolved import DataSpec, ResolvedStudy, StudyCell
from tests.test_pipeline_cell import config

pytestmark = pytest.mark.ray
TWO_CPUS = Resources(cpus=2)
NONE, MAE = config(uss={"family": "none"}), config()
GOOD = (("none", "tiles", NONE), ("mae", "tiles", MAE))


def study(*cells: tuple[str, str, Cell]) -> ResolvedStudy:
    """A study of (level, data set, configuration) cells."""
    specs = {name: DataSpec(name=name, kind="folder") for _, name, _ in cells}
    levels = tuple(dict.fromkeys(level for level, _, _ in cells))
    return ResolvedStudy(
        name="small",
        title="",
        profile="test",
        source_files=(),
        data=tuple(specs.values()),
        levels=levels,
        baseline_level=levels[0],
        cells=tuple(
            StudyCell(level, {"level": level}, specs[name], 0, config, f"{level}-{name}-0")
            for level, name, config in cells
        ),
        report=("aji",),
    )


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    samples = tuple(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))
    return Resolved(tuple(s.image for s in samples), samples)


@pytest.fixture(scope="module")
def ran(tiles: Resolved, tmp_path_factory: pytest.TempPathFactory):
    """A study of which one data set has a truncated image; its workspace, outcome and events."""
    workspace = tmp_path_factory.mktemp("workspace")
    folder = tmp_path_factory.mktemp("truncated")
    raw = tiles.train[0].path.read_bytes()
    (folder / "cut.png").write_bytes(raw[: len(raw) // 2])
    cut = tuple(find_samples(folder, mpp=0.25))
    heard: list[events.Event] = []
    outcome = run_study(
        study(*GOOD, ("none", "cut", NONE)),
        {"tiles": tiles, "cut": Resolved(tuple(s.image for s in cut), cut)},
        workspace=workspace,
        listen=heard.append,
        resources=TWO_CPUS,
    )
    return workspace, outcome, heard


def test_the_cluster_computes_what_one_process_computes(ran, tiles: Resolved, tmp_path: Path):
    import torch

    _, _, heard = ran
    run = open_local(MAE, 0, tiles.train, tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a task of one CPU: the order of float sums depends on it
    try:
        rows, facts = run_local(run, tiles.samples)
    finally:
        torch.set_num_threads(threads)
    final = {
        r["metric"]: [
            x["value"] for x in rows if (x["metric"], x["step"]) == (r["metric"], "round_2")
        ]
        for r in rows
    }
    mine = next(e for e in heard if isinstance(e, events.CellFinished) and e.level == "mae")
    assert mine.metrics["agreement"] == facts["agreement"]
    for metric in ("aji", "pq", "dice"):
        assert mine.metrics[metric] == pytest.approx(
            sum(final[metric]) / len(final[metric]), abs=1e-12
        )


def test_a_failing_cell_is_reported_and_stops_no_other(ran):
    _, outcome, heard = ran
    assert set(outcome.failed) == {"none-cut-0"}
    assert "cut.png" in outcome.failed["none-cut-0"]
    done = {(e.level, e.data) for e in heard if isinstance(e, events.CellFinished)}
    assert done == {("none", "tiles"), ("mae", "tiles")}
    rounds = [(e.level, e.round) for e in heard if isinstance(e, events.RoundFinished)]
    assert sorted(rounds) == [("mae", 1), ("mae", 2), ("none", 1), ("none", 2)]


def test_a_cell_leaves_predictions_overlays_and_its_configuration(ran, tiles: Resolved):
    folder = ran[0] / "runs" / "small-test-tiles+cut" / "mae-tiles-0"
    for sample in tiles.samples:
        assert (folder / "predictions" / f"{sample.name}.tif").stat().st_size > 0
        assert (folder / "overlays" / f"{sample.name}.png").stat().st_size > 0
    assert "family: mae" in (folder / "config.yaml").read_text()


def test_a_second_run_computes_nothing_and_another_threshold_no_features(ran, tiles: Resolved):
    workspace = ran[0]
    heard: list[events.Event] = []
    again = run_study(
        study(*GOOD), {"tiles": tiles}, workspace=workspace, listen=heard.append, resources=TWO_CPUS
    )
    assert again.computed == 0
    assert again.failed == {}
    assert again.reused > 0
    done = [e for e in heard if isinstance(e, events.CellFinished)]
    before = {e.level: e.metrics for e in ran[2] if isinstance(e, events.CellFinished)}
    assert {e.level: e.metrics for e in done} == before
    heard.clear()
    changed = config(select={"rule": "mean"})
    run_study(
        study(("mae", "tiles", changed)),
        {"tiles": tiles},
        workspace=workspace,
        listen=heard.append,
        resources=Resources(cpus=2, workers=2),
    )
    stages = {e.stage for e in heard if isinstance(e, events.StageFinished)}
    assert stages == {"select", "round", "predict", "score", "evaluate"}


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(tiles: Resolved, tmp_path: Path):
    with pytest.raises(UserError, match="asked to run on a GPU"):
        run_study(
            study(*GOOD),
            {"tiles": tiles},
            workspace=tmp_path,
            listen=lambda event: None,
            device="cuda",
            resources=TWO_CPUS,
        )
    assert not (tmp_path / "store").exists()


def test_an_existing_cluster_is_used_by_its_address(tiles: Resolved, tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A head of our own on a free port, in the foreground, so that only it is stopped afterwards.
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--head", f"--port={port}", "--num-cpus=2", "--block"]
    command += ["--include-dashboard=true", "--dashboard-port=0", "--disable-usage-stats"]
    head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        outcome = run_study(
            study(("none", "tiles", config(uss={"family": "none"}, rounds={"count": 1}))),
            {"tiles": tiles},
            workspace=tmp_path,
            listen=lambda event: None,
            address=f"127.0.0.1:{port}",
        )
        assert outcome.failed == {}
        assert outcome.computed > 0
    finally:
        processes = psutil.Process(head.pid).children(recursive=True)
        for process in [*processes, psutil.Process(head.pid)]:
            process.kill()
        head.wait(30)


def test_no_cluster_at_the_address_is_one_clear_message(tiles: Resolved, tmp_path: Path):
    with pytest.raises(UserError, match="no Ray cluster answers"):
        run_study(
            study(*GOOD),
            {"tiles": tiles},
            workspace=tmp_path,
            listen=lambda event: None,
            address="127.0.0.1:1",
        )
