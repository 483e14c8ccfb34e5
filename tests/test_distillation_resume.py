"""An interrupted round and one of several workers: the training that was, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.distillation.training import Part
from coin_ray.training.checkpoint import Checkpoint
from coin_ray.training.world import World
from tests.test_distillation_training import SMALL, TILES, _one_thread, same, tile, trained  # noqa: F401


@pytest.mark.parametrize(
    "options", [{}, {"optimiser": "sgd", "edge": False, "round_index": 2}], ids=["adamw", "sgd"]
)
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Bit for bit, the moving average and the log included; nothing is drawn from a state."""
    how = {"iterations": 6, "seed": 4, **options}
    whole = trained(**how)
    kept = Checkpoint(tmp_path / "round", "this one", every=0.0)

    def break_off(step: int, *_: object) -> None:
        if step == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        trained(checkpoint=kept, progress=break_off, **how)
    torch.manual_seed(9)  # where the generators stand is no matter
    steps: list[int] = []
    resumed = trained(checkpoint=kept, progress=lambda step, *_: steps.append(step), **how)
    assert steps == [5, 6]
    assert same(resumed[0], whole[0]) and resumed[1] == whole[1]


def _two_workers(rank: int, folder: Path, name: str, stop: int) -> None:
    """A round on one of two gloo processes, whose first dies at step ``stop``; it writes its
    weights and how many steps it took."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting-{name}-{stop}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    steps: list[int] = []

    def progress(step: int, *_: object) -> None:
        steps.append(step)
        if step == stop:
            raise InterruptedError

    weights, log = trained(
        iterations=6,
        batch=4,
        world=World(rank, 2, dist.barrier, DistributedDataParallel),
        checkpoint=Checkpoint(folder / name, "this one", every=0.0, last=False),
        progress=progress,
    )
    if rank == 0:
        np.savez(folder / f"{name}.npz", **weights, **log, steps=steps)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_go_on_together(tmp_path: Path) -> None:
    """Rank 0 writes, both load: what one of them had not in common with the other is no state."""
    spawn = torch.multiprocessing.spawn
    spawn(_two_workers, (tmp_path, "whole", 0), nprocs=2)
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="InterruptedError"):
        spawn(_two_workers, (tmp_path, "broken", 4), nprocs=2)
    spawn(_two_workers, (tmp_path, "broken", 0), nprocs=2)
    with np.load(tmp_path / "whole.npz") as one, np.load(tmp_path / "broken.npz") as two:
        assert one["steps"].tolist() == [1, 2, 3, 4, 5, 6] and two["steps"].tolist() == [5, 6]
        assert one.keys() == two.keys()
        assert all(one[k].tobytes() == two[k].tobytes() for k in one.keys() - {"steps"})


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_parts_with_the_same_labels_are_one_training(tmp_path: Path, optimiser: str) -> None:
    """Bit for bit: weights, average, moments and rates go on, in a part that was interrupted too;
    rounds that start anew end elsewhere."""
    how: dict[str, Any] = {"seed": 4, "optimiser": optimiser}
    whole, log = trained(iterations=6, part=Part(0, 6), **how)
    assert same(whole, trained(iterations=6, **how)[0])
    weights, losses, kept = None, list[float](), Checkpoint(tmp_path / "part", "a", every=0.0)

    def break_off(step: int, *_: object) -> None:
        if step == 1:
            raise InterruptedError

    for round_ in range(3):
        part = {"iterations": 2, "part": Part(2 * round_, 6), "initial": weights, **how}
        part |= {"round_index": round_ + 1}
        if round_ == 1:
            with pytest.raises(InterruptedError):
                trained(checkpoint=kept, progress=break_off, **part)
            part |= {"checkpoint": kept}
        weights, some = trained(**part)
        losses += some["loss"]
    assert same(weights, whole) and losses == log["loss"]
    first, _ = trained(iterations=2, **how)
    assert not same(trained(iterations=4, round_index=2, initial=first, **how)[0], whole)
