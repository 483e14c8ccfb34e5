"""Masks that a person corrected: label maps and GeoJSON as the truth of an evaluation."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.data.folder import find_samples
from coin_ray.data.geojson import Hidden, features, read_geojson, write_geojson
from coin_ray.data.label_files import read_label_map
from coin_ray.data.write import write_label_map
from coin_ray.errors import UserError
from coin_ray.study.datasets import resolve_data
from coin_ray.study.study import resolve
from tests.data_files import rgb, save

IDS = np.zeros((20, 24), dtype=np.int32)
IDS[2:9, 2:9], IDS[10:18, 4:12], IDS[5:15, 14:22] = 1, 2, 3
IDS[12:14, 6:8] = 0
ROWS = features(IDS)


def written(path: Path, content: Any) -> Path:
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["a.geojson", "a.GeoJSON.gz"])
@pytest.mark.parametrize("kind", ["collection", "list", "one"])
def test_what_qupath_exports(tmp_path: Path, name: str, kind: str) -> None:
    collection = {"type": "FeatureCollection", "features": ROWS}
    content = {"collection": collection, "list": ROWS, "one": ROWS[0]}[kind]
    path = written(tmp_path / name, content)
    expected = np.where(IDS == 1, 1, 0) if kind == "one" else IDS
    np.testing.assert_array_equal(read_label_map(path, IDS.shape), expected)


def test_of_a_cell_its_nucleus_counts_and_what_is_later_lies_on_top(tmp_path: Path) -> None:
    around = [[[0, 0], [18, 0], [18, 10], [0, 10], [0, 0]]]
    cell = {"geometry": {"type": "Polygon", "coordinates": around}}
    cell["nucleusGeometry"] = ROWS[0]["geometry"]
    path = written(tmp_path / "a.geojson", [cell, {**cell, "nucleusGeometry": None}, ROWS[2]])
    with pytest.warns(Hidden, match="1 of 3 outlines leave no pixel"):
        found = read_geojson(path, IDS.shape)
    assert found.max() == 2  # the first is hidden
    np.testing.assert_array_equal(found == 2, IDS == 3)


def point(*where: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": "Point", "coordinates": where}}


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (3, "FeatureCollection"),
        ({"features": [1]}, "FeatureCollection"),
        ([point(1, 2)], "Point"),
        ([polygon()], "ring without corners"),
        ([polygon([[1, 2], [3]])], "no rings of x and y"),
        ([polygon([[1, 2], [3, "x"], [4, 5]])], "no rings of x and y"),
        ([polygon([[1, 2], [3, float("nan")], [4, 5]])], "no number"),
        ([polygon([[30, 2], [40, 2], [40, 9], [30, 2]])], "1 of 1 outlines lie outside"),
        ([ROWS[0], {"type": "Feature", "geometry": None}], "outline 2: no geometry"),
        ([polygon([[[1, 2], [3, 4], [5, 9]]])], "no rings of x and y"),  # of a MultiPolygon
        ([polygon([[1, 2], [3, 4]])], "ring without corners, or of less than three"),
        ([polygon([[0.1, 0.1], [0.4, 0.1], [0.4, 0.4]])], "1 of 1 outlines leave no pixel"),
        ([ROWS[1], *2 * ROWS[:1], *2 * ROWS[:1]], "3 of 5 outlines leave no pixel"),  # no regions
        ([polygon([[0, 0], [24, 0], [24, 20], [0, 20]]), *ROWS], "outline 1 holds 3 others"),
        ([*ROWS, polygon([[0, 0], [24, 0], [24, 20], [0, 20]])], "outline 4 holds 3 others"),
        ([*ROWS, polygon([[0, 0], [13, 0], [13, 20], [0, 20]])], "outline 4 holds 2 others"),
        ([ROWS[0], polygon([[0, 0], [13, 0], [13, 20], [0, 20]]), ROWS[1]], "holds 2 others"),
        ({"crs": {"properties": {"name": "EPSG:3857"}}, "features": ROWS}, "EPSG:3857"),
    ],
)
def test_what_is_no_outline_is_said(tmp_path: Path, content: Any, words: str) -> None:
    path = written(tmp_path / "a.geojson", content)
    with pytest.raises(UserError, match=words) as error:
        read_geojson(path, IDS.shape)
    assert error.value.where == str(path)


def test_broken_bytes_are_said(tmp_path: Path) -> None:
    for name in ("a.geojson", "a.geojson.gz"):
        (tmp_path / name).write_bytes(b"{" * 20)
        with pytest.raises(UserError, match="geojson"):
            read_geojson(tmp_path / name, IDS.shape)
    with pytest.raises(UserError, match="no binary mask"):
        read_label_map(tmp_path / "a.geojson", IDS.shape, binary="components")


def test_outlines_lie_where_label_maps_do(tmp_path: Path) -> None:
    save(tmp_path / "image" / "a.png", rgb(20, 24))
    (tmp_path / "label").mkdir()
    write_geojson(tmp_path / "label" / "a.geojson", IDS)
    (sample,) = find_samples(tmp_path, mpp=0.25)
    np.testing.assert_array_equal(sample.load_label_map(), IDS)
    asked = ["data", "check", str(tmp_path), "--mpp", ".25", "--manifest", str(tmp_path / "m.json")]
    checked = CliRunner().invoke(cli.app, asked)
    assert checked.exit_code == 0, checked.output


def test_a_study_evaluates_against_corrected_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "tiles" / "image" / "a.png", rgb(20, 24))
    save(tmp_path / "tiles" / "label" / "a.png", IDS.astype(np.uint16))
    fixed = np.where(IDS == 2, 0, IDS)
    write_geojson(tmp_path / "corrected.geojson", fixed)
    write_label_map(tmp_path / "by_hand" / "a.tif", fixed)
    plain = truth_in(tmp_path, "")
    np.testing.assert_array_equal(plain.load_label_map(), IDS)
    for labels in ("corrected.geojson", "by_hand"):
        sample = truth_in(tmp_path, f", labels: {labels}")
        assert sample.image == plain.image
        np.testing.assert_array_equal(sample.load_label_map() > 0, fixed > 0)
    with pytest.raises(UserError, match="no such folder"):
        truth_in(tmp_path, ", labels: nowhere.geojson")
    save(tmp_path / "tiles" / "image" / "b.png", rgb(20, 24))
    with pytest.raises(UserError, match="2 images"):
        truth_in(tmp_path, ", labels: corrected.geojson")


def truth_in(folder: Path, labels: str) -> Any:
    (folder / "s.yaml").write_text(
        f"study: s\nextends: mini\ndata: {{mine: {{path: tiles, mpp: 0.25{labels}}}}}\n"
        "factors: {t: {baseline: a, levels: {a: {}, b: {ot.lambda: 0.2}}}}\n"
    )
    (spec,) = resolve("s.yaml").data
    return resolve_data(spec, folder / "ws").samples[0]


def test_evaluate_takes_outlines_as_the_truth(tmp_path: Path) -> None:
    results, truth = tmp_path / "results", tmp_path / "truth"
    write_label_map(results / "a.labels.ome.tif", IDS)
    truth.mkdir()
    write_geojson(truth / "a.geojson", np.where(IDS == 2, 0, IDS))
    for given in (truth, truth / "a.geojson"):
        out = tmp_path / f"{given.name}.csv"
        done = CliRunner().invoke(cli.app, ["evaluate", *map(str, (results, given, "--out", out))])
        assert done.exit_code == 0, done.output
        (row,) = csv.DictReader(out.open())
        assert row["image"] == "a"
        union, missed = (IDS > 0).sum(), (IDS == 2).sum()
        assert float(row["aji"]) == pytest.approx(1 - missed / union)


def test_of_two_forms_none_is_taken_for_the_corrected_one(tmp_path: Path) -> None:
    """`segment` writes both, and a person corrects one of them."""
    save(tmp_path / "tiles" / "a.png", rgb(20, 24))
    both = tmp_path / "both"
    write_label_map(both / "a.labels.ome.tif", IDS)
    write_geojson(both / "a.geojson", IDS)
    with pytest.raises(UserError, match=r"a.geojson and a.labels.ome.tif"):
        find_samples(tmp_path / "tiles", mpp=0.25, labels=both)
    done = CliRunner().invoke(cli.app, ["evaluate", str(both), str(both)])
    assert done.exit_code == 2 and "a label map and outlines of one image" in done.output
    for name in ("image", "label"):  # a data set into which results were written
        (both / name).mkdir()
    save(both / "image" / "a.png", rgb(20, 24))
    save(both / "label" / "a.png", IDS.astype(np.uint16))
    assert CliRunner().invoke(cli.app, ["evaluate", str(both / "label"), str(both)]).exit_code == 0


def test_a_truth_of_both_forms_is_read_whole(tmp_path: Path) -> None:
    results, truth, out = tmp_path / "results", tmp_path / "truth", tmp_path / "values.csv"
    for folder, name in ((results, "a.tif"), (results, "b.tif"), (truth, "a.tif")):
        write_label_map(folder / name, IDS)
    write_geojson(truth / "b.geojson", IDS)
    asked = ["evaluate", str(results), str(truth), "--out", str(out)]
    assert CliRunner().invoke(cli.app, asked).exit_code == 0
    assert {row["image"] for row in csv.DictReader(out.open())} == {"a", "b"}
