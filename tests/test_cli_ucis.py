"""``ucis train`` as a user calls it: in this process, and once on a trainings."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from typer.testing import CliRunner, Result

from coin_ray import cli
from coin_ray.cli.verbs.ucis import STUDIES
from coin_ray.data.label_files import read_foreground
from coin_ray.data.synthetic import generated_samples
from coin_ray.execution import cell_spec
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import open_local
from coin_ray.pipeline.training import train_stage
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import resolve_data
from coin_ray.study.study import resolve
from coin_ray.tracking.replay import Replay
from coin_ray.training.world import Progress, World
from coin_ray.ucis import ssa

TINY = {
    "ssa.width": 4, "ssa.encoder_width": 8, "ssa.iterations": 3, "ssa.batch": 3, "ssa.crop": 32,
    "psm.width": 8, "psm.activation_width": 8, "psm.activation_iterations": 1, "psm.attempts": 1,
    "psm.point_iterations": 1, "psm.final_iterations": 1, "psm.batch": 2, "psm.crop": 32,
    "detector.rounds": 1, "detector.iterations": 3, "detector.batch": 2, "detector.views": 1,
    "detector.certainty": 0.5,
}  # fmt: skip
SETTINGS = [text for key, value in TINY.items() for text in ("--set", f"ucis.{key}={value}")]
SETTINGS += ["--set", "rounds.checkpoint=0"]


class Trainings:
    """Looks on at the steps that are trained; ``stop``: after so many it is interrupted."""

    def __init__(self) -> None:
        self.stop: int | None = None
        self.steps: list[int] = []

    def train(
        self, run: CellRun, world: World, report: Any, stage: str, progress: Progress
    ) -> None:
        def look(step: int, steps: int, loss: float) -> None:
            self.steps.append(step)
            if step == self.stop:
                raise KeyboardInterrupt
            progress(step, steps, loss)

        train_stage(run, world, report, stage, look)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    seen = Trainings()
    monkeypatch.setattr(cell_spec, "train_stage", seen.train)
    return seen


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COIN_RAY_WORKSPACE", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("data") / "tiles"
    generated_samples(top, 2, size=96, seed=3)
    return top


def call(*args: str | Path, where: tuple[str, ...] = ("--local",)) -> Result:
    told = ["ucis", "train", *map(str, args), *where, "--mpp", "0.25"]
    return CliRunner().invoke(cli.app, told)


def rows(folder: Path) -> list[dict[str, Any]]:
    (journal,) = (folder / ".coin-ray" / "journal").glob("*.jsonl")
    return [json.loads(line) for line in journal.read_text().splitlines()]


@pytest.mark.parametrize("model", STUDIES)
def test_a_model_is_trained_once_and_written(
    trainings: Trainings, folder: Path, images: Path, model: str
) -> None:
    done = call(model, "--data", images, *SETTINGS, "--out", "models", "--no-tracking")
    assert done.exit_code == 0, done.output
    assert trainings.steps == [1, 2, 3]
    assert "1 cell; to compute: ucis_model 1; stored: 0" in done.output
    file = folder / "models" / f"tiles-{model}.safetensors"
    card = yaml.safe_load(file.with_suffix(".yaml").read_text())
    with safe_open(file, "np") as stored:
        settings = json.loads(stored.metadata()["settings"])
        names = stored.keys()
        weights = {name: stored.get_tensor(name) for name in names}
    assert card["settings"] == {"ucis": settings}
    assert settings["model"] == model
    assert settings[model]["batch"] == {"ssa": 3, "psm": 2, "detector": 2}[model]
    assert card["losses"]["ucis_loss"] > 0 and len(card["images"]) == 2

    # A study on the same images finds the model, and its masks are those that were written.
    request = Request(data=(str(images),), settings=tuple(SETTINGS[1::2]), mpp=0.25)
    study = resolve(STUDIES[model], request)
    cell = [c for c in study.cells if c.config.ucis.model == model and c.config.ucis.trained][-1]
    data = resolve_data(cell.data, folder / ".coin-ray")
    run = open_local(cell.config, 0, data.train, folder / ".coin-ray")
    found = run.artifact("ucis_model")
    assert all(found.arrays[name].tobytes() == array.tobytes() for name, array in weights.items())
    for sample in data.samples:
        mask = read_foreground(folder / "models" / "tiles" / f"{sample.name}.tif")
        np.testing.assert_array_equal(mask, run.array("ucis", sample.image))

    again = call(model, "--data", images, *SETTINGS, "--no-tracking")
    assert again.exit_code == 0 and "to compute: nothing; stored: 1" in again.output
    assert trainings.steps == [1, 2, 3]


def test_segment_draws_with_a_trained_model(
    trainings: Trainings, folder: Path, images: Path
) -> None:
    new = generated_samples(folder / "new", 1, size=96, seed=9)[0]
    from_study = ["--from", "main_comparison:SSA", "--data", str(images), *SETTINGS]
    told = ["segment", str(new.image.path), *from_study, "--out", "drawn", "--mpp", "0.25"]
    early = CliRunner().invoke(cli.app, told)
    assert early.exit_code == 2 and "this cell has not finished" in early.stderr
    assert call("ssa", "--data", images, *SETTINGS, "--no-tracking").exit_code == 0
    done = CliRunner().invoke(cli.app, told)
    assert done.exit_code == 0, done.output
    file = folder / "drawn" / f"{new.name}.labels.ome.tif"
    drawn = read_foreground(file)
    assert drawn.shape == (96, 96) and 0 < drawn.mean() < 1
    study = resolve("main_comparison", Request(data=(str(images),), settings=tuple(SETTINGS[1::2])))
    cell = next(c for c in study.cells if c.level == "SSA")
    data = resolve_data(cell.data, folder / ".coin-ray")
    run = open_local(cell.config, 0, data.train, folder / ".coin-ray")
    image = replace(new.image, mpp=0.25)
    np.testing.assert_array_equal(drawn, run.labels_at(image, "step1") > 0)
    assert CliRunner().invoke(cli.app, told).exit_code == 0  # our own are replaced
    file.write_bytes(b"corrected by hand")
    kept = CliRunner().invoke(cli.app, told)
    assert kept.exit_code == 2 and "changed since" in kept.stderr
    assert CliRunner().invoke(cli.app, [*told, "--overwrite"]).exit_code == 0

    among = CliRunner().invoke(cli.app, [*told, "--out", str(images / "image")])
    assert among.exit_code == 2 and "among the images" in among.stderr
    cluster = CliRunner().invoke(cli.app, [*told, "--address", "local"])
    assert cluster.exit_code == 2 and "--address" in cluster.stderr
    broken, told[told.index("--out") + 1] = folder / "broken.png", "again"
    broken.write_bytes(new.image.path.read_bytes()[:300])
    stopped = CliRunner().invoke(cli.app, [*told, str(broken)])
    assert stopped.exit_code == 2 and "broken.png" in stopped.stderr and stopped.stdout == ""
    assert not (folder / "again").exists()
    (folder / "again").write_text("")
    stopped = CliRunner().invoke(cli.app, told)
    assert stopped.exit_code == 2 and "again: a file where a folder is needed" in stopped.stderr


def test_the_same_command_continues_and_the_losses_are_tracked(
    trainings: Trainings, folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replay, "run", lambda replay, late: 0)  # the journal is what MLflow gets
    trainings.stop = 2
    stopped = call("ssa", "--data", images, *SETTINGS)
    assert stopped.exit_code == 130 and "the same command continues" in stopped.output
    assert trainings.steps == [1, 2]
    trainings.stop = None
    done = call("ssa", "--data", images, *SETTINGS)
    assert done.exit_code == 0, done.output
    assert trainings.steps == [1, 2, 3]
    told = rows(folder)
    curve = [(r["step"], r["metrics"]["ucis_loss"]) for r in told if r["event"] == "Metrics"]
    assert [step for step, _ in curve] == [1, 2, 3]
    (finished,) = [r for r in told if r["event"] == "CellFinished"]
    assert finished["metrics"]["ucis_loss"] == curve[-1][1]
    assert {"ucis_classification", "ucis_smoothness"} <= set(finished["metrics"])
    assert [r["interrupted"] for r in told if r["event"] == "StudyFinished"] == [True, False]


def test_a_failed_training_is_told(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    term = ssa.smoothness
    monkeypatch.setattr(ssa, "smoothness", lambda *given: term(*given) * math.nan)
    done = call("ssa", "--data", images, *SETTINGS, "--no-tracking")
    assert done.exit_code == 1
    assert "the training loss is not finite" in done.stderr
    assert "the same command tries the failed cells again" in done.stderr


def test_missing_imagenet_weights_stop_before_anything_starts(
    images: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COIN_RAY_HOME", str(folder))
    paper = ("--profile", "coin", "--device", "cpu")
    done = call("ssa", "--data", images, *paper, "--no-tracking")
    assert done.exit_code == 2
    assert "coin-ray models fetch resnet34_imagenet" in done.stderr


@pytest.mark.slow
def test_a_cluster_trains_the_same_model_and_nothing_else(
    folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replay, "run", lambda replay, late: 0)
    made = []
    for where in ((), ("--local",)):
        shutil.rmtree(folder / ".coin-ray", ignore_errors=True)
        done = call("ssa", "--data", images, *SETTINGS, "--out", str(len(where)), where=where)
        assert done.exit_code == 0, done.output
        made.append((folder / str(len(where)) / "tiles-ssa.safetensors").read_bytes())
        stages = [r["stages"] for r in rows(folder) if r["event"] == "Stages"]
        assert [list(made_of) for made_of in stages] == [["ucis_model"]]
        assert not list((folder / ".coin-ray" / "runs").glob("*/*/metrics.json"))
    assert made[0] == made[1]
