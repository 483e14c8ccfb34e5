"""Each output of `segment` is opened by a reader that we did not write, and is what was found."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from coin_ray.data.synthetic import generate_tile
from coin_ray.errors import UserError
from coin_ray.labels import LabelMap, areas, count
from coin_ray.outputs import claim
from coin_ray.slides import tiles
from coin_ray.slides.nuclei import Nuclei, measure
from coin_ray.slides.writing import Frame
from coin_ray.slides.writing.coco import write_coco
from coin_ray.slides.writing.geojson import write_geojson
from coin_ray.slides.writing.label_map import write_label_map
from coin_ray.slides.writing.spatialdata import write_shapes
from coin_ray.slides.writing.table import write_table
from coin_ray.slides.writing.zarr import write_zarr

IMAGE, TRUTH = (a[:1100, :1300] for a in generate_tile(5, 1300, diameter=24, crowding=0.7))
TRUTH = np.ascontiguousarray(TRUTH)
RING = TRUTH.max() + 1
TRUTH[40:90, 40:90] = RING  # with a hole, in which another one lies, and a piece apart
TRUTH[50:80, 50:80] = 0
TRUTH[60:70, 60:70] = RING + 1
TRUTH[95:99, 40:44] = RING


def parts() -> Iterator[Nuclei]:
    for tile in tiles.plan_tiles(TRUTH.shape, 384):
        y0, x0, y1, x1 = tile.seen
        from coin_ray.labels import numbered

        kept, _ = tiles.owned(tile, numbered(TRUTH[y0:y1, x0:x1])[1])
        yield measure(IMAGE[y0:y1, x0:x1], kept, (y0, x0), np.linspace(0, 1, count(kept)))


PARTS = list(tiles.merged(parts()))
TOTAL = sum(map(len, PARTS))
EXPECTED = np.zeros_like(TRUTH)
_last = 0
for _part in PARTS:
    (_y, _x), (_h, _w) = _part.corner_yx, _part.label_map.shape
    _at = EXPECTED[_y : _y + _h, _x : _x + _w]
    _at[_part.label_map > 0] = (_part.label_map + _last)[_part.label_map > 0]
    _last += len(_part)


def frame(downsample: float = 1.0) -> Frame:
    tops = tuple(part.corner_yx[0] for part in PARTS)
    return Frame("slide & <one>", 0.25, TRUTH.shape, downsample, tops, TOTAL)


def ious(drawn: LabelMap) -> np.ndarray:
    both = np.bincount(EXPECTED[drawn == EXPECTED], minlength=TOTAL + 1)[1:]
    found = np.bincount(drawn.ravel(), minlength=TOTAL + 1)[1:]
    return both / (areas(EXPECTED) + found - both)


def test_the_parts_are_what_is_there() -> None:
    assert len(np.unique(TRUTH)) - 1 == TOTAL
    assert ((EXPECTED > 0) == (TRUTH > 0)).all()


def test_the_label_map_opens_with_its_resolution(tmp_path: Path) -> None:
    import tifffile

    write_label_map(frame(2.0), lambda: PARTS, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        assert tif.is_ome
        page = tif.pages[0]
        assert (page.is_tiled, page.compression.name) == (True, "ADOBE_DEFLATE")
        assert 'PhysicalSizeX="0.5"' in (tif.ome_metadata or "")
        np.testing.assert_array_equal(tif.asarray(), EXPECTED)
    assert page.dtype == np.uint16


@pytest.mark.parametrize("downsample", [1.0, 2.0, 1.5])
def test_qupath_s_detections_are_the_nuclei(tmp_path: Path, downsample: float) -> None:
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed")
    path = tmp_path / "a.geojson.gz"
    write_geojson(frame(downsample), lambda: PARTS, path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        collection = json.load(file)
    found = geopandas.GeoDataFrame.from_features(collection)
    assert len(found) == TOTAL
    assert found.geometry.is_valid.all()
    size = areas(EXPECTED) * downsample**2
    np.testing.assert_allclose(found.geometry.area, size)
    properties = collection["features"][0]["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"] == {"name": "nucleus", "color": [255, 200, 0]}
    assert properties["measurements"]["area um^2"] == pytest.approx(size[0] * 0.0625, abs=1e-3)
    assert [p["name"] for p in found.to_dict("records")] == [str(i + 1) for i in range(TOTAL)]
    drawn = np.zeros_like(EXPECTED)
    scaled = found.geometry.scale(1 / downsample, 1 / downsample, origin=(0, 0))
    for index, shape in enumerate(scaled, start=1):
        draw(drawn, shape, index)
    assert ious(drawn).min() >= 0.999


def draw(out: LabelMap, shape: object, index: int) -> None:
    """Pixels whose middle lies in a geometry of shapely."""
    import shapely

    x0, y0, x1, y1 = (int(v) for v in shape.bounds)  # type: ignore[attr-defined]
    y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
    inside = shapely.contains_xy(shape, x.ravel() + 0.5, y.ravel() + 0.5).reshape(x.shape)
    out[y[inside], x[inside]] = index


def test_the_table_opens_in_pandas_and_geopandas(tmp_path: Path) -> None:
    import pandas

    write_table(frame(2.0), lambda: PARTS, tmp_path / "a.parquet")
    table = pandas.read_parquet(tmp_path / "a.parquet")
    assert table["id"].tolist() == list(range(1, TOTAL + 1))
    assert table.notna().all().all()
    from coin_ray.labels import centroids

    centres = (centroids(EXPECTED) + 0.5) * 2
    np.testing.assert_allclose(table[["y_px", "x_px"]], centres)
    np.testing.assert_allclose(table[["y_um", "x_um"]], centres * 0.25)
    np.testing.assert_allclose(table["area_um2"], areas(EXPECTED) * 0.25, rtol=1e-6)
    assert table["hematoxylin"].between(-1, 5).all()
    assert table["solidity"].between(0, 1).all()
    assert (table["minor_axis_um"] <= table["major_axis_um"] * 1.0001).all()
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed")
    shapes = geopandas.read_parquet(tmp_path / "a.parquet")
    assert shapes.geometry.is_valid.all()
    np.testing.assert_allclose(shapes.geometry.area, areas(EXPECTED) * 4)
    assert {len(g.geoms) for g in shapes.geometry if g.geom_type == "MultiPolygon"} >= {2}


def test_coco_s_own_tools_decode_the_masks(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    write_coco(frame(), lambda: PARTS, tmp_path / "a.json")
    found = coco.COCO(str(tmp_path / "a.json"))
    rows = found.loadAnns(found.getAnnIds())
    assert len(rows) == TOTAL
    drawn = np.zeros_like(EXPECTED)
    for row in rows:
        mask = found.annToMask(row) > 0
        assert mask.sum() == row["area"]
        drawn[mask] = row["id"]
        assert 0 <= row["score"] <= 1
    np.testing.assert_array_equal(drawn, EXPECTED)


def fresh(path: Path, write: Callable[[Path], None]) -> Path:
    with claim(path.parent, []).tree(path.name) as made:
        write(made)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_s_own_reader_opens_the_labels(tmp_path: Path, version: str) -> None:
    pytest.importorskip("ome_zarr", reason="ome-zarr is not installed (extra: readers)")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Reader

    path = fresh(tmp_path / "a.zarr", partial(write_zarr, frame(2.0), lambda: PARTS, version))
    location = parse_url(path)
    assert location is not None and location.fmt.version == version
    (node,) = Reader(location)()
    assert any(isinstance(spec, Label) for spec in node.specs)
    np.testing.assert_array_equal(node.data[0].compute(), EXPECTED)
    np.testing.assert_array_equal(node.data[1].compute(), EXPECTED[::2, ::2])
    assert [axis["name"] for axis in node.metadata["axes"]] == ["y", "x"]
    scales = [step[0]["scale"] for step in node.metadata["coordinateTransformations"]]
    assert scales == [[0.5, 0.5], [1.0, 1.0]]


def test_spatialdata_opens_the_shapes(tmp_path: Path) -> None:
    spatialdata = pytest.importorskip("spatialdata", reason="not installed (extra: spatialdata)")
    from spatialdata.transformations import get_transformation

    path = fresh(tmp_path / "a.zarr", partial(write_shapes, frame(2.0), lambda: PARTS))
    nuclei = spatialdata.read_zarr(path)["nuclei"]
    assert nuclei.index.tolist() == list(range(1, TOTAL + 1))
    np.testing.assert_allclose(nuclei.geometry.area, areas(EXPECTED) * 4)
    to_um = get_transformation(nuclei, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(np.diag(to_um), [0.25, 0.25, 1])
    centres = nuclei.geometry.centroid.x * 0.25
    assert np.abs(centres - nuclei["x_um"]).max() < 1e-6


def test_a_folder_is_replaced_whole_and_nothing_of_others(tmp_path: Path) -> None:
    def make(*names: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(f"{len(names)}")

        return write

    path = fresh(tmp_path / "a.zarr", make("zarr.json", "0/c/0/0", "0/c/0/1"))
    fresh(path, make("zarr.json", "0/c/0/0"))
    found = {p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()}
    assert found == {"zarr.json": "2", "0/c/0/0": "2"}
    (path / "0/c/0/0").write_text("corrected by hand")
    with pytest.raises(UserError, match="changed since"):
        fresh(path, make("zarr.json", "0/c/0/0"))
    assert (path / "0/c/0/0").read_text() == "corrected by hand"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".coin-ray-")]


def test_a_slide_without_nuclei_has_files_that_open(tmp_path: Path) -> None:
    import pandas
    import tifffile

    empty = Frame("none", 0.25, (600, 700), 1.0, (), 0)
    for write, name in (
        (write_label_map, "a.ome.tif"),
        (write_geojson, "a.geojson.gz"),
        (write_table, "a.parquet"),
        (write_coco, "a.json"),
    ):
        write(empty, list, tmp_path / name)
    if find_spec("spatialdata"):
        import spatialdata

        fresh(tmp_path / "s.zarr", partial(write_shapes, empty, list))
        assert list(spatialdata.read_zarr(tmp_path / "s.zarr").shapes) == []
    assert not tifffile.imread(tmp_path / "a.ome.tif").any()
    assert json.loads(gzip.decompress((tmp_path / "a.geojson.gz").read_bytes()))["features"] == []
    assert len(pandas.read_parquet(tmp_path / "a.parquet")) == 0
    assert json.loads((tmp_path / "a.json").read_text())["annotations"] == []
