"""What goes into a conversion comes out, or is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from coin_ray import cli
from coin_ray.data.convert import convert
from coin_ray.data.folder import find_samples
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError
from tests.data_files import rgb, save
from tests.written_labels import read_coco

IDS = np.kron(np.eye(4, dtype=np.uint16) * [1, 2, 3, 4], np.ones((5, 6), np.uint16)).astype(
    "uint16"
)


def call(*args: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", "convert", *map(str, args)])


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """One labelled image and one without labels."""
    for name in ("a.tif", "b.jpg"):
        save(tmp_path / "tiles" / "image" / name, rgb())
    save(tmp_path / "tiles" / "label" / "a.tif", IDS)
    return tmp_path / "tiles"


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


WRITTEN = {
    "tif": (["image/a.tif", "image/b.tif", "label/a.tif"], "2 images, 1 label maps"),
    "folder": (["image/a.png", "image/b.png", "label/a.tif"], "2 images, 1 label maps"),
    "overlay": (["a.png"], "1 images, 1 label maps"),
    "geojson": (["a.geojson"], "1 images, 1 label maps"),
    "coco": (["instances_coco.json"], "1 images, 1 label maps"),
}


@pytest.mark.parametrize(("kind", "expected", "said"), [(k, *v) for k, v in WRITTEN.items()])
@pytest.mark.filterwarnings("ignore")
def test_images_without_labels_are_said(
    tiles: Path, tmp_path: Path, kind: str, expected: list[str], said: str
) -> None:
    done = call(tiles, "--to", kind, "--out", tmp_path / "out", "--mpp", 0.25)
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "out") == expected
    assert said in done.stdout
    assert "1 images have no label map" in done.stderr and ": b" in done.stderr


def test_nothing_to_make_a_format_of_labels_from(tmp_path: Path) -> None:
    save(tmp_path / "a.png", rgb())
    done = call(tmp_path, "--to", "coco", "--out", tmp_path / "out", "--mpp", 0.25)
    assert done.exit_code == 2 and "no image has a label map" in done.stderr
    assert not (tmp_path / "out").exists()


def test_coco_names_the_files_that_are_there(tmp_path: Path) -> None:
    """The files of several folders below the one that holds them; a picture is written for an
    image that has no file of its own."""
    for place in ("train", "test"):
        save(tmp_path / "in" / place / "a.tif", rgb())
        save(tmp_path / "in" / place / "label" / "a.tif", IDS)
    samples = [s for p in ("train", "test") for s in find_samples(tmp_path / "in" / p, mpp=0.25)]
    np.save(tmp_path / "in" / "many.npy", np.stack([rgb(), rgb()]))
    own = Image("many_1", tmp_path / "in" / "many.npy", dataset="in", split="x", index=1)
    own = replace(own, read=samples[0].image.load)  # type: ignore[arg-type]
    samples.append(replace(samples[0], image=own))
    convert(samples, "coco", tmp_path / "out")
    assert files(tmp_path / "out") == ["images/x/many_1.png", "instances_coco.json"]
    expected = {"train/a.tif", "test/a.tif", "images/x/many_1.png"}
    assert read_coco(tmp_path / "out" / "instances_coco.json").keys() == expected
    content = json.loads((tmp_path / "out" / "instances_coco.json").read_text())
    assert {row["file_name"] for row in content["images"]} == expected


def test_a_set_with_a_copy_of_itself(tmp_path: Path) -> None:
    for folder in ("MoNuSegTestData", "MoNuSegTestData/backup"):
        save(tmp_path / folder / "a.tif", rgb())
        (tmp_path / folder / "a.xml").write_text("<Annotations/>")
    done = call(tmp_path, "--to", "tif", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "two images of one name" in done.stderr and "backup/a.tif" in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_images_that_would_be_one_file(tmp_path: Path) -> None:
    save(tmp_path / "a.png", rgb())
    image = Image("a", tmp_path / "a.png", dataset="x")
    for other in ("a", "A"):
        with pytest.raises(UserError, match="become one file"):
            convert([Sample(image), Sample(replace(image, name=other))], "tif", tmp_path / "out")
    assert files(tmp_path) == ["a.png"]
    convert([Sample(image), Sample(replace(image, split="test"))], "tif", tmp_path / "out")
    assert files(tmp_path / "out") == ["no split/image/a.tif", "test/image/a.tif"]


@pytest.mark.parametrize("kind", ["tif", "folder", "coin"])
def test_the_resolution_travels(tiles: Path, tmp_path: Path, kind: str) -> None:
    call(tiles, "--to", kind, "--out", tmp_path / "out", "--mpp", 0.5)
    place = tmp_path / "out" / "tiles" / "test" if kind == "coin" else tmp_path / "out"
    assert [s.mpp for s in find_samples(place)] == pytest.approx([0.5, 0.5])


def test_a_folder_that_is_there_is_filled_and_stays(tiles: Path, tmp_path: Path) -> None:
    """It may be a mounted disk, or a link to one."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    before = (tmp_path / "disk").stat().st_ino
    assert call(tiles, "--to", "tif", "--out", tmp_path / "out", "--mpp", 0.25).exit_code == 0
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk").stat().st_ino == before
    assert files(tmp_path / "disk") == ["image/a.tif", "image/b.tif", "label/a.tif"]


def test_a_conversion_that_fails_leaves_nothing(tiles: Path, tmp_path: Path) -> None:
    (tiles / "image" / "b.jpg").write_bytes(b"broken")
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        assert call(tiles, "--to", "tif", "--out", tmp_path / name, "--mpp", 0.25).exit_code == 2
    assert not (tmp_path / "new").exists() and not list((tmp_path / "there").iterdir())
