"""Small cells for the tests of plans: what runs of them, and timings of stages that never ran."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.report.export import export
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import Key
from tests.test_pipeline_cell import config

FAST = {"iterations": 2, "width": 4, "batch": 1, "crop": 32}
ONE = {"student": FAST, "rounds": {"count": 1}}


def two_tiles(folder: Path) -> DataSet:
    """One tile of 64 px to train on, one to evaluate."""
    test = generated_samples(folder / "test", 1, size=64, seed=3)
    train = generated_samples(folder / "train", 1, size=64, seed=4)
    return DataSet(train=tuple(s.image for s in train), samples=tuple(test))


def cell(patch: dict[str, Any], seed: int = 0) -> Any:
    return SimpleNamespace(
        config=config(**{**ONE, **patch}), seed=seed, data=SimpleNamespace(name="d"), oracle=""
    )


def run(cells: list[Any], data: Any, workspace: Path) -> Counter[str]:
    """Stages computed by running the cells one after another in this process."""
    done: Counter[str] = Counter()
    for one in cells:
        opened = open_local(
            one.config, one.seed, data.train, workspace, done=lambda k, s: done.update([k.stage])
        )
        values, facts = run_local(opened, data.samples)
        folder = workspace / "runs" / opened.key("round", round_=1).digest
        export(opened, data.samples, folder, values, facts)
    return done


def timed(stored: Store, stage: str, kind: str, amount: float, seconds: float, size: int) -> None:
    made = Key(stage, f"t{amount:g}", f"{stage}{amount}{seconds}".ljust(64, "0"), "{}", {}, kind)
    made = Key(made.stage, made.name, made.digest, "{}", {}, kind, amount)
    stored.save(made, Artifact({"a": np.zeros(size, np.uint8)}), seconds)
