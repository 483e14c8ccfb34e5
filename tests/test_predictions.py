"""Masks made elsewhere: read in every form that is written, and a level beside ours."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

import coin_ray
from coin_ray.data.coco import decode, encode, names_in, read_coco, write_coco
from coin_ray.data.folder import find_samples
from coin_ray.data.geojson import read_geojson, write_geojson
from coin_ray.data.pairs import Unpaired
from coin_ray.data.predictions import prediction_digests, read_prediction
from coin_ray.data.settings import Predictions
from coin_ray.data.synthetic import generated_samples
from coin_ray.data.write import write_label_map
from coin_ray.errors import UserError
from coin_ray.execution.order import screened, validity
from coin_ray.labels import relabel
from tests.test_metrics_properties import discs

STUDY = """
study: beside
extends: mini
seeds: 1
baseline: {rounds.count: 0}
data: {mine: {path: tiles}}
factors: {mask: {baseline: stain, levels: {stain: {uss.family: none}, mae: {}}}}
predictions: {path: masks, name: U2Seg}
report: [aji, pq]
"""


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_written_is_read(tmp_path_factory, seed):
    """Nuclei of random shapes, in pieces and with holes among them."""
    rng = np.random.default_rng(seed)
    folder, label_map = tmp_path_factory.mktemp("made"), discs(rng, 6)
    label_map[rng.random(label_map.shape) < 0.1] = 0
    label_map = relabel(label_map)
    write_geojson(folder / "a.geojson", label_map)
    np.testing.assert_array_equal(read_geojson(folder / "a.geojson", label_map.shape), label_map)
    write_coco(folder / "all.json", [("b.png", np.zeros((9, 9), int)), ("a.png", label_map)])
    content = json.loads((folder / "all.json").read_text())
    found = read_coco(folder / "all.json", content, "a.png", label_map.shape)
    np.testing.assert_array_equal(found, label_map)


def test_run_lengths_are_decoded():
    pixels = np.array([3, 4, 5, 900, 901, 2000])
    runs = decode(encode(pixels, 4096))
    assert runs == [3, 3, 894, 2, 1098, 1, 2095]


def test_coco_of_others(tmp_path):
    """Polygons, plain run lengths, and scores that say which of two is on top."""
    square = [[1, 1, 4, 1, 4, 4, 1, 4], [5, 5, 6, 5, 6, 6, 5, 6]]
    plain = {"size": [6, 7], "counts": [0, 12, 30]}  # the first two columns
    notes = [
        {"image_id": 7, "segmentation": square, "score": 0.9},
        {"image_id": 7, "segmentation": plain, "score": 0.5},
        {"image_id": 8, "segmentation": plain},
    ]
    content = {"images": [{"id": 7, "file_name": "x/a.png"}], "annotations": notes}
    found = read_coco(tmp_path, content, "x/a.png", (6, 7))
    wanted = np.zeros((6, 7), int)
    wanted[:, :2] = 1
    wanted[1:4, 1:4] = wanted[5, 5] = 2
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(UserError, match="run lengths of 6 x 7"):
        read_coco(tmp_path, content, "x/a.png", (7, 6))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([{"id": 7, "file_name": "a.png", "height": 12, "width": 14}], "an image of 12 x 14"),
        ([{"id": 7}], "images without a name"),
        ([{"id": 7, "file_name": "x/a.png"}, {"id": 8, "file_name": "y/a.png"}], "x/a.png and y/"),
    ],
)
def test_what_coco_says_of_its_images_is_checked(tmp_path, images, words):
    """Polygons have no size of their own: those of another resolution would be drawn anywhere."""
    square = {"image_id": 7, "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]]}
    content = {"images": images, "annotations": [square]}
    with pytest.raises(UserError, match=words):
        read_coco(tmp_path, content, *names_in(tmp_path, content).values(), (6, 7))


def test_names_in_coco_may_have_dots_and_no_suffix(tmp_path):
    names = ["x/A.png", "A.1", "B.2.JPG", "TCGA-A1-01Z-00-DX1.9C7B1F"]
    content = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names)]}
    stems = ["A", "A.1", "B.2", "TCGA-A1-01Z-00-DX1.9C7B1F"]
    assert names_in(tmp_path, content) == dict(zip(stems, names, strict=True))


def test_what_segment_wrote_are_predictions(tmp_path):
    """Label maps before outlines, which are read where there is nothing else."""
    one, four = np.zeros((2, 9, 9), np.int32)
    one[0, 0] = four[:2, :2] = 1
    masks = tmp_path / "made"
    write_label_map(masks / "a.labels.ome.tif", one)
    write_geojson(tmp_path / "four.geojson", four)
    for image in ("a", "b"):
        Picture.new("RGB", (9, 9)).save(tmp_path / f"{image}.png")
        packed = gzip.compress((tmp_path / "four.geojson").read_bytes())
        (masks / f"{image}.geojson.gz").write_bytes(packed)
    images = [sample.image for sample in find_samples(tmp_path, mpp=0.25)]
    given = Predictions(path=str(masks))
    assert all(prediction_digests(given, images).values())
    assert [read_prediction(given, image).sum() for image in images] == [1, 4]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.yaml").write_text(STUDY)
    generated_samples(tmp_path / "tiles", 4, size=96, seed=3)
    (tmp_path / "masks").mkdir()
    return tmp_path


def test_masks_in_every_form_are_a_level_beside_ours(folder: Path) -> None:
    """The truth itself, in a form for each image: a perfect level, of the images that it has."""
    truth = sorted((folder / "tiles" / "label").iterdir())
    maps = [np.asarray(Picture.open(path)).astype(np.int32) for path in truth]
    masks = folder / "masks"
    write_label_map(masks / f"{truth[0].stem}_mask.tif", maps[0])
    code = np.stack([0 * maps[1], maps[1] % 256, maps[1] // 256], axis=-1).astype(np.uint8)
    Picture.fromarray(code).save(masks / f"{truth[1].stem}.png")
    write_geojson(masks / f"{truth[2].stem}.geojson", maps[2])
    with pytest.warns(Unpaired, match="1 of 4 images have no label map"):
        ran = coin_ray.run(coin_ray.load_study("beside.yaml"), tracking=False)
    (table,) = ran.values.tables
    assert list(table.rows) == ["stain", "mae", "U2Seg"]
    own = table.at_end("U2Seg", "aji")
    assert own is not None and (own.mean, own.images) == (1, 3)
    assert (
        "U2Seg has label maps of 3 of 4 images, and its means are over these: without "
        f"{truth[3].stem}."
    ) in table.notes
    compared = ran.compare().filter(level="U2Seg", metric="aji").row(0, named=True)
    assert (compared["images"], compared["improvement"]) == (3, 1.0)
    (cell,) = (c for c in ran.values.study.cells if c.level == "U2Seg")
    shown = ran.folder / cell.key_label
    assert (
        len(list((shown / "predictions").iterdir()))
        == 3
        == len(list((shown / "overlays").iterdir()))
    )
    assert ran.report().is_file()
    with pytest.raises(UserError, match="no steps to show"):
        ran.pictures("stages", levels="U2Seg")
    took = {c.level: ran.values.seconds[c.key_label] for c in ran.values.study.cells}
    assert took["mae"].keys() == took["stain"].keys() == {"infer"}  # nothing was trained
    assert took["mae"]["infer"] > took["stain"]["infer"] > 0 and took["U2Seg"] == {}
    # A changed file is another result, and everything else is served.
    write_label_map(masks / f"{truth[0].stem}_mask.tif", np.where(maps[0] == 1, 0, maps[0]))
    with pytest.warns(Unpaired):
        again = coin_ray.run(coin_ray.load_study("beside.yaml"), tracking=False)
    assert again.outcome is not None and again.outcome.computed == 1
    assert again.table("aji").filter(level="U2Seg")["mean"].item() < 1


def test_one_coco_file_has_them_all(folder: Path) -> None:
    truth = sorted((folder / "tiles" / "label").iterdir())
    maps = [(p.name, np.asarray(Picture.open(p)).astype(np.int32)) for p in truth]
    write_coco(folder / "masks" / "predictions.json", maps)
    ran = coin_ray.run(coin_ray.load_study("beside.yaml"), tracking=False)
    assert ran.table("pq").filter(level="U2Seg")["mean"].item() == pytest.approx(1, abs=1e-6)


def test_what_is_missing_is_refused(folder: Path) -> None:
    study = coin_ray.load_study("beside.yaml")
    with pytest.raises(UserError, match="no image has a label map among the predictions"):
        coin_ray.plan(study)
    shutil.rmtree(folder / "masks")
    with pytest.raises(UserError, match=r"beside.yaml:8:21  there is no such folder"):
        coin_ray.load_study("beside.yaml")
    (folder / "beside.yaml").write_text(
        STUDY.replace("U2Seg", "mae").replace("path: masks", "path: tiles")
    )
    with pytest.raises(UserError, match="two combinations of levels are called 'mae'"):
        coin_ray.load_study("beside.yaml")


def test_screening_keeps_masks_made_elsewhere(folder: Path) -> None:
    levels = "levels: {stain: {uss.family: none}, mae: {}, dinov1: {uss.family: dinov1}}"
    text = STUDY.replace("levels: {stain: {uss.family: none}, mae: {}}", levels)
    (folder / "beside.yaml").write_text(text + "screen: {keep: 1}\n")
    study = coin_ray.load_study("beside.yaml").resolved
    agreement = {"mae": 0.5, "dinov1": 0.6, "stain": 0.1}
    metrics = {
        c.key_label: {"agreement": agreement[c.level]} if c.level in agreement else {}
        for c in study.cells
    }
    kept, reasons = screened(study, metrics)
    assert kept == ("stain", "dinov1", "U2Seg") and list(reasons) == ["mae"]
    assert "n = 0" in validity(study, metrics, {})[0]
