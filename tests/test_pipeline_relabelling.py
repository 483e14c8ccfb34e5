"""Relabelling: the student is built once a round, and what the CPU makes of one image goes on while
the device predicts the next."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coin_ray.data.synthetic import generated_samples
from coin_ray.distillation import inference, network
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.training import relabel
from coin_ray.training.world import World
from tests.conftest import TINY


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 4, size=96, seed=3))


@pytest.fixture(scope="module")
def finished(tiles: list[Any], tmp_path_factory: pytest.TempPathFactory) -> CellRun:
    values = copy.deepcopy(TINY) | {"uss": {"family": "none"}}
    config = Cell.model_validate(values)
    run = open_local(config, 0, [t.image for t in tiles], tmp_path_factory.mktemp("workspace"))
    run_local(run, tiles)
    return run


def labels_of_round_2(run: CellRun) -> dict[str, bytes]:
    """What relabelling makes, one image after the other where it is not there; the store is without
    it then."""
    made = [("predict", 1), ("masks", 2), ("score", 2), ("select", 2)]
    keys = [run.key(stage, image, round_) for image in run.train for stage, round_ in made]
    for image in run.train:
        run.artifact("select", image, 2)
    found = {}
    for key in keys:
        arrays = run.store.load(key).arrays
        found |= {f"{key.path}/{name}": array.tobytes() for name, array in arrays.items()}
        run.store.discard(run.store.folder(key))
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_the_student_is_built_once_and_the_cpu_works_beside_the_device(
    finished: CellRun, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Instances of the first image wait for the prediction of the second to begin: in turns, that
    would never come. The labels are, byte for byte, those of one image after the other."""
    expected = labels_of_round_2(finished)
    built, predicted, drawn = list[int](), list[str](), list[str]()
    second = threading.Event()
    build, predict = network.student_from_weights, inference.predict_batch
    draw = inference.instances_from_probability

    def built_once(*arguments: Any) -> Any:
        built.append(1)
        return build(*arguments)

    def predicting(*arguments: Any) -> Any:
        predicted.append(threading.current_thread().name)
        if len(predicted) == 2:
            second.set()
        return predict(*arguments)

    def drawing(*arguments: Any, **named: Any) -> Any:
        drawn.append(threading.current_thread().name)
        assert second.wait(60), "the device waited for the CPU"
        return draw(*arguments, **named)

    monkeypatch.setattr(network, "student_from_weights", built_once)
    monkeypatch.setattr(inference, "predict_batch", predicting)
    monkeypatch.setattr(inference, "instances_from_probability", drawing)
    relabel(finished, World(threads=threads), 2)
    assert len(built) == 1
    assert predicted == 4 * [threading.current_thread().name]
    assert len(drawn) == 4 and not set(drawn) & set(predicted)
    monkeypatch.undo()
    assert all(finished.store.has(finished.key("select", image, 2)) for image in finished.train)
    assert labels_of_round_2(finished) == expected


@pytest.mark.parametrize("size", [2, 3])
def test_every_image_is_made_by_one_rank(
    finished: CellRun, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    expected = labels_of_round_2(finished)
    seen, predict, together = list[int](), inference.predict_batch, threading.Barrier(size)

    def predicting(model: Any, images: Any, *others: Any) -> Any:
        seen.append(len(images))
        return predict(model, images, *others)

    def barrier() -> None:
        together.wait(60)

    monkeypatch.setattr(inference, "predict_batch", predicting)
    with ThreadPoolExecutor(size) as ranks:
        worlds = [World(rank, size, barrier) for rank in range(size)]
        list(ranks.map(lambda world: relabel(finished, world, 2), worlds))
    assert sum(seen) == len(finished.train)
    assert labels_of_round_2(finished) == expected


def test_of_what_is_stored_nothing_is_predicted_again(
    finished: CellRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, images = labels_of_round_2(finished), finished.train
    finished.artifact("predict", images[1], 1)
    finished.artifact("select", images[2], 2)
    seen, predict = list[int](), inference.predict_batch

    def predicting(model: Any, images: Any, *others: Any) -> Any:
        seen.append(len(images))
        return predict(model, images, *others)

    monkeypatch.setattr(inference, "predict_batch", predicting)
    relabel(finished, World(), 2)
    assert seen == [1, 1]
    assert labels_of_round_2(finished) == expected


def test_a_prediction_costs_what_the_device_and_the_cpu_took(
    finished: CellRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    labels_of_round_2(finished)
    predict = inference.predict_batch

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return predict(*arguments)

    monkeypatch.setattr(inference, "predict_batch", slow)
    relabel(finished, World(), 2)
    for image in finished.train:
        key = finished.key("predict", image, 1)
        assert finished.store.manifest("predict", key.folder)["seconds"] > 0.3


def test_a_fault_of_a_thread_is_that_of_the_round(
    finished: CellRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels_of_round_2(finished)

    def broken(*arguments: Any, **named: Any) -> Any:
        raise ValueError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(inference, "instances_from_probability", broken)
        with pytest.raises(ValueError, match="a fault"):
            relabel(finished, World(), 2)
    relabel(finished, World(), 2)


def test_a_gpu_predicts_images_of_one_size_together(
    finished: CellRun, tiles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = list(generated_samples(tmp_path / "others", 2, size=64, seed=9))
    images = [t.image for t in (tiles[0], others[0], others[1], *tiles[1:])]
    section = finished.config.student.model_copy(update={"batch": 5})  # of 64 x 64 px
    config = finished.config.model_copy(update={"student": section})
    run = replace(open_local(config, 0, images, finished.store.root.parent), device="cuda")
    sizes: list[tuple[int, ...]] = []

    def predicting(model: Any, batch: Any, *others: Any) -> Any:
        sizes.append(batch.shape[:2])
        return [(np.zeros(batch.shape[1:3], np.float32), None) for _ in batch]

    monkeypatch.setattr(network, "student_from_weights", lambda *arguments: None)
    monkeypatch.setattr(inference, "predict_batch", predicting)
    student = finished.student(1)
    monkeypatch.setattr(CellRun, "get", lambda self, ref: student)
    asked = [refs.current(run.chain, Ref("score", image, 2)) for image in images]
    found = [maps.probability.shape for (maps,) in run.ahead(asked)]
    assert found == [image.load().shape[:2] for image in images]
    assert sizes == [(1, 96), (2, 64), (2, 96), (1, 96)]  # 2 x 96 x 96 px of 5 x 64 x 64
