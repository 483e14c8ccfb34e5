"""The same seed, processor and number of threads: the same bytes; with two workers as much learnt.

That relabelling from equal weights does not depend on the number of workers is held in
``test_pipeline_cell``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as Pillow

from coin_ray.data.sample import Sample, file_sample
from coin_ray.data.synthetic import generate_tile, generated_samples
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.stages.oracle import ORACLES
from coin_ray.pipeline.training import train_stage
from coin_ray.store.artifacts import Store
from coin_ray.training.world import World
from tests.conftest import ROOT


def mini(**sections: dict[str, Any]) -> Cell:
    """The shipped default with some settings changed."""
    text = (ROOT / "search_spaces" / "mini.yaml").read_text()
    values = copy.deepcopy(yaml.safe_load(text)["baseline"])
    for name, patch in sections.items():
        values[name] = values.get(name, {}) | patch
    return Cell.model_validate(values)


def artifacts(store: Store) -> dict[str, bytes]:
    """The data of everything in a store."""
    found = (
        store.root / stage / folder for stage in store.stages() for folder in store.folders(stage)
    )
    return {str(f.relative_to(store.root)): (f / "data.safetensors").read_bytes() for f in found}


def test_two_runs_store_the_same_bytes(tmp_path: Path) -> None:
    """Every artifact of every stage, in two stores; draws included (jitter in score and crops)."""
    samples = generated_samples(tmp_path / "tiles", 2, size=96, seed=3)
    cell = mini(
        score={"terms": ["segmenter", "stain_jitter"]},
        mine={"points": ["grid", "stain", "student"], "step": 16},
        student={"width": 8, "iterations": 4, "later_iterations": 3, "batch": 2, "crop": 64},
    )
    results = []
    for name in ("one", "two"):
        run = open_local(cell, 0, [s.image for s in samples], tmp_path / name)
        results.append((run_local(run, samples), artifacts(run.store)))
    assert results[0] == results[1]
    made = {path.split("/")[0] for path in results[0][1]}
    assert made == set(STAGES) - {"ucis_model", *(stage.name for stage in ORACLES)}


def _train(rank: int, size: int, cell: Cell, images: list[Any], workspace: Path) -> None:
    """All rounds on one of ``size`` gloo processes; fails unless all end with the same weights."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    meeting = f"file://{workspace}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    wrapped: list[Any] = []

    def wrap(module: Any) -> Any:
        wrapped.append(DistributedDataParallel(module))
        return wrapped[-1]

    run = open_local(cell, 0, images, workspace)
    train_stage(run, World(rank, size, dist.barrier, wrap), lambda *round_: None, "round")
    for weight in wrapped[-1].parameters():
        everyone = [torch.empty_like(weight) for _ in range(size)]
        dist.all_gather(everyone, weight.detach())
        assert all(torch.equal(weight, other) for other in everyone)
    dist.barrier()  # who leaves first must not take the meeting from the other
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_train_as_well_as_one(tmp_path: Path) -> None:
    """Two processes with half of each batch, batch norm on their own halves (gloo has no shared
    one): the same labels, the same weights on both, a loss as far down and as good an AJI."""
    samples = [tile(tmp_path, seed) for seed in (3, 4, 5, 6, 15, 21)]
    images = [s.image for s in samples]
    student = {"width": 8, "iterations": 150, "crop": 96}
    cell = mini(student=student, rounds={"count": 1}, infer={"redraw": False})
    runs, aji = [], []
    for size in (1, 2):
        workspace = tmp_path / f"workers{size}"
        workspace.mkdir()
        if size > 1:
            torch.multiprocessing.spawn(_train, (size, cell, images, workspace), nprocs=size)
        runs.append(open_local(cell, 0, images, workspace))
        rows, _ = run_local(runs[-1], samples)
        aji.append([r["value"] for r in rows if (r["step"], r["metric"]) == ("round_1", "aji")])
    for image in images:
        first, second = (run.labels(image, 1).arrays["label_map"] for run in runs)
        np.testing.assert_array_equal(first, second)
    one, two = (run.student(1) for run in runs)
    assert any(not np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)
    assert max(one.info["loss"], two.info["loss"]) < 2, "untrained it is 2.6"
    assert len(aji[0]) == len(aji[1]) == len(images)
    assert np.mean(aji[0]) == pytest.approx(np.mean(aji[1]), abs=0.1)


def tile(folder: Path, seed: int) -> Sample:
    """A tile of few nuclei, so that one more that is split or merged does not move the mean."""
    image, labels = generate_tile(seed, 128, diameter=22, crowding=0.2)
    paths = [folder / f"{kind}{seed}.png" for kind in ("image", "label")]
    Pillow.fromarray(image).save(paths[0])
    Pillow.fromarray(labels.astype(np.uint16)).save(paths[1])
    return file_sample(f"tile{seed}", *paths, mpp=0.25)
