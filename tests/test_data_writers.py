"""Every writer read back, on random maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coin_ray.data import coco, outlines
from coin_ray.data.geojson import features, read_geojson, write_geojson
from coin_ray.data.label_files import decode_coin, read_label_map
from coin_ray.data.rasters import read_raster
from coin_ray.data.write import (
    overlay,
    write_coin_png,
    write_image,
    write_label_map,
    write_overlay,
)
from coin_ray.errors import UserError
from coin_ray.labels import boundaries, relabel
from tests.written_labels import decode, read_coco

few = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def label_maps(draw):
    """Noise, thick noise or nested rings: pieces, holes, islands in holes, corner contacts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    kind = draw(st.sampled_from(["noise", "thick", "rings"]))
    if kind == "rings":
        y, x = np.mgrid[:height, :width]
        depth = np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x))
        return relabel(np.where(rng.random((height, width)) < 0.9, depth % 3, 0))
    noise = rng.integers(0, draw(st.integers(1, 5)), (height, width))
    return relabel(np.kron(noise, np.ones((2, 2), int)) if kind == "thick" else noise)


@few
@given(label_maps())
def test_label_tif(tmp_path_factory, label_map):
    path = tmp_path_factory.mktemp("tif") / "a.tif"
    write_label_map(path, label_map)
    found = read_label_map(path, label_map.shape, binary="instances")
    np.testing.assert_array_equal(found, label_map)


@pytest.mark.parametrize(("largest", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_label_tif_has_the_bits_it_needs(tmp_path, largest, dtype):
    label_map = np.arange(largest + 1, dtype=np.int32).reshape(1, -1)
    write_label_map(tmp_path / "a.tif", label_map)
    assert tifffile.imread(tmp_path / "a.tif").dtype == dtype
    assert (tmp_path / "a.tif").stat().st_size < label_map.size * 2  # compressed
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif"), label_map)


@few
@given(label_maps(), st.sampled_from([1, 255, 256, 6000]))
def test_coin_png(tmp_path_factory, label_map, step):
    path = tmp_path_factory.mktemp("coin") / "a.png"
    raw = label_map * step
    write_coin_png(path, raw)
    ids, ignore = decode_coin(read_raster(path).array, path)
    np.testing.assert_array_equal(ids, raw)
    assert not ignore.any()
    np.testing.assert_array_equal(read_label_map(path, binary="instances"), label_map)


def test_coin_png_by_hand(tmp_path):
    write_coin_png(tmp_path / "a.png", np.array([[0, 255, 256, 65_535]], dtype=np.int32))
    code = np.asarray(Image.open(tmp_path / "a.png"))
    assert code.tolist() == [[[0, 0, 0], [0, 255, 0], [0, 0, 1], [0, 255, 255]]]


def test_coin_png_ignore_is_white(tmp_path):
    label_map, ignore = np.array([[1, 2, 0]], np.int32), np.array([[False, True, True]])
    write_coin_png(tmp_path / "a.png", label_map, ignore)
    ids, back = decode_coin(read_raster(tmp_path / "a.png").array, tmp_path)
    np.testing.assert_array_equal(back, ignore)
    np.testing.assert_array_equal(ids, [[1, 0, 0]])


def test_coin_png_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(UserError, match=r"a\.png[\s\S]*65,535[\s\S]*65,536"):
        write_coin_png(tmp_path / "a.png", np.array([[65_536]], dtype=np.int32))
    assert not list(tmp_path.iterdir())


@few
@given(label_maps(), st.integers(0, 2**32 - 1))
def test_overlay(tmp_path_factory, label_map, seed):
    path = tmp_path_factory.mktemp("overlay") / "a.png"
    image = np.random.default_rng(seed).integers(0, 256, (*label_map.shape, 3), dtype=np.uint8)
    write_overlay(path, image, label_map)
    back = np.asarray(Image.open(path))
    np.testing.assert_array_equal(back, overlay(image, label_map))
    edge = boundaries(label_map)
    np.testing.assert_array_equal(back[~edge], image[~edge])
    assert (back[edge] == (255, 255, 0)).all()


@few
@given(label_maps())
def test_coco(tmp_path_factory, label_map):
    path = tmp_path_factory.mktemp("coco") / "a.json"
    coco.write_coco(path, [("a.png", label_map), ("b.png", label_map[:1])])
    back = read_coco(path)
    np.testing.assert_array_equal(back["a.png"], label_map)
    np.testing.assert_array_equal(back["b.png"], relabel(label_map[:1]))
    for row in json.loads(path.read_text())["annotations"][: int(label_map.max())]:
        y, x = np.nonzero(label_map == row["label"])
        assert row["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert row["area"] == len(y)


def test_coco_runs_by_hand():
    # 3 x 3, middle column and last pixel: column-major runs 3, 3, 2, 1; the fourth minus the second
    mask = np.array([[0, 1, 0], [0, 1, 0], [0, 1, 1]], dtype=bool)
    code = coco.encode(np.flatnonzero(mask.T.ravel()), mask.size)
    assert code == "332N"  # -2 in five bits is 30: "0" + 30 = "N"
    np.testing.assert_array_equal(decode(code, (3, 3)), mask)


@few
@given(label_maps())
def test_geojson(tmp_path_factory, label_map):
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    write_geojson(path, label_map)
    np.testing.assert_array_equal(read_geojson(path, label_map.shape), label_map)


@few
@given(label_maps())
def test_outlines(label_map):
    mask = label_map == 1
    area = 0.0
    for rings in outlines.trace(mask):
        for k, ring in enumerate(rings):
            x, y = ring.T
            np.testing.assert_array_equal(ring[0], ring[-1])
            assert ((np.diff(x) == 0) != (np.diff(y) == 0)).all()  # along the pixel edges
            turned = (np.diff(x)[:-1] == 0) != (np.diff(x)[1:] == 0)
            assert turned.all()  # no corner on a straight line
            signed = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
            assert (signed > 0) == (k == 0)  # outer ring first
            area += signed
    assert area == mask.sum()


def test_outline_of_one_pixel_and_of_a_ring():
    (only,) = outlines.trace(np.ones((1, 1), dtype=bool))
    assert [r.tolist() for r in only] == [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    (polygon,) = outlines.trace(ring)
    assert len(polygon) == 2
    assert len(outlines.trace(np.eye(3, dtype=bool))) == 3  # corners do not connect


def test_geojson_for_qupath():
    (feature,) = features(np.array([[0, 1, 1]], dtype=np.int32), mpp=0.5)
    assert feature["geometry"]["type"] == "Polygon"
    assert feature["geometry"]["coordinates"] == [[[1, 0], [3, 0], [3, 1], [1, 1], [1, 0]]]
    properties = feature["properties"]
    assert properties["objectType"] == "detection"
    assert properties["measurements"] == {"area px": 2, "area um^2": 0.5}
    (split,) = features(np.array([[1, 0, 1]], dtype=np.int32))
    assert split["geometry"]["type"] == "MultiPolygon"


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_images(tmp_path, name):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_image(tmp_path / "new" / name, image)
    np.testing.assert_array_equal(read_raster(tmp_path / "new" / name).array, image)
