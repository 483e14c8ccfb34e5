"""Which label file belongs to which image, and what is said where none does."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.data.folder import find_samples
from coin_ray.data.pairs import LABEL_WORDS, Unpaired, match
from coin_ray.errors import UserError
from tests.data_files import rgb, save

IDS = np.kron(np.eye(4, dtype=np.uint16) * [1, 2, 3, 4], np.ones((5, 6), np.uint16)).astype(
    "uint16"
)
ACCENT = "pr\N{LATIN SMALL LETTER E WITH ACUTE}l"


def found(folder: Path) -> dict[str, str]:
    """Image -> file of its label map, without a warning; every label map can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = find_samples(folder, mpp=0.25)
    for sample in samples:
        if sample.has_truth:
            assert sample.load_label_map().max() == 4
    return {s.name: s.truth_path.name if s.truth_path else "" for s in samples}


CLOSE = {
    "the same": ("a.png", "a.tif"),
    "a word at the end": ("a.png", "a_mask.png"),
    "of Fiji": ("a.tif", "a-labels.tif"),
    "both": ("a_image.png", "a_label.png"),
    "a word at the beginning": ("img_001.png", "mask_001.png"),
    "an image's word in both": ("image_1.png", "image_1_mask.png"),
    "a number before it": ("1_img.png", "1_img-labels.png"),
    "results of one's own": ("img-01.png", "img-01.labels.ome.tif"),
    "letter case": ("TCGA-A1.png", "tcga-a1_Mask.png"),
    "ome": ("a.ome.tif", "a.png"),
    "ome of the label": ("a.png", "a_label.ome.tif"),
    "suffix in the name": ("a.tif", "a.tif.png"),
    "accents": (unicodedata.normalize("NFC", f"{ACCENT}.png"), f"{ACCENT}_gt.png"),
    "accents apart": (f"{ACCENT}.png", unicodedata.normalize("NFD", f"{ACCENT}.png")),
}


@pytest.mark.parametrize(("image", "label"), CLOSE.values(), ids=CLOSE.keys())
def test_close_names(tmp_path: Path, image: str, label: str) -> None:
    save(tmp_path / "image" / image, rgb())
    save(tmp_path / "label" / label, IDS)
    assert found(tmp_path) == {Path(image).stem: label}


@pytest.mark.parametrize("name", ["GT", "Labels", "MASK", "ground_truth", "Ground Truth"])
def test_folders_of_labels(tmp_path: Path, name: str) -> None:
    save(tmp_path / "Images" / "a.png", rgb())
    save(tmp_path / name / "a.png", IDS)
    assert found(tmp_path) == {"a": "a.png"}


def test_labels_below_and_among_the_images(tmp_path: Path) -> None:
    save(tmp_path / "below" / "a.png", rgb())
    save(tmp_path / "below" / "masks" / "a.png", IDS)
    assert found(tmp_path / "below") == {"a": "a.png"}
    for name in ("a", "b", "image_1"):
        save(tmp_path / "among" / f"{name}.png", rgb())
        save(tmp_path / "among" / f"{name}_mask.png", IDS)
    assert found(tmp_path / "among") == {
        "a": "a_mask.png", "b": "b_mask.png", "image_1": "image_1_mask.png"
    }  # fmt: skip
    save(tmp_path / "alone" / "a_mask.png", rgb())  # nothing that it could be the mask of
    assert found(tmp_path / "alone") == {"a_mask": ""}


def test_another_version_of_a_label_map_is_none_too_many(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / "image" / f"{name}.png", rgb())
    save(tmp_path / "label" / "a.png", IDS)
    save(tmp_path / "label" / "a_mask.png", IDS)
    with pytest.warns(Unpaired, match=r"1 of 2 images have no label map.*first: b"):
        first, second = find_samples(tmp_path, mpp=0.25)
    assert first.truth_path == tmp_path / "label" / "a.png" and not second.has_truth


WRONG = {
    "no name fits": (["a1.png", "a2.png"], ["b1.png", "b7.png"], r"2 of 2 images.*\n.*\n.*b1\.png"),
    "a typing error": (["a.png", "slide12.png"], ["a.png", "slid12.png"], r"nearest.*slid12\.png"),
    "two masks": (["a.png"], ["a_mask.png", "a_label.png"], r"more than one way[\s\S]*a_label"),
    "two images": (["A.png", "a.png"], ["a_mask.png"], r"more than one way[\s\S]*A, a"),
    "an image beside its namesake": (["a.png", "img_a.png"], ["a_mask.png"], "more than one way"),
    "two formats": (["a.png"], ["a.tif", "a.png"], "two files of one name"),
    "only others": (["a.png"], ["a.txt"], r"no label maps[\s\S]*a\.txt"),
    "others in their place": (
        ["a.png", "b.png"],
        ["a.png", "b.mat"],
        r"no label maps[\s\S]*b\.mat",
    ),
}


@pytest.mark.parametrize(("images", "labels", "words"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.filterwarnings("ignore")
def test_doubt_is_an_error(
    tmp_path: Path, images: list[str], labels: list[str], words: str
) -> None:
    for name in images:
        save(tmp_path / "image" / name, rgb())
    for name in labels:
        save(tmp_path / "label" / f"{Path(name).stem}.png", IDS)
        (tmp_path / "label" / f"{Path(name).stem}.png").rename(tmp_path / "label" / name)
    with pytest.raises(UserError, match=words):
        find_samples(tmp_path, mpp=0.25)


def test_a_folder_of_labels_that_is_empty_or_has_notes(tmp_path: Path) -> None:
    save(tmp_path / "image" / "a.png", rgb())
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "README.md").write_text("to come")
    assert found(tmp_path) == {"a": ""}


def test_a_folder_by_another_name_is_said(tmp_path: Path) -> None:
    save(tmp_path / "image" / "a.png", rgb())
    save(tmp_path / "instances" / "a.png", IDS)
    with pytest.warns(Unpaired, match=r"instances holds files named as the images"):
        assert not find_samples(tmp_path, mpp=0.25)[0].has_truth
    save(tmp_path / "mask" / "a.png", IDS)
    assert found(tmp_path) == {"a": "a.png"}
    save(tmp_path / "label" / "a.png", IDS)
    with pytest.warns(Unpaired, match=r"mask holds files.*label is"):
        assert find_samples(tmp_path, mpp=0.25)[0].truth_path == tmp_path / "label" / "a.png"


@pytest.mark.parametrize("link", ["image/b.png", "label/a.png", "label"])
def test_links_to_nowhere(tmp_path: Path, link: str) -> None:
    save(tmp_path / "image" / "a.png", rgb())
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=rf"{link}: a link to what is not there[\s\S]*gone"):
        find_samples(tmp_path, mpp=0.25)


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    save(tmp_path / "image" / "a.png", rgb())
    for name in ("label", "Label"):
        save(tmp_path / name / "a.png", IDS)
    with pytest.raises(UserError, match="Label and label"):
        find_samples(tmp_path, mpp=0.25)


def test_check_plan_and_sweep_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COIN_RAY_WORKSPACE", raising=False)
    save(tmp_path / "tiles" / "image" / "slide12.png", rgb())
    save(tmp_path / "tiles" / "label" / "slid12.png", IDS)
    said = set()
    study = "uss_backbones --data t=tiles"
    calls = ("data check tiles", f"plan {study}", f"sweep {study}")
    for call in calls:
        done = CliRunner().invoke(cli.app, call.split())
        assert done.exit_code == 2, done.output
        said.add(done.stderr.partition("tiles/label")[2])  # the path, relative or not, left out
    assert len(said) == 1 and "the nearest label map is slid12.png" in said.pop()


stems = st.text("abAB1_-. ", min_size=1, max_size=6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sets(stems, max_size=6), st.sampled_from(LABEL_WORDS))
def test_pairs_are_one_to_one(images: set[str], word: str) -> None:
    labels = {f"{name}_{word}" for name in images} | images
    assert match(images, labels, where=Path()) == {name: name for name in images}
    try:
        pairs = match(images, {f"{name}_{word}" for name in images}, where=Path())
    except UserError:
        return  # two names that differ in what makes no difference
    assert len(set(pairs.values())) == len(pairs)
    assert all(label == f"{image}_{word}" for image, label in pairs.items())
