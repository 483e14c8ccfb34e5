"""Open a tile in napari, segment it, correct it and save it, without a screen."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.data.label_files import read_label_map
from coin_ray.errors import UserError
from coin_ray.slides.method import segment
from tests.conftest import ROOT
from tests.slide_files import halved, tissue, write_ome_tiff, write_pyramid

npe2 = pytest.importorskip("npe2", reason="napari is not installed (extra: napari)")
IMAGE = tissue(256, 300)


@pytest.fixture(scope="module", autouse=True)
def manifest() -> Any:
    """The plugin, known to napari as an installation makes it known."""
    found = npe2.PluginManifest.from_file(ROOT / "coin_ray" / "api" / "napari.yaml")
    manager = npe2.PluginManager.instance()
    if "coin-ray" not in manager:
        manager.register(found)
    return found


def test_the_manifest_names_functions_and_an_installation_finds_it(manifest: Any) -> None:
    manifest.validate_imports()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    where = project["entry-points"]["napari.manifest"]["coin-ray"]
    module, file = where.split(":")
    assert (ROOT / module.replace(".", "/") / file).is_file()


def test_open_segment_correct_save(tmp_path: Path) -> None:
    from magicgui import magic_factory
    from napari.components import ViewerModel

    from coin_ray.api import napari
    from coin_ray.api.segmenting import method_of

    path = tmp_path / "tile.tif"
    write_pyramid(path, IMAGE, levels=1)
    viewer = ViewerModel()
    (image,) = viewer.open(path, plugin="coin-ray")
    np.testing.assert_array_equal(image.data, IMAGE)
    assert image.scale.tolist() == [0.25, 0.25]
    assert callable(magic_factory(napari.segment))  # its arguments make a form
    data, about, kind = napari.segment(image)
    expected, _ = segment(IMAGE, method_of(), 1.0)
    np.testing.assert_array_equal(data, expected)
    nuclei = int(data.max())
    assert kind == "labels" and nuclei > 10
    labels = viewer.add_labels(data, **about)
    y, x = (int(v) for v in np.argwhere(data == 1)[0])
    labels.fill((y, x), 0)  # a person takes one away, and draws one
    labels.brush_size = 9
    labels.paint((5, 5), nuclei + 1)
    for name in ("tile.tif", "tile.geojson"):
        folder = tmp_path / name.split(".")[1]
        folder.mkdir()
        assert labels.save(str(folder / name), plugin="coin-ray") == [str(folder / name)]
        found = read_label_map(folder / name, data.shape)
        np.testing.assert_array_equal(found > 0, labels.data > 0)
        assert found.max() == nuclei  # one less, one more
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "tile.tif").write_bytes((tmp_path / "tif" / "tile.tif").read_bytes())
    asked = ["evaluate", str(tmp_path / "found"), str(tmp_path / "geojson")]
    assert CliRunner().invoke(cli.app, asked).exit_code == 0


def test_a_slide_opens_with_its_levels_and_is_not_segmented_here(tmp_path: Path) -> None:
    from napari.components import ViewerModel

    from coin_ray.api import napari

    write_ome_tiff(tmp_path / "slide.ome.tif", IMAGE, levels=2)
    (image,) = ViewerModel().open(tmp_path / "slide.ome.tif", plugin="coin-ray")
    assert image.multiscale and [level.shape for level in image.data] == [
        (256, 300, 3),
        (128, 150, 3),
    ]
    np.testing.assert_array_equal(np.asarray(image.data[0][3:50, 7:90]), IMAGE[3:50, 7:90])
    np.testing.assert_array_equal(np.asarray(image.data[1]), halved(IMAGE))
    with pytest.raises(UserError, match="coin-ray segment"):
        napari.segment(image)
