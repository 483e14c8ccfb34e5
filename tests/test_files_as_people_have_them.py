"""Every kind of ``tests.files`` through every reader: study, evaluate, check, convert."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coin_ray.data.dataset import DataSpec
from coin_ray.data.folder import find_samples
from coin_ray.data.resolution import MissingMpp
from coin_ray.data.sample import TurnedApart
from coin_ray.data.write import write_label_map
from coin_ray.errors import UserError
from coin_ray.labels import relabel
from coin_ray.study.datasets import check_images, resolve_data
from tests.cli_calls import call
from tests.files import KINDS, Kind

IDS = [kind.name for kind in KINDS]
each = pytest.mark.parametrize("kind", KINDS, ids=IDS)
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")


@pytest.fixture
def folder(kind: Kind, tmp_path: Path) -> Path:
    kind.make(tmp_path / "data")
    return tmp_path / "data"


def answer(kind: Kind) -> list[str]:
    return ["--binary", kind.binary] if kind.binary else []


@each
def test_study(kind: Kind, folder: Path, tmp_path: Path) -> None:
    spec = DataSpec("mine", "folder", str(folder), binary=kind.binary)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if kind.error:
            with pytest.raises(UserError, match=kind.error):
                check_images({"mine": resolve_data(spec, tmp_path)})
            return
        data = resolve_data(spec, tmp_path)
        check_images({"mine": data})
    (sample,) = data.samples
    np.testing.assert_array_equal(sample.load_label_map(), relabel(np.asarray(kind.labels, int)))
    image = sample.load_image()
    assert image.shape[:2] == sample.image.shape()
    if kind.image is not None:
        np.testing.assert_array_equal(image, kind.image)
    assert sample.mpp == (None if kind.mpp is None else pytest.approx(kind.mpp, rel=1e-3))
    assert any(w.category is MissingMpp for w in said) == (kind.mpp is None)
    turned = "says that it is stored" in kind.warning
    assert [w.category for w in said if w.category is TurnedApart] == [TurnedApart] * turned


@each
def test_evaluate(kind: Kind, folder: Path, tmp_path: Path) -> None:
    """As the truth, and as a prediction: what is read rightly is perfect against itself."""
    if kind.error and kind.by == "image":
        pytest.skip("evaluate reads no image")
    out = tmp_path / "out.csv"
    if kind.labels is not None:
        (tmp_path / "right").mkdir()
        write_label_map(tmp_path / "right" / "a.tif", relabel(np.asarray(kind.labels, int)))
        options = ["--out", str(out), "--binary-predictions", "instances"]
        result = call("evaluate", str(tmp_path / "right"), str(folder), *options, *answer(kind))
        assert result.exit_code == 0, result.output
        assert_perfect(out, kind)
        predicted = ["--binary", "instances"]
        predicted += ["--binary-predictions", kind.binary] if kind.binary else []
        texts = [str(folder / "label"), str(tmp_path / "right"), "--out", str(out), *predicted]
        result = call("evaluate", *texts)
        assert result.exit_code == 0, result.output
        assert_perfect(out, kind)
        return
    result = call("evaluate", str(folder / "label"), str(folder), *answer(kind))
    assert result.exit_code != 0
    assert re.search(kind.error, str(result.exception) + result.output)


def assert_perfect(out: Path, kind: Kind) -> None:
    names, values = (line.split(",") for line in out.read_text().splitlines())
    aji = values[names.index("aji")]
    assert aji == ("1.0" if np.any(kind.labels) else "nan")


@each
def test_check(kind: Kind, folder: Path, tmp_path: Path) -> None:
    result = call("data", "check", str(folder), "--manifest", str(tmp_path / "m"), *answer(kind))
    text = result.output
    assert result.exit_code == bool(kind.error), text
    if kind.error:
        assert "1 errors" in text
        first = kind.error.split("[\\s\\S]*")[0]
        assert re.search(first, text), text
        return
    nuclei = len(np.unique(np.asarray(kind.labels))) - 1
    assert f"1 images, 1 readable label maps, {nuclei} nuclei: 0 errors" in text
    if kind.warning:
        assert re.search(f"warning: .*{kind.warning}", text), text
    elif nuclei and kind.labels is not None and np.max(kind.labels) > 1:
        assert "says that" not in text
        assert "sparse" not in text


@each
def test_convert(kind: Kind, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--to", "folder", "--out", str(out), *answer(kind)]
    result = call("data", "convert", str(folder), *options)
    if kind.error:
        assert result.exit_code != 0
        assert re.search(kind.error, str(result.exception) + result.output)
        assert not out.exists()
        return
    assert result.exit_code == 0, result.output
    (sample,) = find_samples(out, mpp=0.25, binary="instances")
    np.testing.assert_array_equal(sample.load_label_map(), relabel(np.asarray(kind.labels, int)))
    if kind.image is not None:
        np.testing.assert_array_equal(sample.load_image(), kind.image)


def test_every_right_reading_has_another_digest_than_a_wrong_one_had(tmp_path: Path) -> None:
    """A file that says how its samples are to be read was stored under its bytes when nobody
    looked; all others keep the digest of their bytes."""
    import hashlib

    for kind in KINDS:
        folder = tmp_path / kind.name.replace("/", "-")
        kind.make(folder)
        for part in ("image", "label"):
            (path,) = (folder / part).iterdir()
            (sample,) = find_samples(path, mpp=0.25)
            bytes_alone = hashlib.sha256(path.read_bytes()).hexdigest()
            says = {"image": "orientation|YCbCr without|jpeg turned|white is 0$|stored pixels"}
            says["label"] = "orientation . on both|white is 0, "
            apart = bool(re.search(says[part], kind.name))
            assert (sample.image.digest() != bytes_alone) == apart, (kind.name, part)


@pytest.mark.parametrize("how", ["components", "watershed"])
def test_the_answer_is_part_of_the_truths_identity(tmp_path: Path, how: str) -> None:
    kind = next(k for k in KINDS if k.name == "mask 0/255 png")
    kind.make(tmp_path)
    (asked,) = find_samples(tmp_path, mpp=0.25)
    (answered,) = find_samples(tmp_path, mpp=0.25, binary=how)  # type: ignore[arg-type]
    assert asked.truth_digest() != answered.truth_digest()
    assert answered.truth_digest() == replace(answered).truth_digest()
