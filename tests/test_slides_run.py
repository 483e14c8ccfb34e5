"""A slide from its file to its results: background, stains, damage, interruption, two runs."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coin_ray.errors import UserError
from coin_ray.outputs import claim
from coin_ray.slides import results, run
from coin_ray.slides.method import Method
from coin_ray.slides.reading import Slide, open_slide
from coin_ray.slides.writing import FOLDERS, FORMATS
from tests.slide_files import tissue, write_pyramid, write_svs
from tests.test_slides_tiles import CONFIG

METHOD = Method(CONFIG)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 2 x 3 tiles, of which four hold tissue."""
    image = np.full((700, 1000, 3), 243, dtype=np.uint8)
    image[:330, 40:440] = tissue(330, 400)
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(path, image, levels=2)
    return path


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SIDE", 192)
    monkeypatch.setattr(run, "SAMPLE", 128)


def write(work: run.Work, slide: Slide, out: Path, done: list[run.Done]) -> int:
    kinds = [kind for kind in FORMATS if kind not in FOLDERS]
    files = results.names_of("slide", kinds)
    return results.write_results(work, slide, "slide", claim(out, files), kinds, done)


def test_a_slide_is_segmented_once_and_interrupted_without_loss(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = open_slide(path)
    work = run.prepare(slide, METHOD, tmp_path / "tiles")
    assert work.background > 10
    assert 0 < len(work.tiles) < 12
    assert not work.hint
    tiles = run.run_here(work, slide)
    first = next(tiles)
    tiles.close()  # as Ctrl-C between two tiles
    calls = []
    segment = run.segment

    def counted(*given: object) -> object:
        calls.append(given)
        return segment(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "segment", counted)
    again = run.prepare(open_slide(path), METHOD, tmp_path / "tiles")
    done = list(run.run_here(again, slide))
    assert done[0] == first
    assert len(calls) == len(work.tiles) - 1
    total = write(again, slide, tmp_path / "out", done)
    assert total == sum(one.nuclei for one in done) > 50
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("slide*")}
    assert write(again, slide, tmp_path / "out", list(run.run_here(again, slide))) == total
    assert len(calls) == len(work.tiles) - 1
    for name, content in files.items():
        assert (tmp_path / "out" / name).read_bytes() == content, name
    page = (tmp_path / "out" / "slide.html").read_text()
    assert f"<td>{total:,}" in page
    assert page.count("data:image/") >= 4


def test_the_student_of_a_slide_is_built_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coin_ray.distillation import network
    from coin_ray.weights.modules import to_arrays

    student = CONFIG.student.model_copy(update={"width": 4})
    infer = CONFIG.infer.model_copy(update={"scales": (1.0,), "hflip": False, "redraw": False})
    config = CONFIG.model_copy(update={"student": student, "infer": infer})
    weights = to_arrays(network.build_student(student, pretrained=False).state_dict())
    built, build = [], network.student_from_weights

    def counted(*given: object) -> object:
        built.append(given)
        return build(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "student_from_weights", counted)
    slide = open_slide(path)
    work = run.prepare(slide, Method(config, student=weights), tmp_path / "tiles")
    assert len(list(run.run_here(work, slide))) > 1 and len(built) == 1
    assert "network" not in vars(pickle.loads(pickle.dumps(work.method)))  # noqa: S301


def test_other_settings_or_another_slide_take_other_files(path: Path, tmp_path: Path) -> None:
    slide = open_slide(path)
    one = run.prepare(slide, METHOD, tmp_path)
    sam = CONFIG.sam.model_copy(update={"prompt": "centroid"})
    other = run.prepare(slide, Method(CONFIG.model_copy(update={"sam": sam})), tmp_path)
    assert one.folder != other.folder
    copy = tmp_path / "slide.tif"
    copy.write_bytes(path.read_bytes())
    assert run.prepare(open_slide(copy), METHOD, tmp_path).folder != one.folder
    with pytest.warns(UserWarning, match="replaces"):
        assert run.prepare(open_slide(path, 0.3), METHOD, tmp_path).folder != one.folder


def test_a_damaged_file_of_a_tile_is_made_again(path: Path, tmp_path: Path) -> None:
    slide = open_slide(path)
    work = run.prepare(slide, METHOD, tmp_path)
    tile = work.tiles[-1]
    done = run.do_tile(work, slide, tile)
    file = work.folder / f"{tile.name}.npz"
    file.write_bytes(file.read_bytes()[:50])
    assert run.do_tile(work, slide, tile) == done


def test_tiles_that_cannot_be_read_are_skipped_and_listed(path: Path, tmp_path: Path) -> None:
    import tifffile

    broken = tmp_path / "broken.tif"
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[8]  # 256 px square at y 512, x 0
    content = bytearray(path.read_bytes())
    content[offset : offset + 100] = b"\xff" * 100
    broken.write_bytes(content)
    slide = open_slide(broken)
    work = run.prepare(slide, METHOD, tmp_path / "out" / ".tiles")
    done = list(run.run_here(work, slide))
    bad = [one for one in done if one.problem]
    assert 0 < len(bad) < len(done)
    assert all(one.tile.seen[1] < 256 and one.tile.seen[2] > 512 for one in bad)
    total = write(work, slide, tmp_path / "out", done)
    assert total == sum(one.nuclei for one in done) > 0
    page = (tmp_path / "out" / "slide.html").read_text()
    assert all(one.tile.name in page for one in bad)
    from typer.testing import CliRunner

    from coin_ray.cli import app

    asked = ["segment", str(broken), "--out", str(tmp_path / "out"), "--device", "cpu"]
    asked += ["--set", "ucis.model=stain"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 1, said.output
    assert said.output.count("was skipped") == len(bad)
    assert f"{total:,} nuclei" in said.output
    assert len(list(work.folder.iterdir())) == len(done) - len(bad)


def test_a_blank_slide_has_no_nuclei(tmp_path: Path) -> None:
    path = tmp_path / "blank.tif"
    write_pyramid(path, np.full((700, 900, 3), 243, dtype=np.uint8), levels=1)
    slide = open_slide(path)
    work = run.prepare(slide, METHOD, tmp_path / "tiles")
    assert work.tiles == ()
    assert write(work, slide, tmp_path / "out", []) == 0


def test_another_stain_is_said(tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    write_pyramid(path, np.repeat(tissue(500, 600)[..., :1], 3, axis=2), levels=1)
    work = run.prepare(open_slide(path), METHOD, tmp_path / "tiles")
    assert "H&E" in work.hint


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from coin_ray.slides.results import locked\n"
        f"with locked(Path({str(tmp_path)!r})): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="another"), results.locked(tmp_path):
            pass
    finally:
        other.communicate(b"")
    with results.locked(tmp_path):
        pass


def test_a_full_disk_leaves_no_half_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from coin_ray.slides import nuclei

    slide = open_slide(path)
    work = run.prepare(slide, METHOD, tmp_path)

    def full(*given: object, **named: object) -> None:
        Path(str(given[0])).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(nuclei.np, "savez_compressed", full)
        with pytest.raises(OSError, match="No space") as error:
            run.do_tile(work, slide, work.tiles[-1])
    assert error.value.filename == str(work.folder / f"{work.tiles[-1].name}.npz")
    assert list(work.folder.iterdir()) == []
    assert run.do_tile(work, slide, work.tiles[-1]).problem == ""


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


def test_a_format_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "find_spec", lambda name: None)
    for kind, extra in (("zarr", "slides"), ("spatialdata", "spatialdata")):
        with pytest.raises(UserError, match=rf"coin-ray\[{extra}\]"):
            results.names_of("a", [kind])
    assert results.names_of("a", ["geojson"])[0] == "a.geojson.gz"


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


def test_the_command_from_a_folder_to_files(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="zarr is not installed (extra: slides)")
    from PIL import Image
    from typer.testing import CliRunner

    from coin_ray.cli import app

    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for name in "ab":
        Image.fromarray(tissue(200, 240, seed=ord(name))).save(tiles / f"{name}.png")
    asked = ["segment", str(tiles), "--out", str(tmp_path / "out"), "--mpp", "0.25"]
    done = CliRunner().invoke(app, [*asked, "--formats", "geojson,coco", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    found = {p.name for p in (tmp_path / "out").iterdir()}
    for name in "ab":
        assert {f"{name}.geojson.gz", f"{name}.coco.json", f"{name}.overlay.jpg"} <= found
        rows = json.loads((tmp_path / "out" / f"{name}.coco.json").read_text())["annotations"]
        assert f"{name}: {len(rows)} nuclei" in done.output
    zarr = CliRunner().invoke(app, [*asked, "--formats", "zarr,zarr-0.4", "--device", "cpu"])
    assert zarr.exit_code == 0, zarr.output
    assert (tmp_path / "out" / "b.labels.zarr" / "zarr.json").is_file()
    assert (tmp_path / "out" / "b.labels-0.4.zarr" / ".zattrs").is_file()
    twice = CliRunner().invoke(app, [*asked, str(tiles / "a.png"), "--formats", "geojson"])
    assert twice.exit_code == 0
    among = CliRunner().invoke(app, ["segment", str(tiles), "--out", str(tiles)])
    assert among.exit_code == 2
    slides = tmp_path / "slides"
    slides.mkdir()
    write_svs(slides / "c.svs", tissue(300, 300))
    among = CliRunner().invoke(app, ["segment", str(slides), "--out", str(slides)])
    assert among.exit_code == 2 and "among the images" in among.output
    assert CliRunner().invoke(app, [*asked, "--formats", ","]).exit_code == 2
    wrong = CliRunner().invoke(app, [*asked, "--formats", "svg"])
    assert wrong.exit_code == 2
    assert "labels, geojson, table, coco" in wrong.output
