"""What learns on slides, or draws them: a student, the detector, a file of either."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coin_ray.errors import UserError
from coin_ray.slides import run
from tests.slide_files import tissue, write_pyramid
from tests.test_slides_tiles import CONFIG


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SIDE", 192)
    monkeypatch.setattr(run, "SAMPLE", 128)


def test_what_is_for_generated_tiles_does_not_count_for_slides() -> None:
    from coin_ray.api.segmenting import method_of
    from coin_ray.study.command_line import Request
    from coin_ray.study.study import resolve

    generated, own = (
        resolve("baseline", Request(own=own)).cells[0].config for own in (False, True)
    )
    assert generated.student.iterations < own.student.iterations
    assert method_of().config.student == own.student


def test_a_student_is_trained_exported_and_used(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from coin_ray.cli import app

    path = tmp_path / "tile.tif"
    write_pyramid(path, tissue(300, 300), levels=1)
    short = [
        *("--set", "rounds.count=1", "--set", "student.iterations=2", "--set", "student.crop=64"),
        *("--workspace", str(tmp_path / "ws"), "--device", "cpu"),
    ]
    asked = ["segment", str(path), "--formats", "coco", *short]
    done = CliRunner().invoke(app, [*asked, "--adapt", "--out", str(tmp_path / "adapted")])
    assert done.exit_code == 0, done.output
    adapted = (tmp_path / "adapted" / "tile.coco.json").read_bytes()
    stored = sorted((tmp_path / "ws").rglob("*"))
    # A copy of a slide is no other window: nothing is trained again.
    copy = str(shutil.copy(path, tmp_path / "copy.tif"))
    again = [asked[0], copy, *asked[1:], "--adapt", "--out", str(tmp_path / "again")]
    done = CliRunner().invoke(app, again)
    assert (tmp_path / "again" / "tile.coco.json").read_bytes() == adapted
    assert sorted((tmp_path / "ws").rglob("*")) == stored

    # The same cell as a study, with the windows as its data: the store has its student.
    study = ["--data", str(tmp_path / "ws" / "adapt"), *short[:8]]
    model = tmp_path / "student.safetensors"
    missing = CliRunner().invoke(
        app, ["export", "baseline", "--out", str(model), *study, "--seeds", "7,8"]
    )
    assert missing.exit_code == 2, missing.output
    assert "coin-ray sweep" in missing.output
    done = CliRunner().invoke(app, ["export", "baseline", "--out", str(model), *study])
    assert done.exit_code == 0, done.output
    for name, taken in (
        ("model", ["--model", str(model)]),
        ("from", ["--from", "baseline", *study]),
    ):
        out = tmp_path / name
        done = CliRunner().invoke(app, [*asked[:4], "--device", "cpu", *taken, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert (out / "tile.coco.json").read_bytes() == adapted
    both = CliRunner().invoke(app, [*asked, "--adapt", "--model", str(model), "--out", str(out)])
    assert both.exit_code == 2


def test_the_detector_learns_on_the_slides_first(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from coin_ray.cli import app

    path = tmp_path / "tile.tif"
    write_pyramid(path, tissue(300, 300), levels=1)
    where = ("--formats", "coco", "--workspace", str(tmp_path / "ws"), "--device", "cpu")
    asked = ["segment", str(path), *where]

    def drawn(name: str, *more: str) -> tuple[str, bytes]:
        done = CliRunner().invoke(app, [*asked, *more, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        return done.output, (tmp_path / name / "tile.coco.json").read_bytes()

    short = ("--adapt", "--set", "ucis.detector.iterations=3", "--set", "ucis.detector.lr=1e-3")
    said, adapted = drawn("adapted", *short)
    assert "training the detector" in said and "100.0%  loss" in said
    assert adapted != drawn("plain")[1]
    stored = sorted((tmp_path / "ws").rglob("*"))
    assert drawn("again", *short)[1] == adapted
    assert sorted((tmp_path / "ws").rglob("*")) == stored
    for said, more in (
        ("nothing is trained without --adapt", ("--set", "ucis.detector.rounds=1")),
        ("1 or more", ("--adapt", "--set", "ucis.detector.rounds=0")),
    ):
        done = CliRunner().invoke(app, [*asked, *more, "--out", str(tmp_path / "no")])
        assert done.exit_code == 2 and said in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--train", "tiles", "--adapt"), "--train would change nothing"),
        (("--data", "tiles", "--seeds", "2"), "--data, --seeds would change nothing"),
        (("--model", "a.safetensors", "--set", "infer.redraw=false"), "--set would change nothing"),
        (("--set", "ucis.model=maskcut"), "stain or detector"),
        (("--model", "."), "not a student that coin-ray exported"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    from typer.testing import CliRunner

    from coin_ray.cli import app

    write_pyramid(tmp_path / "tile.tif", tissue(64, 64), levels=1)
    asked = ["segment", str(tmp_path / "tile.tif"), "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(app, [*asked, "--device", "cpu", "--workspace", str(tmp_path / "ws")])
    assert done.exit_code == 2 and said in done.output, done.output
    assert not (tmp_path / "out").exists()


def test_a_student_s_file_says_what_it_is(tmp_path: Path) -> None:
    from safetensors import safe_open

    from coin_ray.slides.students import export_student, load_student

    model = tmp_path / "student.safetensors"
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    export_student(model, arrays, CONFIG, {"study": "s", "level": "l", "seed": "0"})
    method = load_student(model)
    assert method.config == CONFIG
    assert method.student is not None
    np.testing.assert_array_equal(method.student["w"], arrays["w"])
    with safe_open(model, "np") as file:
        assert "level: l" in file.metadata()["card"]
    for content in (b"", b"no student", model.read_bytes()[:-4]):
        model.write_bytes(content)
        with pytest.raises(UserError, match="coin-ray export"):
            load_student(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "the detector"),
        (("--set", "ucis.model=detector"), "the detector"),
        (("--set", "infer.redraw=true"), "the detector, redrawn"),
        (("--set", "ucis.model=stain"), "coarse mask, redrawn"),
    ],
)
def test_without_a_student_the_detector_draws_unless_another_is_asked_for(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    import polars
    from typer.testing import CliRunner

    from coin_ray.cli import app

    write_pyramid(tmp_path / "tile.tif", tissue(200, 240), levels=1)
    asked = ["segment", str(tmp_path / "tile.tif"), "--out", str(tmp_path / "out"), "--mpp", "0.25"]
    done = CliRunner().invoke(app, [*asked, *options, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert f">{said}<" in (tmp_path / "out" / "tile.html").read_text()
    scores = polars.read_parquet(tmp_path / "out" / "tile.parquet")["score"]
    assert len(scores) and scores.is_between(0, 1).all()
    # The detector's own score is its mean probability, and it drops what is less sure.
    assert (scores.min() >= 0.85) == (said == "the detector")


@pytest.mark.parametrize("ran_with", [None, 0.5])
def test_the_resolution_of_the_slides_may_be_told_their_study_too(
    monkeypatch: pytest.MonkeyPatch, ran_with: float | None
) -> None:
    """Of a study that ran with ``--mpp``, no option named its cell."""
    from coin_ray.cli.options import Asked
    from coin_ray.cli.verbs import export, segment
    from coin_ray.data.dataset import DataSet
    from coin_ray.report.values.finished import NotFinished
    from coin_ray.study.command_line import Request
    from coin_ray.workspace import Workspace

    def finished(asked: Asked, named: str, device: str) -> Any:
        if asked.request.mpp != ran_with:
            raise NotFinished("this cell has not finished")
        config = CONFIG.model_copy(update={"rounds": CONFIG.rounds.model_copy(update={"count": 0})})
        return named, SimpleNamespace(config=config), "the run", DataSet(train=(), samples=())

    monkeypatch.setattr(export, "finished", finished)
    asked = Asked("", Request(mpp=0.5, data=("tiles",)), Workspace(Path()))
    method, read = segment.method_of(asked, "cpu", None, "study", False)
    assert method.run == "the run" and read == []
