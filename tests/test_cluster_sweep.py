"""Studies on a real Ray cluster of two CPUs: equal to one process, shared, resumable, isolated."""

from __future__ import annotations

import _thread
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coin_ray.cluster.executor import Cluster
from coin_ray.data.dataset import DataSet, DataSpec
from coin_ray.data.folder import find_samples
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.execution.cell_spec import with_rounds
from coin_ray.execution.local import Local
from coin_ray.execution.study_run import Outcome, run_study
from coin_ray.execution.trial_log import with_proposals
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.study.datasets import with_data
from coin_ray.study.resolved import Dimension, ResolvedStudy, Search, Stopping, StudyCell
from tests.process_trees import end_tree
from tests.test_pipeline_cell import config

pytestmark = pytest.mark.ray
TWO_CPUS = Cluster(cpus=2)
NONE, MAE = config(uss={"family": "none"}), config()
NONE_TINY: dict[str, Any] = {"uss": {"family": "none"}, "student": {"iterations": 2}}
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
            StudyCell(level, specs[name], 0, config, f"{level}-{name}-0", {"level": level})
            for level, name, config in cells
        ),
        report=("aji",),
    )


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    samples = tuple(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))
    return DataSet(tuple(s.image for s in samples), samples)


@pytest.fixture(scope="module")
def data(tiles: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataSet]:
    """Two data sets, of which one has a truncated image."""
    folder = tmp_path_factory.mktemp("truncated")
    raw = tiles.train[0].path.read_bytes()
    (folder / "cut.png").write_bytes(raw[: len(raw) // 2])
    cut = tuple(find_samples(folder, mpp=0.25))
    return {"tiles": tiles, "cut": DataSet(tuple(s.image for s in cut), cut)}


@pytest.fixture(scope="module")
def ran(data: dict[str, DataSet], tmp_path_factory: pytest.TempPathFactory):
    """A study of both; its workspace, outcome and events."""
    workspace = tmp_path_factory.mktemp("workspace")
    heard: list[events.Event] = []
    outcome = run_study(
        study(*GOOD, ("none", "cut", NONE)),
        data,
        workspace=workspace,
        listen=heard.append,
        executor=TWO_CPUS,
    )
    return workspace, outcome, heard


def test_the_cluster_computes_what_one_process_computes(ran, tiles: DataSet, tmp_path: Path):
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


def test_one_process_leaves_what_the_cluster_leaves(
    ran, data: dict[str, DataSet], tmp_path: Path
) -> None:
    """Byte for byte: label maps, metrics, settings, and the data of every stage; and every cell has
    the same ending."""
    workspace, outcome, heard = ran
    told: list[events.Event] = []
    given = study(*GOOD, ("none", "cut", NONE))
    here = run_study(given, data, workspace=tmp_path, listen=told.append, executor=Local())
    assert (here.computed, here.failed, here.left_out) == (
        outcome.computed,
        outcome.failed,
        outcome.left_out,
    )
    for kind in (events.CellFinished, events.CellFailed, events.RoundFinished, events.CellStarted):
        ends = [
            sorted(
                (e.cell, getattr(e, "rounds", 0), sorted(getattr(e, "metrics", {}).items()))
                for e in of
                if isinstance(e, kind)
            )
            for of in (heard, told)
        ]
        assert ends[0] == ends[1], kind
    for top, pattern in (("runs", "*/*/**/*"), ("store", "*/*/data.safetensors")):
        trees = [
            {
                path.relative_to(place): path.read_bytes()
                for path in (place / top).glob(pattern)
                if path.is_file() and path.name != "times.json"
            }
            for place in (workspace, tmp_path)
        ]
        assert len(trees[0]) > 10 and trees[0].keys() == trees[1].keys()
        assert [str(path) for path, data in trees[0].items() if trees[1][path] != data] == []


def test_a_failing_cell_is_reported_and_stops_no_other(ran):
    _, outcome, heard = ran
    assert set(outcome.failed) == {"none-cut-0"}
    assert "cut.png" in outcome.failed["none-cut-0"]
    done = {(e.level, e.data) for e in heard if isinstance(e, events.CellFinished)}
    assert done == {("none", "tiles"), ("mae", "tiles")}
    rounds = [(e.level, e.round) for e in heard if isinstance(e, events.RoundFinished)]
    assert sorted(rounds) == [("mae", 1), ("mae", 2), ("none", 1), ("none", 2)]


def test_a_cell_leaves_predictions_overlays_and_its_configuration(ran, tiles: DataSet):
    (folder,) = (ran[0] / "runs").glob("small-test-tiles-cut-*/mae-tiles-0")
    for sample in tiles.samples:
        assert (folder / "predictions" / f"{sample.name}.tif").stat().st_size > 0
        assert (folder / "overlays" / f"{sample.name}.png").stat().st_size > 0
    assert "family: mae" in (folder / "config.yaml").read_text()
    rounds = json.loads((folder / "metrics.json").read_text())["rounds"]
    told = [e.metrics for e in ran[2] if isinstance(e, events.RoundFinished) and e.level == "mae"]
    assert [r.pop("round") for r in rounds] == [1, 2] and rounds == told


def test_a_second_run_computes_nothing_and_another_threshold_no_features(ran, tiles: DataSet):
    workspace = ran[0]
    heard: list[events.Event] = []
    again = run_study(
        study(*GOOD), {"tiles": tiles}, workspace=workspace, listen=heard.append, executor=TWO_CPUS
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
        executor=TWO_CPUS,
        workers=2,
    )
    stages = {e.stage for e in heard if isinstance(e, events.StageFinished)}
    assert stages == {"select", "round", "predict", "masks", "score", "evaluate"}


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(tiles: DataSet, tmp_path: Path):
    with pytest.raises(UserError, match="asked to run on a GPU"):
        run_study(
            study(*GOOD),
            {"tiles": tiles},
            workspace=tmp_path,
            listen=lambda event: None,
            device="cuda",
            executor=TWO_CPUS,
        )
    assert not (tmp_path / "store").exists()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of four CPUs that is there already."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A head of our own on a free port, in the foreground, so that only it is stopped afterwards.
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--head", f"--port={port}", "--num-cpus=4", "--block"]
    command += ["--include-dashboard=true", "--dashboard-port=0", "--disable-usage-stats"]
    head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert head.stdout is not None
        said = []
        for line in head.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail(f"no head to connect to: {''.join(said)}")
        yield f"127.0.0.1:{port}"
    finally:
        end_tree(head)


@pytest.mark.timeout(900)  # five groups of processes to start, on a machine that may be busy
@pytest.mark.slow
def test_five_trials_of_two_workers_do_not_wait_for_each_other(
    address: str, tiles: DataSet, tmp_path: Path
):
    """Four CPUs: with a CPU for each driver, or as many drivers as there are trials, all of them
    would hold what the others' workers wait for, for ever."""
    import ray

    heard: list[events.Event] = []
    groups: list[dict[str, Any]] = []

    def listen(event: events.Event) -> None:
        heard.append(event)
        if isinstance(event, events.CellFinished):
            groups[:] = ray.util.placement_group_table().values()

    one_round = {**NONE_TINY, "rounds": {"count": 1}}
    rules = [config(**one_round, select={"rule": rule}) for rule in ("mean", "cv")]
    given = study(("mean", "tiles", rules[0]), ("cv", "tiles", rules[1]))
    cells = [
        replace(cell, seed=seed, key_label=f"{cell.level}-s{seed}")
        for seed in range(3)
        for cell in given.cells
    ]
    one = DataSet(tiles.train[:1], tiles.samples[:1])
    outcome = run_study(
        replace(given, cells=tuple(cells[:5]), seeds=(0, 1, 2)),
        {"tiles": one},
        workspace=tmp_path,
        listen=listen,
        executor=Cluster(address),
        workers=2,
    )
    assert outcome.failed == {} and outcome.computed > 0
    finished = [e.cell for e in heard if isinstance(e, events.CellFinished)]
    assert sorted(finished) == sorted(cell.key_label for cell in cells[:5])
    # Every level gets one seed before any gets two.
    started = [e.seed for e in heard if isinstance(e, events.CellStarted)]
    assert started == sorted(started)
    # Nothing of a trial's workers outlives it.
    left = [g for g in groups if g["state"] != "REMOVED" and "CPU" in str(g["bundles"])]
    assert left == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is an error here too; a process that a shell began in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_search_goes_on_where_it_was_interrupted(
    interruptible: None, address: str, tiles: DataSet, tmp_path: Path
):
    base = config(**NONE_TINY, rounds={"count": 0}, instances={"footprint": 11})
    space = (
        Dimension("instances.footprint", "int", (5, 11), step=2),
        Dimension("instances.min_area", "any", (10,), when={"instances.footprint": (5,)}),
    )
    given = replace(
        study(("baseline", "tiles", base)),
        design="search",
        search=Search(space, trials=3, sampler="grid"),
    )
    given = with_data(given, {"tiles": tiles})
    heard: list[events.Event] = []

    def run(stop: bool) -> Outcome:
        def listen(event: events.Event) -> None:
            heard.append(event)
            if stop and isinstance(event, events.CellFinished) and event.level != "baseline":
                _thread.interrupt_main()  # as Ctrl-C does

        return run_study(
            given, {"tiles": tiles}, workspace=tmp_path, listen=listen, executor=Cluster(address)
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop=True)
    assert isinstance(heard[-1], events.StudyFinished) and heard[-1].interrupted
    first = [e.level for e in heard if isinstance(e, events.CellsProposed)]
    outcome = run(stop=False)
    assert outcome.failed == {}
    proposed = [e.level for e in heard if isinstance(e, events.CellsProposed)]
    assert proposed[: len(first)] == first and len(set(proposed)) == len(proposed) == 3
    computed = [e.key for e in heard if isinstance(e, events.StageFinished)]
    assert len(set(computed)) == len(computed)
    runs = tmp_path / "runs" / given.run_name
    whole = with_proposals(given, runs)
    assert set(whole.levels) == {"baseline", *proposed}
    facts = {
        cell.level: json.loads((runs / cell.key_label / "metrics.json").read_text())["cell"]
        for cell in whole.cells
    }
    lines = (runs / "trials.jsonl").read_text().split("\n")
    results = [line for line in map(json.loads, filter(None, lines)) if "result" in line]
    for line in results:
        level = ", ".join(f"{key} {value}" for key, value in line["result"].items())
        assert line["value"] == facts[level]["agreement"]
    # A third time there is nothing to do, and no cluster is asked.
    again = run_study(
        given, {"tiles": tiles}, workspace=tmp_path, listen=heard.append, executor=Cluster()
    )
    assert again.computed == 0 and again.failed == {}


@pytest.mark.slow
def test_a_level_that_falls_behind_is_stopped_between_rounds(
    address: str, tiles: DataSet, tmp_path: Path
):
    good = config(**NONE_TINY, rounds={"count": 2})
    # Nothing but a student of two steps: it agrees with nobody.
    bad = config(**NONE_TINY, rounds={"count": 2}, infer={"stain_weight": 0.0})
    given = replace(
        study(("good", "tiles", good), ("bad", "tiles", bad)),
        stopping=Stopping("asha", grace=1, reduction=2),
        resources={"round": {"cpu": 4.0}},  # one after the other
    )
    for cell in (good, bad):  # so that there is one round to train: of the better one the second
        run = open_local(with_rounds(cell, 1), 0, tiles.train, tmp_path)
        run_local(run, tiles.samples)
    heard: list[events.Event] = []
    trained = []
    for _ in range(2):  # the second time it stays stopped, and nothing is computed
        heard.clear()
        outcome = run_study(
            given,
            {"tiles": tiles},
            workspace=tmp_path,
            listen=heard.append,
            executor=Cluster(address),
        )
        assert outcome.failed == {}
        ended = {e.level: e.rounds for e in heard if isinstance(e, events.CellFinished)}
        assert ended == {"good": None, "bad": 1}
        place = tmp_path / "runs" / with_data(given, {"tiles": tiles}).run_name / "bad-tiles-0"
        steps = {row["step"] for row in json.loads((place / "metrics.json").read_text())["rows"]}
        assert steps == {"ucis", "step1", "pseudo_labels", "round_1"}
        assert "count: 2" in (place / "config.yaml").read_text()
        trained.append(
            sum(e.stage == "round" for e in heard if isinstance(e, events.StageFinished))
        )
    assert trained == [1, 0]


def test_what_no_node_can_hold_is_refused_before_anything_starts(
    address: str, tiles: DataSet, tmp_path: Path
):
    given = replace(study(*GOOD), resources={"round": {"cpu": 2.0}, "features": {"memory": 9e6}})
    with pytest.raises(UserError, match=r"room for 3 workers of 2 CPU each .* room for 2") as error:
        run_study(
            given,
            {"tiles": tiles},
            workspace=tmp_path,
            listen=lambda event: None,
            executor=Cluster(address),
            workers=3,
        )
    assert "1 × (4 CPU, 0 GPU," in str(error.value) and "(resources.features)" in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_no_cluster_at_the_address_is_one_clear_message(tiles: DataSet, tmp_path: Path):
    with pytest.raises(UserError, match="no Ray cluster answers"):
        run_study(
            study(*GOOD),
            {"tiles": tiles},
            workspace=tmp_path,
            listen=lambda event: None,
            executor=Cluster("127.0.0.1:1"),
        )


def test_auto_does_not_wait_for_a_cluster_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("Ray tries a dead address for minutes")

    left = "127.0.0.1:1"  # in the file that a cluster leaves when it is killed
    monkeypatch.setattr(services, "get_ray_address_from_environment", lambda *_: left)
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(UserError, match="no Ray cluster answers at auto"):
        Cluster("auto").nodes()
