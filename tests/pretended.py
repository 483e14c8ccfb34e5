"""Workers on pretended GPUs: Ray counts and hands out cards, and what would run on one runs on the
CPU. ``hook`` is the set-up hook of the worker processes; it writes down which card each of them was
given, which ones it sees, and what it computes on them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CARDS = "COIN_RAY_TESTS_CARDS"
"""Names the file with a line for each time that a process is held to its share, or computes a stage
that runs on the device."""


def job(cards: Path, hook: str = "hook", module: str = "tests.pretended") -> str:
    """What Ray reads as the configuration of a job whose workers run ``hook``."""
    env = {"worker_process_setup_hook": f"{module}.{hook}", "env_vars": {CARDS: str(cards)}}
    return json.dumps({"runtime_env": env, "metadata": {}})


def lines(cards: Path) -> list[dict[str, Any]]:
    """What the processes wrote down."""
    return [json.loads(line) for line in cards.read_text().splitlines()]


def hook() -> None:
    """Map every device to the CPU in this process, before the cluster's modules are imported."""
    from coin_ray.cluster import nodes
    from coin_ray.pipeline import cell, segmenter
    from coin_ray.pipeline.stages import STAGES

    class OnCpu(segmenter.CachedSegmenter):
        def __init__(self, model: str, store: Any, *, device: str, batch: int) -> None:
            super().__init__(model, store, device="cpu", batch=batch)

        def masks(self, *request: Any) -> Any:
            _write("masks", STAGES["masks"].runs)
            return super().masks(*request)

    class CellOnCpu(cell.CellRun):
        def __init__(self, *fields: Any) -> None:
            super().__init__(*fields)
            object.__setattr__(self, "device", "cpu")

        def given(self, ref: Any) -> Any:
            stage = STAGES[ref.stage]
            on_card = stage.runs == "device" and stage.on_card(self.config)
            _write(ref.stage, "device" if on_card else "cpu")
            return super().given(ref)

    def limit(cpus: float, gpus: float, card: Any = None) -> None:
        import torch

        torch.set_num_threads(1)
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        who = {"_step": "step", "__init__": "segmenter", "train_alone": "training"}
        index = None if card is None else card.index
        caller = sys._getframe(1).f_code.co_name
        _write(who.get(caller, caller), "limit", gpus=gpus, index=index)

    nodes.limit = limit
    segmenter.CachedSegmenter = OnCpu  # type: ignore[misc]
    cell.CellRun = CellOnCpu  # type: ignore[misc]


def _write(what: str, where: str, **more: Any) -> None:
    import ray

    context = ray.get_runtime_context()
    line = {
        "what": what,
        "where": where,
        "process": os.getpid(),
        "node": context.get_node_id(),
        "given": context.get_accelerator_ids().get("GPU", []),
        "sees": [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card],
        **more,
    }
    with Path(os.environ[CARDS]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def workers_hook() -> None:
    """The same for several workers of a round: without a GPU there is no NCCL."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    hook()
    begin = dist.init_process_group

    def start(*args: Any, backend: str, **others: Any) -> None:
        begin(*args, backend="gloo", **others)

    dist.init_process_group = start
    from coin_ray.cluster import rounds

    rounds.shared = DistributedDataParallel


def slow_hook() -> None:
    """The same, and a step of a round takes a tenth of a second more."""
    import time
    from dataclasses import replace

    hook()
    from coin_ray.distillation import training

    train = training.train

    def slowly(what: Any, *others: Any) -> Any:
        def after_step(step: int, done: float) -> None:
            what.after_step(step, done)
            time.sleep(0.1)

        return train(replace(what, after_step=after_step), *others)

    training.train = slowly
