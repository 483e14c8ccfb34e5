"""A slide from its file to its results: background, stains, damage, interruption, two runs."""

from __future__ import annotations

import json
import pickle
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


def test_a_format_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "find_spec", lambda name: None)
    for kind, extra in (("zarr", "slides"), ("spatialdata", "spatialdata")):
        with pytest.raises(UserError, match=rf"coin-ray\[{extra}\]"):
            results.names_of("a", [kind])
    assert results.names_of("a", ["geojson"])[0] == "a.geojson.gz"


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
    done = CliRunner().invoke(app, [*asked, "--formats", "geojson,coco,coco", "--device", "cpu"])
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
    # The images of a data set: an overlay among them would be one.
    (images := tmp_path / "set" / "image").mkdir(parents=True)
    (one := images / "a.png").write_bytes((tiles / "a.png").read_bytes())
    among = CliRunner().invoke(app, ["segment", str(one), "--out", str(images)])
    assert among.exit_code == 2 and [p.name for p in images.iterdir()] == ["a.png"]
    slides = tmp_path / "slides"
    slides.mkdir()
    write_svs(slides / "c.svs", tissue(300, 300))
    among = CliRunner().invoke(app, ["segment", str(slides), "--out", str(slides)])
    assert among.exit_code == 2 and "among the images" in among.output
    assert CliRunner().invoke(app, [*asked, "--formats", ","]).exit_code == 2
    wrong = CliRunner().invoke(app, [*asked, "--formats", "svg"])
    assert wrong.exit_code == 2
    assert "labels, geojson, table, coco" in wrong.output
