"""Every cell has an ending, also where its trial has none. No cluster is started."""

from __future__ import annotations

import logging
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError

from coin_ray.cluster import event_pump, scoring
from coin_ray.cluster.event_pump import pumped
from coin_ray.cluster.hub import EventHub
from coin_ray.cluster.scoring import ActorSegmenter, NoSegmenter
from coin_ray.cluster.tasks import task
from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.execution.cell_runner import CellRunner
from coin_ray.execution.failures import Failure, cause, lost, trace
from coin_ray.execution.tally import Tally
from coin_ray.execution.trial_log import TrialLog
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.planning.machines import Request
from coin_ray.study.datasets import with_data
from tests.test_cluster_sweep import GOOD, NONE_TINY, study
from tests.test_pipeline_cell import config

LOST = Failure("the node died (tried 3 times)", "")


class Silent:
    """A cluster whose trials say nothing; ``failures`` is what Tune has of them."""

    workers = 1

    def __init__(self, failures: dict[str, Failure]) -> None:
        self.failures = failures

    def open(self) -> None: ...

    def give(self, job: str, specs: Any) -> None: ...

    def run(self, batch: Any) -> dict[str, Failure]:
        return self.failures


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    samples = tuple(generated_samples(tmp_path_factory.mktemp("tiles"), 1, size=96, seed=3))
    return DataSet(tuple(s.image for s in samples), samples)


def runner(
    given: Any, tiles: DataSet, workspace: Path, failures: dict[str, Failure]
) -> tuple[CellRunner, Tally, list[events.Event]]:
    heard: list[events.Event] = []
    told, book = Tally(heard.append), TrialLog(given, workspace / "runs")
    cluster: Any = Silent(failures)
    return CellRunner(given, {"tiles": tiles}, workspace, told, book, cluster, "cpu"), told, heard


def test_a_cell_whose_trial_died_before_its_first_word_has_failed(
    tiles: DataSet, tmp_path: Path
) -> None:
    given = with_data(study(*GOOD), {"tiles": tiles})
    none, mae = (cell.key_label for cell in given.cells)
    run, told, heard = runner(given, tiles, tmp_path, {none: LOST})
    run.finish("", given.cells)
    assert told.failed == {
        none: LOST.cause,
        mae: "its trial ended without a result and without a word",
    }
    assert sum(isinstance(event, events.CellFailed) for event in heard) == 2 and not told.waiting
    assert run.score("", given.cells) == {} and len(told.failed) == 2


def test_a_cell_that_was_not_heard_but_is_stored_has_finished(
    tiles: DataSet, tmp_path: Path
) -> None:
    cells = {level: config(**NONE_TINY, rounds={"count": 0}, instances={"footprint": size})
             for level, size in (("a", 9), ("b", 7))}  # fmt: skip
    given = with_data(study(*((level, "tiles", c) for level, c in cells.items())), {"tiles": tiles})
    labels = [cell.key_label for cell in given.cells]
    run, told, _ = runner(given, tiles, tmp_path, {})

    def compute(*_: Any, **__: Any) -> dict[str, Failure]:
        for cell in cells.values():
            run_local(open_local(cell, 0, tiles.train, tmp_path), tiles.samples)
        return {labels[0]: LOST}

    run._runner.run = compute  # type: ignore[method-assign]
    run.finish("", given.cells)
    assert told.failed == {} and set(told.finished) == set(labels)
    assert (tmp_path / "runs" / given.run_name / labels[0] / "metrics.json").is_file()


def test_what_is_tried_again_is_what_was_lost() -> None:
    died = ActorDiedError()
    task = RayTaskError("step", "", died)
    group = RuntimeError("a training failed")
    group.worker_failures = {0: ValueError("peer closed"), 1: died}  # type: ignore[attr-defined]
    assert all(map(lost, (died, WorkerCrashedError(), task, group)))
    mistake = UserError("cut.png is truncated")
    step = RayTaskError("step", "", ValueError("x"))
    never_began = ActorDiedError(RayTaskError("__init__", "", mistake, actor_id="0"))
    told = RayTaskError("step", "the way of it", mistake).as_instanceof_cause()
    for error in (mistake, ValueError("x"), step, never_began, told):
        assert not lost(error)
    assert isinstance(told, UserError)
    assert (cause(told), trace(told)) == ("cut.png is truncated", "")
    assert trace(task) == "" and cause(group).startswith("ActorDiedError: ")
    try:
        raise RuntimeError("outside") from mistake
    except RuntimeError as error:
        assert cause(error) == "cut.png is truncated" and not lost(error)


def test_a_lost_cluster_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(value: Any) -> Any:
        raise ActorDiedError

    monkeypatch.setattr(event_pump.ray, "get", get)
    hub, told = SimpleNamespace(drain=SimpleNamespace(remote=lambda: None)), list[Any]()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            pytest.raises(UserError, match="the Ray cluster was lost") as error,
            pumped(hub, told.append, lambda asked: None),
        ):
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "run the same command again" in error.value.do and len(told) == 1


def test_a_head_that_is_gone_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the hub, beside the driver, still answers."""
    monkeypatch.setattr(event_pump.ray, "get", lambda value: ([], set()))
    monkeypatch.setattr(event_pump, "LOOK", 0.05)
    monkeypatch.setattr(event_pump, "LOST", 0.3)
    hub, told = SimpleNamespace(drain=SimpleNamespace(remote=lambda: None)), list[Any]()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            head = "{}:{}".format(*listening.getsockname())
            with pumped(hub, told.append, lambda asked: None, head):
                time.sleep(0.6)
        assert told == []
        with (
            pytest.raises(UserError, match="nobody has answered at its head") as error,
            pumped(hub, told.append, lambda asked: None, head),
        ):
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "run the same command again" in error.value.do and len(told) == 1


def test_only_a_task_on_a_gpu_has_a_process_of_its_own() -> None:
    on_gpu, on_cpu = Request("", 1.0, 0.5, 0.0), Request("", 1.0, 0.0, 2**30)
    assert task(lost, on_gpu)._max_calls == 1 and task(lost, on_cpu)._max_calls == 0


def test_a_listener_that_fails_does_not_stop_the_events(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pending = [[events.Note(text).to_json()] for text in ("one", "two", "three")]
    monkeypatch.setattr(event_pump.ray, "get", lambda value: value)
    drain = SimpleNamespace(remote=lambda: (pending.pop(0) if pending else [], set()))
    heard: list[str] = []

    def listen(event: Any) -> None:
        heard.append(event.text)
        if event.text != "three":
            raise OSError("no space left on device")

    with (
        caplog.at_level(logging.WARNING),
        pumped(SimpleNamespace(drain=drain), listen, lambda asked: None),
    ):
        end = time.monotonic() + 10
        while len(heard) < 3 and time.monotonic() < end:
            time.sleep(0.05)
    assert heard == ["one", "two", "three"]
    assert [record.getMessage() for record in caplog.records] == [
        "the study goes on, but an event of it was not taken: OSError: no space left on device"
    ]


class Here:
    """An actor's method, or a hub's, called at once."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class HereHub:
    """A hub in this process, with the segmenters of one model."""

    def __init__(self, *names: str) -> None:
        self.real = EventHub()
        self.real.staff("m", {name: name for name in names})
        self.lend, self.give_back = Here(self.real.lend), Here(self.real.give_back)


def test_prompts_go_to_the_least_busy_segmenter_and_an_image_to_the_one_that_knows_it() -> None:
    hub = HereHub("a", "b", "c").real

    def lend(image: str) -> tuple[int, str]:
        found = hub.lend("m", image)
        assert isinstance(found, tuple)
        return found

    loans = [lend(image) for image in ("one", "two", "three")]
    assert {name for _, name in loans} == {"a", "b", "c"}
    hub.give_back(loans[1][0], gone=False)
    assert lend("four")[1] == loans[1][1]  # the others are at work
    for number in range(1, 5):
        hub.give_back(number, gone=False)
    again = {image: lend(image) for image in ("two", "one", "three")}
    assert [again[image][1] for image in ("one", "three")] == [loans[0][1], loans[2][1]]
    assert hub.lend("another", "one") is None
    hub.staff("another", {}, ValueError("no weights"))
    assert isinstance(hub.lend("another", "one"), ValueError)


def test_what_is_never_given_back_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has died with a loan tells nobody."""
    from coin_ray.cluster import hub as module

    hub, now = HereHub("a", "b").real, [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for number in range(1, 4):
        hub.lend("m", "image")
        assert len(hub._loans) == number
    now[0] = module.FORGOTTEN
    hub.lend("m", "image")
    assert len(hub._loans) == 1


def test_another_segmenter_answers_for_one_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(answer: Any) -> Any:
        if isinstance(answer, ActorDiedError):
            raise answer
        return answer

    def segmenter(answer: Any) -> Any:
        return SimpleNamespace(masks=Here(lambda *request: answer))

    monkeypatch.setattr(scoring.ray, "get", get)
    monkeypatch.setattr(scoring, "WAIT", 0.3)
    died = ActorDiedError()
    for image in map(str, range(6)):
        hub = HereHub()
        pool = {"a": segmenter(died), "b": segmenter("masks"), "c": segmenter(died)}
        hub.real.staff("m", pool)
        assert ActorSegmenter(hub, "m")._ask(image) == "masks"
        assert not hub.real._loans and "b" in hub.real._segmenters["m"]
    hub.real.staff("m", {"a": segmenter(died)})
    # All are gone: what waits gives its share of a card back, and is tried again by Ray Tune.
    with pytest.raises(NoSegmenter) as error:
        ActorSegmenter(hub, "m")._ask("image")
    assert lost(error.value) and lost(RayTaskError("step", "", error.value))
    hub.real.staff("m", {str(n): segmenter(died) for n in range(9)})
    with pytest.raises(ActorDiedError):  # one image that kills all that see it
        ActorSegmenter(hub, "m")._ask("image")
    assert len(hub.real._segmenters["m"]) == 9 - scoring.DEATHS
