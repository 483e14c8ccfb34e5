"""Requests against nodes, and what is said when nothing moves. No cluster is started."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError

from coin_ray.cluster.tasks import RayTaskError, patient
from coin_ray.cluster.watchdog import watchdog, who_waits
from coin_ray.data.synthetic import generated_samples
from coin_ray.distillation.network import build_student
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.execution.cell_spec import CellSpec, open_cell
from coin_ray.execution.failures import cause, trace
from coin_ray.execution.tally import Pulse
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.steps import STEPS
from coin_ray.planning.machines import (
    Node,
    Request,
    check_request,
    largest_share,
    refuse_impossible,
    room,
    round_request,
    segmented,
    segmenter_share,
    share,
    step_request,
)
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import make_key
from coin_ray.training.world import World
from tests.test_pipeline_cell import config

GIB = 2**30
SMALL, BIG = Node(4, 0, 8 * GIB), Node(16, 2, 64 * GIB)


def test_a_step_may_compute_all_that_is_below_it_and_is_not_trained() -> None:
    assert STEPS["centroids"].computes == ("ucis", "features", "centroids")
    every = {"ucis", "features", "centroids", "similarity", "transport", "refine", "instances"}
    assert set(STEPS["first_scores"].computes) == every | {"score", "predict"}


@pytest.mark.parametrize(
    ("request_", "fits"),
    [
        (Request("", 1, 0, 0), 20),
        (Request("", 3, 0, 0), 1 + 5),
        (Request("", 0.5, 0, 3 * GIB), 2 + 21),
        (Request("", 1, 0.25, 0), 3 + 3),  # of every GPU a quarter is taken
        (Request("", 1, 0.75, 0), 2),
        (Request("", 1, 1, 0), 1),  # of the first alone, for what needs whole ones
        (Request("", 1, 2, 0), 0),
        (Request("", 32, 0, 0), 0),
    ],
)
def test_room_by_hand(request_: Request, fits: int) -> None:
    assert room(request_, [SMALL, BIG], held=0.25) == fits


def test_segmenters_are_on_every_card_where_everything_fits_beside_them() -> None:
    assert largest_share({}, "cuda") == 0.7 and largest_share({}, "cpu") == 0
    assert segmented(4, 0.7, 0.3) == 4 and segmented(4, 1.0, 0.3) == 1
    assert segmented(0, 0.7, 0.3) == segmented(0, 1.0, 0.3) == 0
    node = Node(64, 4, 0)
    for asked in ({}, {"round": {"gpu": 1.0}}):
        held, training = segmenter_share(asked, "cuda"), round_request(asked, 1, "cuda")
        beside = segmented(node.gpus, largest_share(asked, "cuda"), held)
        fit = room(training, [node], held=held)
        assert fit == (node.gpus if beside == node.gpus else node.gpus - beside)


def test_work_on_cpus_reserves_no_gpu() -> None:
    on_cards = {name for name in STAGES if share({}, name, "cuda")[1]}
    assert on_cards == {name for name, stage in STAGES.items() if stage.runs != "cpu"}
    assert share({"stage": {"gpu": 0.5}}, "select", "cuda") == (1.0, 0.0)


def test_a_step_takes_a_gpu_only_for_what_is_missing(tmp_path: Path) -> None:
    samples = generated_samples(tmp_path / "tiles", 1, size=64, seed=3)
    spec = CellSpec(
        config=config(rounds={"count": 0}),
        rounds=0,
        seed=0,
        train=(samples[0].image,),
        samples=tuple(samples),
        weights=defaultdict(lambda: "digest"),
        masks={},
        workspace=tmp_path,
        device="cuda",
        who={},
    )
    run = open_cell(spec)

    def asks(step: str) -> bool:
        item = samples[0] if STEPS[step].samples else samples[0].image
        return STEPS[step].on_device(run, item)

    assert asks("centroids") and asks("first_scores") and asks("evaluate")
    for zoom in run.config.uss.zoom:
        key = run.key("centroids", samples[0].image, zoom=zoom)
        run.store.save(key, Artifact({"array": np.zeros(1)}), 1.0)
    assert not asks("centroids") and asks("first_scores")
    coarse = open_cell(replace(spec, config=config(ucis={"model": "ssa"}, uss={"family": "none"})))
    assert STEPS["first_scores"].on_device(coarse, samples[0].image)
    alone = open_cell(replace(spec, config=config(uss={"family": "none"})))
    assert not STEPS["first_scores"].on_device(alone, samples[0].image)


@pytest.mark.parametrize("asked", [{"round": {"gpu": 0.5}}, {"masks": {"gpu": 0.5}}])
def test_two_workers_of_a_round_never_get_one_card(asked: dict[str, dict[str, float]]) -> None:
    for nodes in ([Node(8, 1, 0)], [Node(8, 2, 0)], [Node(8, 1, 0)] * 2):
        with pytest.raises(UserError) as refused:
            refuse_impossible(asked, nodes, device="cuda", workers=2)
        text = str(refused.value)
        assert "two workers of one round could get the same GPU" in text
        assert "more than half of a GPU for each of 2 workers" in text and "0.5 GPU" in text
        refuse_impossible(asked, nodes, device="cuda", workers=1)
        refuse_impossible(asked, nodes, device="cpu", workers=2)
    refuse_impossible({}, [Node(8, 2, 0)], device="cuda", workers=2)


def test_batch_statistics_are_those_of_all_workers_where_torch_has_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On NCCL. A process computes what it did before, from the same weights, under the same
    names."""
    from coin_ray.cluster import rounds

    monkeypatch.setattr(rounds, "prepare_model", lambda model: model)
    for backend, kind in (("nccl", torch.nn.SyncBatchNorm), ("gloo", torch.nn.BatchNorm2d)):
        monkeypatch.setattr(torch.distributed, "get_backend", lambda backend=backend: backend)
        bare = build_student(config().student)
        tensors = {name: value.data_ptr() for name, value in bare.state_dict().items()}
        made = rounds.shared(bare)
        norms = [m for m in made.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        assert norms and {type(norm) for norm in norms} == {kind}
        assert {name: value.data_ptr() for name, value in made.state_dict().items()} == tensors
        # The optimiser, the average and the weights that are kept are those of the module itself.
        assert {name: value.data_ptr() for name, value in bare.state_dict().items()} == tensors


@pytest.mark.parametrize(("size", "batch"), [(1, 1), (2, 5), (3, 7), (4, 16)])
def test_crops_are_shared_without_loss(size: int, batch: int) -> None:
    ranks = [World(rank, size) for rank in range(size)]
    crops = [index for world in ranks for index in world.share(batch, 1, "", "")]
    assert sorted(crops) == list(range(batch))


def test_room_is_never_split_between_nodes() -> None:
    assert room(Request("", 3, 0, 0), [Node(2, 0, 0), Node(2, 0, 0)]) == 0
    assert room(Request("", 1, 0.75, 0), [Node(8, 1, 0)], held=0.5) == 0


def test_a_step_asks_for_the_most_that_any_of_its_stages_needs() -> None:
    asked = {
        "stage": {"cpu": 2.0},
        "features": {"cpu": 4.0, "gpu": 0.5},
        "centroids": {"memory": 6.0},
        "round": {"cpu": 8.0, "memory": 16.0},
    }
    found = step_request(asked, "centroids", "cuda")
    assert (found.cpus, found.gpus, found.memory) == (4.0, 0.5, 6 * GIB)
    found = step_request(asked, "evaluate", "cpu")
    # An image that is not trained on has all its stages computed by its evaluation.
    assert (found.cpus, found.gpus, found.memory) == (4.0, 0.0, 6 * GIB)
    found = round_request(asked, 3, "cuda")
    assert (found.cpus, found.gpus, found.memory, found.count) == (8.0, 0.7, 16 * GIB, 3)


def test_a_round_has_what_the_segmenters_leave_of_a_gpu() -> None:
    assert round_request({"masks": {"gpu": 0.5}}, 1, "cuda").gpus == 0.5
    refuse_impossible({}, [Node(8, 1, 0)], device="cuda", workers=1)
    with pytest.raises(UserError, match=r"1 CPU, 0.7 GPU \(resources.round\)"):
        refuse_impossible({}, [Node(8, 1, 0)], device="cuda", workers=1, models=2)


def test_what_is_impossible_is_refused_with_the_shapes_of_the_nodes() -> None:
    assert check_request(Request("resources.round", 4, 0, 0, count=5), [SMALL, BIG]) is None
    asked = {"features": {"memory": 100.0}, "round": {"cpu": 8.0}}
    with pytest.raises(UserError) as refused:
        refuse_impossible(asked, [SMALL, SMALL, BIG], device="cpu", workers=3)
    text = str(refused.value)
    assert "one node with 1 CPU, 100 GiB (resources.features)" in text
    assert "room for 3 workers of 8 CPU each (resources.round), there is room for 2" in text
    assert "2 × (4 CPU, 0 GPU, 8 GiB)" in text and "1 × (16 CPU, 2 GPU, 64 GiB)" in text
    refuse_impossible({}, [SMALL], device="cpu", workers=4)


def stuck(patience: float, wait: float, beats: tuple[float, ...] = ()) -> list[events.Stalled]:
    told: list[Any] = []
    pulse = Pulse()
    with watchdog(pulse, lambda: ["who"], told.append, patience):
        start = time.monotonic()
        for at in beats:
            time.sleep(max(0.0, start + at - time.monotonic()))
            pulse.beat()
        time.sleep(max(0.0, start + wait - time.monotonic()))
    return told


def test_the_watchdog_speaks_up_after_its_patience_and_then_ever_more_seldom() -> None:
    told = stuck(0.2, 1.2)
    assert 2 <= len(told) <= 3 and all(event.lines == ["who"] for event in told)
    assert told[1].seconds >= 1.9 * 0.2
    assert stuck(0.6, 1.0, beats=(0.3, 0.6, 0.9)) == []


def test_who_waits_for_what(tmp_path: Path) -> None:
    store, keys = Store(tmp_path), [make_key("round", 1, f"r{i}", {}, {}) for i in range(2)]
    with pytest.raises(RuntimeError, match="stop"):
        store.get(keys[0], lambda: look(store, keys))


def look(store: Store, keys: list[Any]) -> Any:
    """Seen from inside of a stage that is being computed, beside one whose owner has died."""
    claim = store.claim(keys[1])
    claim.write_text(f"{os.uname().nodename}:999999999:x")
    lines = who_waits(
        store,
        {"mae--d--s0": "score tile"},
        [Request("resources.round", 2, 0, 0, count=3)],
        {"CPU": 1.0},
        {"CPU": 4.0, "memory": 1e9},
        pending=1,
    )
    assert lines[0] == "mae--d--s0: last heard of at score tile"
    assert f"process {os.getpid()}, which was alive 0 s ago" in lines[1]
    assert lines[2].startswith("round r1-") and lines[2].endswith("which has ended")
    assert lines[3] == "resources.round asks for 3 × (2 CPU)"
    assert lines[4] == "free now: 1 of 4 CPU; groups of processes that wait for a place: 1"
    raise RuntimeError("stop")


def test_a_task_that_ran_out_of_gpu_memory_is_tried_once_more() -> None:
    def get(task: Any) -> Any:
        if isinstance(task, Exception):
            raise task
        return task

    def failed(error: Exception) -> RayTaskError:
        return RayTaskError("step", str(error), error)

    small = failed(torch.OutOfMemoryError("CUDA out of memory"))
    assert patient(get, 5, 0, lambda i: -1) == 5
    assert patient(get, small, 3, lambda i: 10 + i) == 13
    # Without a card, for all that needs one was stored: what is damaged is made again with one.
    none = failed(RuntimeError("No CUDA GPUs are available"))
    assert patient(get, none, 3, lambda i: 10 + i, without=True) == 13
    for error in (UserError("cut.png is truncated"), ActorDiedError()):
        with pytest.raises(RayTaskError):
            patient(get, failed(error), 3, lambda i: 10 + i, without=True)
    with pytest.raises(RayTaskError):
        patient(get, small, 3, lambda i: small)
    with pytest.raises(RayTaskError):
        patient(get, failed(ValueError("no")), 3, lambda i: 10 + i)


def test_causes_are_those_of_the_first_error() -> None:
    class Wrapped(RuntimeError):
        def __init__(self, inner: BaseException) -> None:
            super().__init__("a worker died")
            self.worker_failures = {0: inner}

    mistake = UserError("cut.png is truncated", do="replace it")
    for error in (mistake, Wrapped(mistake)):
        assert cause(error) == "cut.png is truncated; do: replace it"
        assert trace(error) == ""  # its message says it all
    try:
        raise Wrapped(ZeroDivisionError("division by zero"))
    except Wrapped as error:
        assert cause(error) == "ZeroDivisionError: division by zero"
        assert "Wrapped" in trace(error)


def test_a_pulse_is_one_for_all_threads() -> None:
    pulse = Pulse()
    time.sleep(0.05)
    thread = threading.Thread(target=pulse.beat)
    thread.start()
    thread.join()
    assert pulse.silence() < 0.05
