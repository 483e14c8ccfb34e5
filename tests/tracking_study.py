"""A small made-up study for the tracking tests: its description and the events of its run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coin_ray.data.dataset import DataSpec
from coin_ray.events import events
from coin_ray.pipeline.settings import Cell
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.tracking.describe import describe_study
from coin_ray.tracking.mlflow_store import connect, study_runs, tracking_uri
from coin_ray.tracking.tracker import Tracker

AWAY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""
LEVELS = ("none", "mae")
ROUNDS = 2
PARENT = "uss_backbones (mini, tiles)"
CELL = "mae · tiles · seed 0"


def study(levels: tuple[str, ...] = LEVELS, seeds: tuple[int, ...] = (0,)) -> ResolvedStudy:
    data = DataSpec("tiles", "generated", options={"train": 2, "test": 2})
    cells = tuple(
        StudyCell(
            level=level,
            labels={"backbone": level},
            data=data,
            seed=seed,
            config=Cell.model_validate({"uss": {"family": family}, "rounds": {"count": ROUNDS}}),
            key_label=f"{level}-tiles-{seed}",
        )
        for seed in seeds
        for level in levels
        for family in [level if level in LEVELS else "mae"]
    )
    return ResolvedStudy(
        name="uss_backbones",
        title="Backbones",
        profile="mini",
        source_files=(),
        data=(data,),
        levels=levels,
        baseline_level="mae",
        cells=cells,
        report=(),
        question="Is propagation worth it?",
        seeds=seeds,
        factors={"backbone": levels},
    )


def info(digest: str, **changes: Any) -> dict[str, Any]:
    """``study_info`` of the study; ``digest`` tells the tests' studies apart in one store."""
    return describe_study(study(**changes), data_digest=digest, command="coin-ray sweep x.yaml")


def run_events(folder: Path, **changes: Any) -> Iterator[dict[str, Any]]:
    """Everything an uninterrupted run records."""
    picture = folder / "overlay.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    made = study(**changes)
    yield events.StudyStarted(made.name, len(made.cells)).to_json()
    for cell in made.cells:
        yield from cell_events(cell, picture)
    rows = [{"level": level, "aji": 0.5} for level in made.levels]
    yield {"event": "Table", "name": "summary", "rows": rows}
    yield events.StudyFinished(made.name, computed=4, reused=2, seconds=3.0).to_json()


def cell_events(cell: StudyCell, picture: Path) -> Iterator[dict[str, Any]]:
    who = (cell.key_label, cell.level, cell.data.name, cell.seed)
    yield events.CellStarted(*who).to_json()
    for image in ("a", "b"):
        yield events.StageFinished(*who, "features", image, 1.0, f"key-{image}").to_json()
    yield events.StageReused(*who, "ucis", "a", "key-ucis").to_json()
    for round_ in range(1, ROUNDS + 1):
        metrics = {"aji": 0.5 + round_ / 100, "loss@1": 1 / round_, "spread": float("nan")}
        yield events.RoundFinished(*who, round_, metrics, 1.5).to_json()
    rows = [{"image": "a", "aji": 0.5}, {"image": "b", "aji": 0.54, "pq": float("inf")}]
    yield {"event": "Table", "cell": cell.key_label, "name": "per_image", "rows": rows}
    yield {"event": "File", "cell": cell.key_label, "path": picture, "folder": "overlays"}
    yield events.CellFinished(*who, {"aji": 0.52, "aji_ucis": 0.4}, 4.0).to_json()


def record_run(
    workspace: Path, digest: str, levels: tuple[str, ...] = LEVELS, **options: Any
) -> str:
    """An uninterrupted run of the small study; returns its identity."""
    tracker = Tracker(workspace, info(digest, levels=levels), **options)
    for event in run_events(workspace / "files", levels=levels):
        tracker.record(event)
    tracker.close()
    return tracker.study


def stored(workspace: Path, study_id: str) -> dict[str, dict[str, Any]]:
    """All that the store says of a study, run by run name, without ids and clock times."""
    client = connect(workspace, tracking_uri(workspace))
    experiment = client.get_experiment_by_name("coin-ray")
    found = {}
    for run in study_runs(client, experiment.experiment_id, study_id):
        assert run.info.run_name not in found, "two runs of one cell"
        history = {
            metric: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, metric)]
            for metric in run.data.metrics
        }
        root = Path(workspace / "artifacts" / run.info.run_id / "artifacts")
        files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
        found[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": tags,
            "metrics": {metric: sorted(points) for metric, points in history.items()},
            "files": files,
            "id": run.info.run_id,
            "parent": run.data.tags.get("mlflow.parentRunId"),
        }
    return found


def without_ids(found: dict[str, dict[str, Any]], study_id: str) -> str:
    """Comparable between studies that differ in their identity only."""
    plain = {
        name: {k: v for k, v in run.items() if k not in ("id", "parent")}
        for name, run in found.items()
    }
    for run in plain.values():
        tags = sorted(run["tags"].items())  # in whatever order they came
        run["tags"] = {k: v for k, v in tags if k != "coin_ray.written"}
    digest = study_id.rsplit("-", 1)[1]
    return repr(sorted(plain.items())).replace(digest, "DIGEST")
