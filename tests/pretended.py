"""Workers on pretended GPUs: Ray counts and hands out cards, and what would run on one runs on the
CPU. ``hook`` is the set-up hook of the worker processes; it writes down which card each step got.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CARDS = "COIN_RAY_TESTS_CARDS"
"""Names the file with a line (process, card) for each time that a card was used."""


def job(cards: Path, hook: str = "hook", module: str = "tests.pretended") -> str:
    """What Ray reads as the configuration of a job whose workers run ``hook``."""
    env = {"worker_process_setup_hook": f"{module}.{hook}", "env_vars": {CARDS: str(cards)}}
    return json.dumps({"runtime_env": env, "metadata": {}})


def hook() -> None:
    """Map every device to the CPU in this process, before the cluster's modules are imported."""
    from coin_ray.cluster import nodes
    from coin_ray.pipeline import cell, segmenter

    class OnCpu(segmenter.CachedSegmenter):
        def __init__(self, model: str, store: Any, *, device: str, batch: int) -> None:
            super().__init__(model, store, device="cpu", batch=batch)

    class CellOnCpu(cell.CellRun):
        def __init__(self, *fields: Any) -> None:
            super().__init__(*fields)
            object.__setattr__(self, "device", "cpu")

    def limit(cpus: float, gpus: float) -> None:
        import torch

        torch.set_num_threads(1)
        if gpus:
            with Path(os.environ[CARDS]).open("a") as file:
                file.write(f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']}\n")

    nodes.limit = limit
    segmenter.CachedSegmenter = OnCpu  # type: ignore[misc]
    cell.CellRun = CellOnCpu  # type: ignore[misc]


def training_hook() -> None:
    """The same for a process that also trains: without a GPU there is no NCCL."""
    import torch.distributed as dist

    hook()
    begin = dist.init_process_group

    def start(*args: Any, backend: str, **others: Any) -> None:
        begin(*args, backend="gloo", **others)

    dist.init_process_group = start
