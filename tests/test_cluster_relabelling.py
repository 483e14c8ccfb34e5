"""Relabelling in Ray's workers overlaps as it does in one process."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from coin_ray.data.dataset import DataSet
from tests import pretended
from tests.test_cluster_nodes import (  # noqa: F401 (two are fixtures)
    JOB,
    agreement,
    alone,
    cluster,
    run,
    study,
    tiles,
)
from tests.test_pipeline_cell import config

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.slow
def test_a_training_task_builds_the_student_once_and_draws_beside_its_predictions(
    cluster: Any,  # noqa: F811
    tiles: DataSet,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(JOB, pretended.job(tmp_path / "seen", module="tests.relabelling_traced"))
    cells = {"base": config(uss={"family": "none"}, rounds={"count": 2})}
    outcome, heard = run(study(cells), tiles, tmp_path, cluster)
    assert outcome.failed == {} and agreement(heard) == alone(cells, tiles, tmp_path / "alone")
    seen: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in (tmp_path / "seen").read_text().splitlines():
        process, thread, what = line.split()
        seen[process].append((thread, what))
    (trained,) = (steps for steps in seen.values() if ("pool", "draw") in steps)
    # The process is used again, by the steps of single images that come after the rounds.
    last = max(i for i, step in enumerate(trained) if step == ("pool", "draw"))
    counts = Counter(trained[: last + 1])
    assert counts["main", "build"] == 1
    assert counts["main", "predict"] == counts["pool", "draw"] == len(tiles.train) == 2
