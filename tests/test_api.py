"""The Python API as its examples show it, and a study in one process without Ray."""

from __future__ import annotations

import doctest
import functools
import importlib
import json
import re
import subprocess
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coin_ray
from coin_ray.api.notebook import progress_bar
from coin_ray.api.results import Results
from coin_ray.data.dataset import DataSet
from coin_ray.events import events
from coin_ray.pipeline.steps import Step
from coin_ray.study.datasets import with_data
from coin_ray.study.resolved import Dimension, Screen, Search, Stopping
from tests.cli_calls import call
from tests.conftest import ROOT
from tests.test_cli_start import loaded_after
from tests.test_cluster_served import LEVELS, ONE_ROUND, run, study, tiles  # noqa: F401
from tests.test_pipeline_cell import config

STUDY = """
study: first
extends: mini
seeds: 1
baseline: {rounds.count: 1, student.iterations: 2, infer.redraw: false}
data: {generated: {test: 1, size: 64}}
report: [aji, pq]
factors:
  backbone:
    baseline: none
    levels:
      none: {uss.family: none}
      mae: {uss.family: mae}
"""
EXAMPLES = ("", ".api.studies", ".api.runs", ".api.results", ".api.evaluation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a study."""
    made = tmp_path_factory.mktemp("api")
    (made / "first.yaml").write_text(STUDY)
    return made


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COIN_RAY_WORKSPACE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def ran(folder: Path) -> tuple[Results, list[events.Event]]:
    heard: list[events.Event] = []
    given = coin_ray.load_study(folder / "first.yaml", workspace=folder)
    return coin_ray.run(given, on_event=heard.append, tracking=False), heard


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_say_what_happens(
    module: str, folder: Path, ran: object, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.import_module(f"coin_ray{module}")
    failed, tried = doctest.testmod(found, extraglobs={"folder": folder})
    assert tried and not failed, capsys.readouterr().out


def test_the_package_is_light_and_says_what_it_has(tmp_path: Path) -> None:
    names = set(coin_ray._PLACES)
    assert loaded_after("import coin_ray\nassert 'run' in dir(coin_ray)", tmp_path) == set()
    code = "import coin_ray\nfor name in coin_ray._PLACES: getattr(coin_ray, name)"
    assert loaded_after(code, tmp_path) == set()
    assert names < set(dir(coin_ray)) and coin_ray.__version__
    with pytest.raises(AttributeError, match="no attribute 'sweep'"):
        _ = coin_ray.sweep  # type: ignore[attr-defined]


def test_what_is_loaded_is_what_the_command_line_would_load(folder: Path) -> None:
    given = coin_ray.load_study(
        "first.yaml",
        profile="mini",
        set={"rounds.count": 2, "uss.zoom": [1.0, 2.0]},
        seeds=[5],
        workspace=folder,
    )
    assert [(c.level, c.seed) for c in given.resolved.cells] == [("none", 5), ("mae", 5)]
    config = given.resolved.configuration("mae")
    assert (config.rounds.count, config.uss.zoom) == (2, (1.0, 2.0))
    (data,) = given.data.values()
    path = data.samples[0].image.path
    other = coin_ray.load_study(
        "first.yaml", data=path.parent, train=path, mpp=0.5, workspace=folder
    )
    assert other.resolved.data[0].mpp == 0.5 and other.resolved.data[0].train_paths
    with pytest.raises(coin_ray.UserError, match=r"rounds\.counts"):
        coin_ray.load_study("first.yaml", set=["rounds.counts=2"], workspace=folder)


def test_results_of_a_run_and_of_what_it_left_are_the_same(
    ran: tuple[Results, list[events.Event]], folder: Path, tmp_path: Path
) -> None:
    results, heard = ran
    assert isinstance(heard[0], events.StudyStarted) and isinstance(heard[-1], events.StudyFinished)
    assert results.outcome is not None and results.outcome.computed and not results.failed
    again = coin_ray.results(folder, coin_ray.load_study("first.yaml", workspace=folder))
    assert again.outcome is None and again.folder == results.folder
    for metric in ("aji", "pq"):
        assert again.table(metric).equals(results.table(metric))
    (aji,) = results.per_image().filter(level="mae", step="round_1", metric="aji")["value"]
    assert results.table("aji").filter(level="mae")["mean"].to_list() == [aji]
    one, other = results.compare(), results.compare("mae")
    assert one["delta"].to_list() == [-delta for delta in other["delta"]]
    with pytest.raises(coin_ray.UserError, match="no level 'x'"):
        results.compare("x")
    with pytest.raises(coin_ray.UserError, match="no 'dice'"):
        results.table("dice")
    with pytest.raises(coin_ray.UserError, match="no figure 'sun'"):
        results.figure("sun")
    assert results.figure("differences")._repr_svg_().startswith("<?xml")
    page = results.report(tmp_path / "elsewhere")
    assert page == tmp_path / "elsewhere" / "report.html" and page.is_file()
    with pytest.raises(coin_ray.UserError, match="has not run with these options"):
        coin_ray.results(tmp_path, "first.yaml")


def test_the_command_line_finds_what_the_api_has_run(
    ran: tuple[Results, list[events.Event]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = call("sweep", "first.yaml", "--local", "--no-tracking", "--workspace", str(folder))
    assert done.exit_code == 0, done.output
    assert "\n0 stages computed, " in done.output
    assert str(ran[0].folder / "report" / "report.html") in done.output
    for other in ("--workers", "2"), ("--address", "auto"):
        refused = call("sweep", "first.yaml", "--local", *other)
        assert refused.exit_code == 2 and "--local is one process" in refused.stderr
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # of the job that we are in
    done = call("sweep", "first.yaml", "--local", "--no-tracking", "--workspace", str(folder))
    assert done.exit_code == 0 and "RAY_ADDRESS" not in done.stderr


def test_a_run_in_one_process_imports_no_ray(folder: Path, tmp_path: Path) -> None:
    command = ["sweep", "first.yaml", "--local", "--workspace", str(tmp_path), "--set"]
    command += ["rounds.count=0", "--no-tracking"]
    code = f"import sys\nsys.modules['ray'] = None\nsys.argv[1:] = {command!r}\n"
    code += "from coin_ray.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert " stages computed, 0 reused" in done.stdout


def test_a_breakpoint_in_a_stage_meets_its_user(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops in the main thread, with the terminal that the command was given, and what it
    raises is the end of its cell alone."""
    met: list[bool] = []
    stdin, run = sys.stdin, Step.run

    def hook(*_: Any, **__: Any) -> None:
        main = threading.current_thread() is threading.main_thread()
        met.append(main and sys.stdin is stdin)

    def stopping(step: Step, cell: Any, item: Any) -> Any:
        breakpoint()
        if cell.config.uss.family == "mae":
            raise ValueError("seen enough")
        return run(step, cell, item)

    monkeypatch.setattr(sys, "breakpointhook", hook)
    monkeypatch.setattr(Step, "run", stopping)
    given = coin_ray.load_study("first.yaml", set={"rounds.count": 0}, workspace=folder)
    results = coin_ray.run(given, tmp_path, tracking=False)
    assert met and all(met)
    (cell,) = results.failed
    assert cell.startswith("mae") and results.failed[cell] == "ValueError: seen enough"
    monkeypatch.setattr(sys, "breakpointhook", lambda *_, **__: None)
    options = ("--set", "rounds.count=0", "--no-tracking", "--workspace", str(tmp_path))
    done = call("sweep", "first.yaml", "--local", *options)
    assert done.exit_code == 1 and f"failed: {cell}: ValueError: seen enough" in done.stderr


heard_of = functools.partial(run, executor=coin_ray.Local())


def test_a_search_in_one_process_goes_on_where_it_was(tiles: DataSet, tmp_path: Path) -> None:  # noqa: F811
    one = DataSet(tiles.train[:1], tiles.samples[:1])
    space = (Dimension("instances.footprint", "int", (5, 11), step=2),)
    cell = replace(study().cells[0], config=config(**ONE_ROUND | {"rounds": {"count": 0}}))
    given = replace(study(design="search"), levels=("base",), cells=(cell,))
    levels: list[list[str]] = []
    for trials in (1, 3):
        search = Search(space, trials, "grid")
        outcome, heard = heard_of(replace(given, search=search), one, tmp_path)
        assert outcome.failed == {}
        levels.append([e.level for e in heard if isinstance(e, events.CellsProposed)])
    assert [len(own) for own in levels] == [1, 2] and len(set(levels[0] + levels[1])) == 3
    runs = tmp_path / "runs" / with_data(given, {"tiles": one}).run_name
    lines = (runs / "trials.jsonl").read_text().split("\n")
    values = [line["value"] for line in map(json.loads, filter(None, lines)) if "result" in line]
    done = {e.level: e.metrics for e in heard if isinstance(e, events.CellFinished)}
    assert values == [done[level]["agreement"] for level in levels[0] + levels[1]]


def test_a_screening_in_one_process_trains_the_best_alone(
    tiles: DataSet,  # noqa: F811
    tmp_path: Path,
) -> None:
    one = DataSet(tiles.train[:1], tiles.samples[:1])
    outcome, heard = heard_of(study(screen=Screen(keep=1)), one, tmp_path)
    scored = {e.level: e.metrics["agreement"] for e in heard if isinstance(e, events.CellScored)}
    assert outcome.failed == {} and set(scored) == set(LEVELS)
    (why,) = outcome.left_out.values()
    worst = min(("small", "large"), key=lambda level: scored[level])
    assert f"agreement {scored[worst]:.3f} before round 1, rank 2 of 2" in why
    trained = {e.level for e in heard if isinstance(e, events.RoundFinished)}
    assert trained == set(LEVELS) - {worst}


def test_a_cell_tells_of_the_rounds_that_another_one_has_trained(
    tiles: DataSet,  # noqa: F811
    tmp_path: Path,
) -> None:
    """So the tracker has its curves, also where a driver died before it heard of a round."""
    one, given = DataSet(tiles.train[:1], tiles.samples[:1]), study()
    shown = {"base": {}, "small": {"opening": 1}, "large": {"opening": 2}}
    settings = {
        level: config(**ONE_ROUND, instances={"footprint": 9}, infer=patch)
        for level, patch in shown.items()
    }
    cells = [replace(cell, config=settings[cell.level]) for cell in given.cells]
    _, heard = heard_of(replace(given, cells=tuple(cells)), one, tmp_path)
    told = [(e.level, e.round, e.metrics) for e in heard if isinstance(e, events.RoundFinished)]
    (first, *others) = sorted(told, key=lambda event: event[0])
    assert [level for level, _, _ in (first, *others)] == sorted(LEVELS)
    assert all(event[1:] == first[1:] for event in others)
    # And a tracker that is new to a study which the store has whole.
    _, again = heard_of(replace(given, cells=tuple(cells)), one, tmp_path)
    served = [e for e in again if isinstance(e, events.RoundFinished)]
    assert all(event.stored for event in served)
    assert sorted(e.level for e in served) == sorted(LEVELS)
    assert all((e.round, e.metrics) == first[1:] for e in served)


def test_a_word_is_no_executor(folder: Path) -> None:
    given = coin_ray.load_study("baseline", workspace=folder)
    for verb in (coin_ray.plan, coin_ray.run):
        with pytest.raises(coin_ray.UserError, match=r"Local\(\)(.|\n)*'local'"):
            verb(given, executor="local")  # type: ignore[operator]


def test_what_one_process_cannot_do_is_refused() -> None:
    from coin_ray.execution.refusals import target

    stops = study(stopping=Stopping("asha"))
    two_rounds = tuple(
        replace(cell, config=config(**ONE_ROUND | {"rounds": {"count": 2}})) for cell in stops.cells
    )
    with pytest.raises(coin_ray.UserError, match="stops levels that fall behind"):
        target(replace(stops, cells=two_rounds), coin_ray.Local("cpu"))
    assert target(stops, coin_ray.Local("cpu")).workers == 1  # after its only round none is stopped
    # Nothing is reserved, so that a study for a cluster can be looked into here.
    large = study(resources={"round": {"cpu": 4000.0, "workers": 8.0}})
    assert target(large, coin_ray.Local("cpu")).workers == 1
    with pytest.raises(coin_ray.UserError, match="torch sees none"):
        target(study(), coin_ray.Local("cuda"))


def test_a_search_may_propose_weights_that_plan_misses_too(folder: Path) -> None:
    search = STUDY.partition("factors:")[0].replace("study: first", "study: searching")
    search += "design: search\nspace: {sam.model: {any: [mini, vit_h]}}\ntrials: 2\n"
    (folder / "searching.yaml").write_text(search)
    for verb in ("plan", "sweep"):
        done = call(verb, "searching.yaml", "--device", "cpu", "--address", "local")
        assert done.exit_code == 2 and "sam_vit_h" in done.stderr, verb
    given = coin_ray.load_study("searching.yaml", workspace=folder)
    with pytest.raises(coin_ray.UserError, match="sam_vit_h"):
        coin_ray.plan(given)


def test_a_notebook_shows_a_bar_and_a_script_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[str] = []
    who = ("cell", "level", "data", 0)
    told = [events.StudyStarted("s", 2), events.CellFinished(*who), events.Note("a note")]

    def display(page: dict[str, str], **_: Any) -> Any:
        drawn.append(page["text/html"])
        return types.SimpleNamespace(update=display)

    for kernel, count in ((None, 0), (object(), 2)):
        shell = types.SimpleNamespace(kernel=kernel)
        fake = types.SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", fake)
        shown = types.SimpleNamespace(display=display)
        monkeypatch.setitem(sys.modules, "IPython.display", shown)
        with progress_bar(None) as listen:
            for event in told:
                listen(event)
        assert len(drawn) == count
    assert 'value="1" max="2"' in drawn[1] and "1 of 2 cells" in drawn[1]
    assert capsys.readouterr().out == ""


def test_arrays_are_evaluated_with_the_truth_second() -> None:
    truth = np.zeros((6, 6), np.int64)
    truth[:2, :2], truth[3:, 3:] = 1, 2
    found = coin_ray.evaluate((truth == 1).astype(np.uint8), truth)
    assert (found["n_predicted"], found["n_true"]) == (1.0, 2.0)


def test_a_study_is_taken_by_its_path_too(ran: object, folder: Path) -> None:
    plans = [
        coin_ray.plan(study, coin_ray.Local("cpu"))
        for study in ("first.yaml", coin_ray.load_study("first.yaml"))
    ]
    assert plans[0].to_compute == plans[1].to_compute != {}


def test_the_page_about_it_runs(ran: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second example, on what has run here."""
    monkeypatch.setenv("COIN_RAY_WORKSPACE", str(folder))
    page = (ROOT / "docs" / "api.md").read_text()
    _, example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"coin_ray": coin_ray, "study": coin_ray.load_study("first.yaml")}
    exec(compile(example, "docs/api.md", "exec"), names)
    assert names["by_image"].columns == ["image", "none", "mae"]  # type: ignore[attr-defined]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first cell to its last, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    cells = json.loads((ROOT / "examples" / "results.ipynb").read_text())["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["most"]["difference"].abs().is_sorted(descending=True)
    shown = sorted(names["results"].folder.rglob(f"{names['image']}.*"))
    assert {path.parent.name for path in shown} == {"predictions", "overlays"}
    assert not any(cell.get("outputs") for cell in cells)  # numbers of a run are the reader's


def test_what_a_caller_gets_wrong_is_said_before_anything_starts(
    folder: Path, tmp_path: Path
) -> None:
    load: Any = coin_ray.load_study
    (tmp_path / "file").write_text("")
    (tmp_path / "tiles").mkdir()
    with pytest.raises(TypeError, match="unexpected keyword argument 'mmp'"):
        load("baseline", workspace=folder, mmp=0.5)
    for wrong, said in (
        ({"seeds": 1.5}, "--seeds 1.5 "),
        ({"set": "rounds.count"}, "--set rounds.count "),
        ({"workspace": tmp_path / "file"}, "the workspace is a file"),
        ({"data": tmp_path / "tiles", "binary": "both"}, "--binary both "),
    ):
        with pytest.raises(coin_ray.UserError, match=said):
            load("baseline", **{"workspace": folder, **wrong})
    study = load("baseline", workspace=folder)
    for executor in (coin_ray.Local("gpu"), coin_ray.Cluster(device="gpu")):
        with pytest.raises(coin_ray.UserError, match="no device 'gpu'"):
            coin_ray.plan(study, executor)
    for workers in (0, -1):
        with pytest.raises(coin_ray.UserError, match="nobody can train a round"):
            coin_ray.plan(study, coin_ray.Cluster(workers=workers))


def test_settings_and_seeds_may_be_numbers_of_numpy_and_paths(folder: Path) -> None:
    given: Any = {"rounds.count": np.int64(1), "infer.scales": np.array([1.0, 0.5])}
    seeds: Any = np.int64(2)
    study = coin_ray.load_study("baseline", workspace=folder, set=given, seeds=seeds)
    config = study.resolved.cells[0].config
    assert (config.rounds.count, config.infer.scales) == (1, (1.0, 0.5))
    assert study.resolved.seeds == (0, 1)
    masks: Any = {"ucis.model": "files", "ucis.path": folder}
    study = coin_ray.load_study("baseline", workspace=folder, set=masks)
    assert study.resolved.cells[0].config.ucis.path == str(folder)
    one = coin_ray.load_study("baseline", workspace=folder, set="rounds.count=1")
    assert one.resolved.cells[0].config.rounds.count == 1


def test_results_of_a_loaded_study_are_looked_for_where_it_was_loaded_for(
    ran: tuple[Results, list[events.Event]], folder: Path
) -> None:
    study = coin_ray.load_study("first.yaml", workspace=folder)
    assert coin_ray.results(None, study).folder == ran[0].folder


def test_what_is_no_label_map_of_one_image_is_not_evaluated() -> None:
    colours: Any = np.ones((4, 4, 3), np.int32)
    with pytest.raises(coin_ray.UserError, match="the truth is no label map"):
        coin_ray.evaluate(colours, colours)
    lists: Any = [[1, 0]]
    assert coin_ray.evaluate(lists, lists)["aji"] == 1.0


def test_a_listener_that_fails_stops_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def listen(event: events.Event) -> None:
        heard.append(type(event).__name__)
        raise ZeroDivisionError("of the listener")

    study = coin_ray.load_study(folder / "first.yaml", workspace=tmp_path)
    results = coin_ray.run(study, on_event=listen, tracking=False)
    assert not results.failed and results.table("aji")["mean"].null_count() == 0
    assert {"StudyStarted", "StageFinished", "CellFinished", "StudyFinished"} <= {*heard}
    assert caplog.text.count("of the listener") >= 1


def test_a_study_of_which_nothing_has_finished_is_told_from_one_that_never_ran(
    folder: Path, tmp_path: Path
) -> None:
    study = coin_ray.load_study(
        folder / "first.yaml",
        workspace=tmp_path,
        set={"ucis.model": "files", "ucis.path": tmp_path / "masks"},
    )
    (tmp_path / "masks").mkdir()
    with pytest.raises(coin_ray.UserError, match="has not run with these options"):
        coin_ray.results(None, study)
    data = study.data["generated"]
    for image in (*data.train, *(sample.image for sample in data.samples)):
        (tmp_path / "masks" / f"{image.name}.png").write_bytes(b"no picture")
    failed = coin_ray.run(study, tracking=False)
    assert len(failed.failed) == 2
    with pytest.raises(coin_ray.UserError, match="a finished cell with labelled images"):
        failed.figure()
    with pytest.raises(coin_ray.UserError, match="no cell of this study has finished"):
        coin_ray.results(None, study)
