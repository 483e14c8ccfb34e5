"""Memory of a training: counted before it is taken, refused where there is too little, and what
happens when it runs out all the same."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.data.synthetic import generated_samples
from coin_ray.distillation import training
from coin_ray.distillation.memory import refuse_large, smaller, training_bytes
from coin_ray.distillation.network import build_student
from coin_ray.distillation.settings import Student
from coin_ray.errors import UserError
from coin_ray.execution.budget import StudyPlan
from coin_ray.execution.refusals import Target, target
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.training import _fitting
from coin_ray.planning.machines import Node
from coin_ray.training.world import World
from tests.conftest import TINY

PIXELS = 37_000_000


def test_the_papers_student_takes_what_was_counted_by_hand() -> None:
    """37 GB of saved activations at batch 16 in fp32; bf16 and half a batch save half of that."""
    full, half = training_bytes(Student(), PIXELS), training_bytes(Student(batch=8), PIXELS)
    assert 37e9 < full < 40e9
    bf16 = training_bytes(Student(precision="bf16"), PIXELS)
    weights = training_bytes(Student(batch=2, crop=32), 0)
    assert half - weights == pytest.approx((full - weights) / 2, rel=0.02)
    assert bf16 - weights == pytest.approx((full - weights) / 2, rel=0.1)
    assert training_bytes(Student(lr=0.5, epochs=3), PIXELS) == full
    assert training_bytes(Student(), PIXELS, beside=10**9) == full + 10**9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_counted_on_no_tensors_is_what_a_step_saves(precision: Any) -> None:
    student = Student(
        arch="unet", width=8, batch=3, crop=64, optimiser="adamw", precision=precision
    )
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    model = build_student(student).train()
    own = {weight.data_ptr() for weight in [*model.parameters(), *model.buffers()]}
    images, targets = torch.rand(3, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.int64)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", enabled=precision == "bf16"):
        training._losses(model, images, targets, targets, targets > 0)["segmentation"].backward()
    held = sum(storage.nbytes() for place, storage in saved.items() if place not in own)
    weights = sum(w.nbytes for w in [*model.parameters(), *model.buffers()])
    assert training_bytes(student, 0) == pytest.approx(held + 5 * weights, rel=0.1)


def test_a_training_that_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(UserError) as refused:
        refuse_large(Student(), PIXELS, 0, int(24e9))
    said = str(refused.value)
    for words in ("at most 24.0 GB", "student.precision: bf16", "student.output_stride: 16"):
        assert words in said
    assert "student.batch: 8 " in said and "batch: 16," not in said.partition("one of")[2]
    assert smaller(Student(), PIXELS, 0, 10**6) == []
    refuse_large(Student(), PIXELS, 0, int(80e9))


def study(**student: Any) -> Any:
    config = Cell.model_validate({"student": student})
    cell = SimpleNamespace(config=config)
    asked = {"until": None, "profile": "coin", "extended": (), "resources": {}, "cluster": None}
    return SimpleNamespace(cells=[cell], **asked)


@pytest.mark.parametrize(("card", "fits"), [(80 * 10**9, True), (24 * 10**9, False), (0, True)])
def test_plan_and_run_refuse_what_the_largest_card_cannot_hold(card: int, fits: bool) -> None:
    nodes = [Node(8, 1, 2**36, card), Node(8, 0, 2**36)]
    executor: Any = SimpleNamespace(
        nodes=lambda cluster, ahead: nodes, device="auto", workers=1, check=lambda *asked: None
    )
    if fits:
        assert target(study(), executor).device == "cuda"
    else:
        with pytest.raises(UserError, match="does not fit the GPU"):
            target(study(), executor)
    executor.device = "cpu"
    assert target(study(), executor).device == "cpu"


def test_the_plan_says_what_a_training_takes() -> None:
    asked = study(precision="bf16"), SimpleNamespace(), SimpleNamespace()
    planned = StudyPlan(*asked, Target((), "cuda", 1), None, PIXELS)
    (said,) = planned.memory
    assert "deeplabv3plus, batch 16 of 512 px, bf16" in said
    assert 20 < float(said.partition("at least ")[2].partition(" GB")[0]) < 25  # with SAM beside it
    assert not list(StudyPlan(*asked, Target((), "cpu", 1), None, 0).memory)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 1, size=96, seed=3))


def opened(tiles: list[Any], workspace: Path) -> CellRun:
    values = copy.deepcopy(TINY) | {"uss": {"family": "none"}, "rounds": {"count": 1}}
    config = Cell.model_validate(values)
    return open_local(config, 0, [tile.image for tile in tiles], workspace)


def test_a_round_that_runs_out_of_memory_gives_the_same_bytes_at_the_second_try(
    tiles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm too: the whole batch goes through, and what it saves waits beside the CPU."""
    whole, broken = (opened(tiles, tmp_path / name) for name in ("whole", "broken"))
    run_local(whole, tiles)
    losses, save = training._losses, torch.autograd.graph.save_on_cpu
    steps, spilled = list[int](), list[bool]()

    def failing(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return losses(*arguments)

    def spilling(pin_memory: bool) -> Any:
        spilled.append(pin_memory)
        return save(pin_memory)

    monkeypatch.setattr(training, "_losses", failing)
    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", spilling)
    run_local(broken, tiles)
    assert len(steps) == 3 + 4 and spilled == 4 * [torch.cuda.is_available()]
    one, two = whole.student(1), broken.student(1)
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)
    assert two.info["spilled"] and "spilled" not in one.info
    assert whole.key("round", round_=1) == broken.key("round", round_=1)


@pytest.mark.parametrize(("size", "tries"), [(1, 2), (2, 1)])
def test_memory_that_runs_out_again_or_on_one_of_several_is_an_error_in_words(
    size: int, tries: int
) -> None:
    tried = []

    def compute(*arguments: Any) -> Any:
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    none: Any = None
    with pytest.raises(UserError, match=r"round does not fit the GPU[\s\S]*2.00 GiB"):
        _fitting("round", compute, World(size=size), None, none)
    assert len(tried) == tries
