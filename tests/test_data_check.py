"""The check finds every problem at once; the manifest tells whether data are still the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from coin_ray.data.folder import find_samples
from coin_ray.data.integrity import check
from coin_ray.data.manifest import compare, write_manifest
from coin_ray.data.pairs import Unpaired
from coin_ray.errors import UserError

RNG = np.random.default_rng(0)


def image(path, height=12, width=10, channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(array.squeeze()).save(path)


def label(path, values=(1, 2), height=12, width=10, dtype=np.uint16):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((height, width), dtype)
    for k, value in enumerate(values):
        array[k, : k + 1] = value
    Image.fromarray(array).save(path)


@pytest.fixture
def clean(tmp_path):
    for name in "ab":
        image(tmp_path / "set" / "image" / f"{name}.png")
        label(tmp_path / "set" / "label" / f"{name}.png")
    return tmp_path / "set"


def found(folder, **options):
    report = check(find_samples(folder, mpp=0.25, **options))
    return report, {(p.level, p.where.rsplit("/", 2)[-1]): p.what for p in report.problems}


def test_a_clean_folder(clean):
    seen = []
    samples = find_samples(clean, mpp=0.25)
    report = check(samples, progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert not report.problems
    assert seen == [(1, 2), (2, 2)]
    assert [(r["name"], r["nuclei"], r["height"], r["width"]) for r in report.rows] == [
        ("a", 2, 12, 10),
        ("b", 2, 12, 10),
    ]


def test_every_problem_at_once(clean):
    image(clean / "image" / "grey.png", channels=1)
    label(clean / "label" / "grey.png")
    (clean / "image" / "short.png").write_bytes((clean / "image" / "a.png").read_bytes()[:90])
    image(clean / "image" / "size.png")
    label(clean / "label" / "size.png", width=9)
    image(clean / "image" / "binary.png")
    label(clean / "label" / "binary.png", values=(255, 0, 0, 255), dtype=np.uint8)
    image(clean / "image" / "gaps.png")
    label(clean / "label" / "gaps.png", values=(3, 9))
    image(clean / "image" / "empty.png")
    label(clean / "label" / "empty.png", values=())
    image(clean / "image" / "limit.png")
    label(clean / "label" / "limit.png", values=(1, 255), dtype=np.uint8)
    image(clean / "image" / "alone.png")
    (clean / "image" / "copy.png").write_bytes((clean / "image" / "b.png").read_bytes())
    label(clean / "label" / "copy.png")
    report, problems = found(clean)
    assert {k: v for k, v in problems.items() if k[0] == "error"}.keys() == {
        ("error", n) for n in ("grey.png", "short.png", "size.png", "binary.png")
    }
    assert "not an RGB image" in problems["error", "grey.png"]
    assert "cannot decode" in problems["error", "short.png"]
    assert "12 x 10" in problems["error", "size.png"]
    assert "binary mask" in problems["error", "binary.png"]
    assert "no label map" in problems["warning", "alone.png"]
    assert "no nucleus" in problems["warning", "empty.png"]
    assert "limit of 8 bits" in problems["warning", "limit.png"]
    assert "same pixels" in problems["warning", "copy.png"]
    assert "largest id 9" in problems["note", "gaps.png"]
    assert not report.ok


def test_a_label_map_without_an_image(clean):
    label(clean / "label" / "orphan.png")
    with pytest.warns(Unpaired, match="1 of 3 label maps have no image"):
        _, problems = found(clean)
    assert problems == {("warning", "orphan.png"): "a label map without an image"}


def test_an_image_in_two_splits_is_an_error(tmp_path):
    root = tmp_path / "MoNuSeg"
    image(root / "train" / "image" / "a.png")
    (root / "test" / "image").mkdir(parents=True)
    # another container, the same pixels
    Image.open(root / "train" / "image" / "a.png").save(root / "test" / "image" / "z.tif")
    _, problems = found(root)
    ((level, _),) = problems
    assert level == "error"
    assert "trained on and tested on" in next(iter(problems.values()))


def test_unlabelled_folders_are_fine(tmp_path):
    image(tmp_path / "a.png")
    report, problems = found(tmp_path)
    assert report.ok
    assert not problems


def test_arrays_of_many_images_are_no_orphans(tmp_path):
    for name, shape in (("images", (2, 256, 256, 3)), ("masks", (2, 256, 256, 6))):
        (tmp_path / "fold1").mkdir(exist_ok=True)
        np.save(tmp_path / "fold1" / f"{name}.npy", RNG.integers(0, 3, shape))
    report, problems = found(tmp_path)
    assert not problems
    assert [r["name"] for r in report.rows] == ["fold1_0000", "fold1_0001"]


def test_unknown_mpp_is_noted(clean):
    with pytest.warns(UserWarning, match="--mpp"):
        samples = find_samples(clean)
    assert ["--mpp" in p.what for p in check(samples).problems] == [True]


def test_manifest(clean, tmp_path):
    report, _ = found(clean)
    path = tmp_path / "a.json"
    write_manifest(path, report, clean)
    first = json.loads(path.read_text())["samples"][0]
    assert first["image"] == "image/a.png"
    assert first["label"] == "label/a.png"
    assert len(first["image_digest"]) == len(first["label_digest"]) == 64
    assert compare(path, report, clean) == []
    label(clean / "label" / "a.png", values=(1, 2, 3))
    image(clean / "image" / "c.png")
    label(clean / "label" / "c.png")
    for kind in ("image", "label"):
        (clean / kind / "b.png").unlink()
    changed = {(p.where, p.what) for p in compare(path, found(clean)[0], clean)}
    assert changed == {
        ("label/a.png", "the label is not that of the manifest"),
        ("image/b.png", "in the manifest, not here"),
        ("image/c.png", "here, not in the manifest"),
    }


def test_manifest_moves_with_its_folder(clean, tmp_path):
    write_manifest(tmp_path / "a.json", found(clean)[0], clean)
    clean.rename(tmp_path / "elsewhere")
    report, _ = found(tmp_path / "elsewhere")
    names = [p.what for p in compare(tmp_path / "a.json", report, tmp_path / "elsewhere")]
    # the folder's name is the data set's name here, so all samples are others
    assert set(names) == {"in the manifest, not here", "here, not in the manifest"}


@pytest.mark.parametrize("text", ["", "[]", '{"samples": [{}]}'])
def test_other_files_are_no_manifest(clean, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json: no manifest"):
        compare(tmp_path / "a.json", found(clean)[0], clean)
