"""Annotation files as their programs write them: read rightly, or named as what they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

from coin_ray.data import imagescope, monuseg
from coin_ray.data.aperio import draw_outlines, has_shapes, read_outlines, stated_mpp
from coin_ray.data.dataset import DataSet
from coin_ray.data.folder import find_samples
from coin_ray.data.nucls import read_polygons
from coin_ray.data.resolution import MissingMpp
from coin_ray.errors import UserError
from coin_ray.study.datasets import check_images
from tests.data_files import rgb, save

SQUARE = ((2, 2), (2, 12), (12, 12), (12, 2))


def region(*points: tuple[float, float], vertex: str = "Vertex", **attributes: str) -> str:
    """Points are (y, x)."""
    said = "".join(f' {k}="{v}"' for k, v in attributes.items())
    drawn = "".join(f'<{vertex} X="{x}" Y="{y}" Z="0"/>' for y, x in points)
    return f"<Region{said}><Vertices>{drawn}</Vertices></Region>"


def aperio(path: Path, *regions: str, mpp: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    said = f' MicronsPerPixel="{mpp}"' if mpp else ""
    inside = "".join(regions)
    path.write_text(
        f"<Annotations{said}><Annotation><Regions>{inside}</Regions></Annotation></Annotations>"
    )
    return path


def areas(path: Path, shape: tuple[int, int] = (20, 24)) -> list[int]:
    found = read_outlines(path)
    drawn = draw_outlines(found.polygons, shape, holes=found.holes)
    return np.bincount(drawn.ravel(), minlength=1)[1:].tolist()


def test_a_negative_region_is_a_hole(tmp_path: Path) -> None:
    hole = region((4, 4), (4, 8), (8, 8), (8, 4), NegativeROA="1")
    inside = region((5, 5), (5, 7), (7, 7), (7, 5), NegativeROA="0")
    for order in ((region(*SQUARE), hole, inside), (hole, region(*SQUARE), inside)):
        assert areas(aperio(tmp_path / "a.xml", *order)) == [11 * 11 - 5 * 5, 3 * 3]
    away = region((15, 15), (15, 18), (18, 18), (18, 15), NegativeROA="1")
    assert areas(aperio(tmp_path / "a.xml", region(*SQUARE), away)) == [11 * 11]


SHAPES: dict[str, tuple[str, float]] = {
    "rectangle": (region((2, 2), (12, 12), Type="1"), 11 * 11),
    "rectangle, four corners": (region(*SQUARE, Type="1"), 11 * 11),
    "ellipse": (region((2, 2), (12, 12), Type="2"), np.pi * 5**2),
    "ellipse, four corners": (region(*SQUARE, Type="2"), np.pi * 5**2),
    "ellipse as it is drawn": (region(*SQUARE, (7, 0), Type="2"), 121),
    "of HALO": (region(*SQUARE, vertex="V", Type="Polygon"), 11 * 11),
    "ellipse of HALO": (region((12, 12), (2, 2), vertex="V", Type="Ellipse"), np.pi * 5**2),
    "arrow": (region((2, 2), (12, 12), Type="3"), 0),
}


@pytest.mark.parametrize(("text", "area"), SHAPES.values(), ids=SHAPES.keys())
def test_regions_of_other_types(tmp_path: Path, text: str, area: float) -> None:
    assert sum(areas(aperio(tmp_path / "a.xml", text))) == pytest.approx(area, abs=14)


def test_what_is_read_otherwise_now_has_another_digest(tmp_path: Path) -> None:
    """A store may hold evaluations against the outlines as they were read before."""
    for name, text in {
        "outline": region(*SQUARE, Type="0", NegativeROA="0"),
        "hole": region(*SQUARE, Type="0", NegativeROA="1"),
        "box": region((2, 2), (12, 12), Id="1", Type="1"),
        "halo": region(*SQUARE, vertex="V"),
    }.items():
        folder = tmp_path / name
        save(folder / "a.tif", rgb())
        path = aperio(folder / "a.xml", text)
        (sample,) = monuseg.find(folder)
        plain = sample.truth_digest()
        assert has_shapes(path) == (name != "outline")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("coin_ray.data.digests.has_shapes", lambda path: False)
            assert (sample.truth_digest() == plain) == (name == "outline")


FOREIGN = {
    "ASAP": (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations><Annotation Name="0" Type="Polygon">'
        '<Coordinates><Coordinate Order="0" X="1" Y="1"/></Coordinates></Annotation></Annotations>'
        "</ASAP_Annotations>",
        "ASAP",
    ),
    "CVAT": (
        '<annotations><version>1.1</version><image id="0" name="a.tif" width="9" height="9">'
        '<polygon label="n" points="1,1;2,2;3,1"/></image></annotations>',
        "CVAT",
    ),
    "VOC": (
        "<annotation><folder>x</folder><object><bndbox><xmin>1</xmin></bndbox></object>"
        "</annotation>",
        "Pascal VOC",
    ),
    "a web page": ("<!DOCTYPE html><html><body><p>Please log in<br></body></html>", "a web page"),
    "an old web page": ("<HTML><HEAD><TITLE>404</TITLE></HEAD></HTML>", "a web page"),
    "another": ("<kml xmlns='http://x'><Placemark/></kml>", "root element kml"),
}


@pytest.mark.parametrize(("text", "words"), FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.filterwarnings("ignore::coin_ray.data.resolution.MissingMpp")
def test_foreign_xml_is_named_before_anything_starts(tmp_path: Path, text: str, words: str) -> None:
    for suffix in (".tif", ".png"):
        folder = tmp_path / suffix
        save(folder / f"a{suffix}", rgb())
        (folder / "a.xml").write_text(text)
        (sample,) = find_samples(folder)
        with pytest.raises(UserError, match=rf"a\.xml: not outlines[\s\S]*{words}[\s\S]*do: "):
            sample.load_label_map()
        with pytest.raises(UserError, match=words):
            check_images({"data": DataSet((sample.image,), (sample,))})


def test_tif_and_xml_are_not_monuseg_unless_they_say_so(tmp_path: Path) -> None:
    for name in ("mine", "MoNuSegTestData"):
        save(tmp_path / name / "a.tif", rgb())
        aperio(tmp_path / name / "a.xml", region(*SQUARE), mpp="0.5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (mine,) = find_samples(tmp_path / "mine")
        (theirs,) = find_samples(tmp_path / "MoNuSegTestData")
    assert (mine.dataset, mine.split, mine.mpp) == ("mine", "", 0.5)
    assert (theirs.dataset, theirs.split, theirs.mpp) == ("MoNuSeg", "test", 0.5)
    assert mine.load_label_map().max() == theirs.load_label_map().max() == 1
    (named,) = find_samples(tmp_path / "mine", dataset="monuseg")
    assert named.dataset == "MoNuSeg"
    aperio(tmp_path / "mine" / "a.xml", region(*SQUARE))
    with pytest.warns(MissingMpp):
        assert find_samples(tmp_path / "mine")[0].mpp is None


def test_resolution_of_outlines_and_of_the_image(tmp_path: Path) -> None:
    tif = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    for name, stated in (("a", "0.252"), ("b", "0.51"), ("c", "")):
        tifffile.imwrite(tmp_path / f"{name}.tif", rgb(), **tif)
        aperio(tmp_path / f"{name}.xml", region(*SQUARE), mpp=stated)
        assert stated_mpp(tmp_path / f"{name}.xml") == (float(stated) if stated else None)
    with pytest.warns(UserWarning, match=r"a\.tif states 0\.5 um/px and its outlines 0\.252"):
        samples = imagescope.find(tmp_path)
    assert [s.mpp for s in samples] == [0.252, 0.51, 0.5]
    (tmp_path / "a.xml").write_text("<Annotations MicronsPerPixel='x'>")
    assert stated_mpp(tmp_path / "a.xml") is None


def test_outlines_in_a_folder_beside_the_images(tmp_path: Path) -> None:
    save(tmp_path / "set" / "image" / "a.png", rgb())
    aperio(tmp_path / "set" / "xml" / "a.xml", region(*SQUARE), mpp="0.25")
    (sample,) = find_samples(tmp_path / "set")
    assert (sample.dataset, sample.name, sample.load_label_map().max()) == ("set", "a", 1)


# --- NuCLS

HEADER = ("raw_classification", "type", "xmin", "ymin", "xmax", "ymax", "coords_x", "coords_y")
ROW = ("tumor", "polyline", "1", "1", "5", "5", "1,5,5", "1,1,5")


def table(path: Path, header: Sequence[str], row: Sequence[str], separator: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        separator.join(f'"{v}"' if "," in v else v for v in values) for values in (header, row)
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def test_a_table_of_nucls_as_excel_saves_it(tmp_path: Path) -> None:
    assert len(read_polygons(table(tmp_path / "a.csv", ("type", *HEADER[2:]), ROW[1:]))) == 1


TABLES = {
    "semicolons": (HEADER, ROW, ";", "parted by ';'"),
    "tabs": (HEADER, ROW, "\t", r"parted by '\\t'"),
    "other columns": (("x", "y", "class"), ("1", "2", "3"), ",", r"without the columns[\s\S]*x, y"),
    "one column lacks": (HEADER[:-1], ROW[:-1], ",", "without the columns"),
    "another type": (
        HEADER,
        ("tumor", "Polygon", *ROW[2:]),
        ",",
        r"line 2: [\s\S]*unknown type[\s\S]*Polygon",
    ),
    "empty": ((), (), ",", "without the columns"),
}


@pytest.mark.parametrize(("header", "row", "separator", "words"), TABLES.values(), ids=TABLES)
def test_other_tables_are_named(
    tmp_path: Path, header: Sequence[str], row: Sequence[str], separator: str, words: str
) -> None:
    save(tmp_path / "rgb" / "a.png", rgb())
    table(tmp_path / "csv" / "a.csv", header, row, separator)
    (sample,) = find_samples(tmp_path)
    with pytest.raises(UserError, match=rf"a\.csv[\s\S]*{words}"):
        sample.load_label_map()
