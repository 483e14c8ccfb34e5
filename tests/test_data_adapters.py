"""Every data set in the format its owners ship, made small."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from coin_ray.data import catalogue, coin_layout, cpm17, cryonuseg, monuseg, tnbc
from coin_ray.data.aperio import draw_outlines, read_outlines
from coin_ray.data.folder import find_samples
from coin_ray.data.resolution import MissingMpp
from coin_ray.errors import UserError
from tests.data_files import RNG, rgb, save


def aperio(path: Path, *annotations, head=""):
    """Annotations, each a list of regions, each a list of (x, y)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [head, '<Annotations MicronsPerPixel="0.252000">']
    for number, regions in enumerate(annotations, start=1):
        text.append(f'<Annotation Id="{number}" Visible="1"><Attributes/><Regions>')
        for k, region in enumerate(regions, start=1):
            points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in region)
            text.append(f'<Region Id="{k}"><Attributes/><Vertices>{points}</Vertices></Region>')
        text.append("</Regions><Plots/></Annotation>")
    path.write_text("\n".join([*text, "</Annotations>"]))


def square(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


# --- MoNuSeg


@pytest.fixture
def monuseg_folder(tmp_path):
    train, test = tmp_path / "MoNuSeg 2018 Training Data", tmp_path / "MoNuSegTestData"
    for name in ("TCGA-A7-A13E-01Z-00-DX1", "TCGA-XX-0000-01Z-00-DX1"):
        save(train / "Tissue Images" / f"{name}.tif", rgb())
        aperio(train / "Annotations" / f"{name}.xml", [square(2, 3, 5.4, 6.2)])
    save(test / "TCGA-2Z-A9J9-01A-01-TS1.tif", rgb())
    aperio(test / "TCGA-2Z-A9J9-01A-01-TS1.xml", [square(0, 0, 3, 3)], [square(10, 1, 12, 2)])
    litter = tmp_path / "__MACOSX" / "MoNuSegTestData"
    litter.mkdir(parents=True)
    (litter / "._TCGA-2Z-A9J9-01A-01-TS1.xml").write_bytes(b"\0")
    return tmp_path


def test_monuseg(monuseg_folder):
    samples = find_samples(monuseg_folder)
    assert [(s.split, s.image.organ, s.mpp) for s in samples] == [
        ("train", "breast", 0.25),
        ("train", None, 0.25),
        ("test", None, 0.25),
    ]
    label_map = samples[0].load_label_map()
    assert (label_map > 0).sum() == 4 * 4  # columns 2 to 5, rows 3 to 6, index points inside
    np.testing.assert_array_equal(np.nonzero(label_map)[0].min(), 3)
    assert samples[2].load_label_map().max() == 2  # every annotation, ids from 1


@pytest.mark.parametrize("inside", ["MoNuSegTestData", "MoNuSeg 2018 Training Data"])
def test_monuseg_one_archive(monuseg_folder, inside):
    assert {s.split for s in find_samples(monuseg_folder / inside)} == {
        "test" if "Test" in inside else "train"
    }


def test_monuseg_overlap_and_its_digest(tmp_path):
    save(tmp_path / "a.tif", rgb())
    big, small = square(1, 1, 9, 9), square(3, 3, 5, 5)
    aperio(tmp_path / "a.xml", [small, big])
    by_rule = {
        rule: monuseg.find(tmp_path, overlap=rule)[0] for rule in ("last", "first", "smallest")
    }
    assert by_rule["last"].load_label_map().max() == 1  # the small one is hidden, ids stay whole
    for rule in ("first", "smallest"):
        assert (np.bincount(by_rule[rule].load_label_map().ravel())[1:] == [9, 72]).all() or (
            np.bincount(by_rule[rule].load_label_map().ravel())[1:] == [72, 9]
        ).all()
    assert len({s.truth_digest() for s in by_rule.values()}) == 3
    with pytest.raises(UserError, match="overlap"):
        monuseg.find(tmp_path, overlap="random")


def test_outlines_outside_thin_and_empty(tmp_path):
    regions = [[(1, 1), (2, 2)], [(5.2, 5.2), (5.4, 5.2), (5.3, 5.4)], square(-5, -5, 1, 1), []]
    aperio(tmp_path / "a.xml", regions)
    outlines = read_outlines(tmp_path / "a.xml")
    assert outlines.mpp == 0.252
    label_map = draw_outlines(outlines.polygons, (8, 8))
    assert label_map.max() == 1  # too few vertices, no pixel, cut off, nothing
    assert (label_map > 0).sum() == 4


# --- TNBC


@pytest.fixture
def tnbc_folder(tmp_path):
    root = tmp_path / "TNBC_NucleiSegmentation"
    mask = np.zeros((20, 24), np.uint8)
    mask[2:4, 2:4] = mask[4:6, 4:6] = 255  # touch by a corner
    for slide, name in ((1, "01_1"), (1, "01_2"), (9, "09_1"), (13, "13_1")):
        image = np.dstack([rgb(), np.full((20, 24), 255, np.uint8)])
        save(root / f"Slide_{slide:02d}" / f"{name}.png", image)
        save(root / f"GT_{slide:02d}" / f"{name}.png", mask)
    (root / "Slide_01" / ".DS_Store").write_bytes(b"x")
    return tmp_path


def test_tnbc(tnbc_folder):
    samples = find_samples(tnbc_folder)
    assert [s.name for s in samples] == ["01_1", "01_2", "09_1"]  # no brain
    assert [s.split for s in samples] == ["test", "train", "train"]
    assert [s.split for s in tnbc.find(tnbc_folder, splits="patient")] == ["train", "train", "test"]
    assert {s.split for s in tnbc.find(tnbc_folder, splits="none")} == {""}
    assert samples[0].load_image().shape == (20, 24, 3)
    assert samples[0].load_label_map().max() == 1
    assert tnbc.find(tnbc_folder, connectivity=4)[0].load_label_map().max() == 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1"])
def test_tnbc_masks_of_any_mode(tnbc_folder, mode):
    path = tnbc_folder / "TNBC_NucleiSegmentation" / "GT_01" / "01_1.png"
    Image.open(path).convert(mode).save(path)
    assert tnbc.find(tnbc_folder)[0].load_label_map().max() == 1


def test_tnbc_truth_is_not_split_twice(tnbc_folder):
    with pytest.raises(UserError, match="--binary is for label files"):
        find_samples(tnbc_folder, binary="components")


def test_tnbc_truth_must_be_binary(tnbc_folder):
    save(
        tnbc_folder / "TNBC_NucleiSegmentation" / "GT_01" / "01_1.png",
        RNG.integers(0, 9, (20, 24)).astype(np.uint8),
    )
    with pytest.raises(UserError, match=r"01_1\.png: no binary mask"):
        tnbc.find(tnbc_folder)[0].load_label_map()


# --- CPM-17


@pytest.fixture
def cpm17_folder(tmp_path):
    for split in ("train", "test"):
        for k in range(2):
            save(tmp_path / "cpm17" / split / "Images" / f"image_{k:02d}.png", rgb())
            labels = tmp_path / "cpm17" / split / "Labels"
            labels.mkdir(exist_ok=True)
            ids = np.zeros((20, 24))
            ids[:3, :3], ids[10:, 10:] = 7, 300
            savemat(labels / f"image_{k:02d}.mat", {"inst_map": ids, "type_map": ids})
    return tmp_path


def test_cpm17(cpm17_folder):
    with pytest.warns(MissingMpp, match="--mpp"):
        samples = find_samples(cpm17_folder)
    assert [s.name for s in samples] == [
        f"{s}_image_0{k}" for s in ("test", "train") for k in (0, 1)
    ]
    assert {s.mpp for s in samples} == {None}
    assert samples[0].load_label_map().max() == 2
    assert find_samples(cpm17_folder, mpp=0.5)[0].mpp == 0.5


@pytest.mark.parametrize(
    "content",
    [
        {"other": np.zeros((20, 24))},
        {"inst_map": np.zeros((20, 24, 2))},
        {"inst_map": np.array([[{"a": 1}]], dtype=object)},
        {"inst_map": "text"},
        {"inst_map": np.full((20, 24), 0.5)},
        {"inst_map": np.full((20, 24), -1.0)},
    ],
)
def test_cpm17_only_reads_a_plain_label_matrix(cpm17_folder, content):
    savemat(cpm17_folder / "cpm17" / "test" / "Labels" / "image_00.mat", content)
    with pytest.raises(UserError, match=r"image_00\.mat"):
        cpm17.find(cpm17_folder)[0].load_label_map()


# --- CryoNuSeg


@pytest.fixture
def cryonuseg_folder(tmp_path):
    for name in ("Human_Skin_01", "Human_Skin_03", "Human_LymphNodes_03"):
        save(tmp_path / "tissue images" / f"{name}.tif", rgb())
        for k, (rater, folder) in enumerate(cryonuseg.RATERS.items()):
            base = tmp_path / folder / (folder if rater != "biologist" else "")
            ids = np.zeros((20, 24), np.uint16)
            ids[: k + 1, 0], ids[10, 10] = 5, 300
            save(base / "label masks modify" / f"{name}.tif", ids)
            save(base / "label masks" / f"{name}.tif", ids * 2)
    return tmp_path


def test_cryonuseg(cryonuseg_folder):
    samples = find_samples(cryonuseg_folder)
    assert [(s.name, s.split, s.image.organ) for s in samples] == [
        ("Human_LymphNodes_03", "test", "LymphNodes"),
        ("Human_Skin_01", "train", "Skin"),
        ("Human_Skin_03", "test", "Skin"),
    ]
    for k, rater in enumerate(cryonuseg.RATERS):
        label_map = cryonuseg.find(cryonuseg_folder, rater=rater)[0].load_label_map()
        assert np.bincount(label_map.ravel())[1:].tolist() == [k + 1, 1]
    with pytest.raises(UserError, match="rater"):
        cryonuseg.find(cryonuseg_folder, rater="nobody")


# --- PanNuke


@pytest.fixture
def coin_folder(tmp_path):
    data = tmp_path / "COIN" / "data"
    code = np.zeros((20, 24, 3), np.uint8)
    code[0, :, 1], code[1, :, 2] = np.arange(24), 1  # ids 1 to 23 and 256
    semantic = Image.fromarray((code[..., 1] > 0).astype(np.uint8), mode="P")
    semantic.putpalette([0, 0, 0, 32, 167, 132])
    for place in ("MoNuSeg/train", "MoNuSeg/test", "CPM-17/train", "CPM-17/test", "PanNuke/Fold1"):
        save(data / place / "image" / "image_00.png", rgb())
        save(data / place / "mask" / "image_00.png", code)
        (data / place / "mask_semantic").mkdir()
        semantic.save(data / place / "mask_semantic" / "image_00.png")
    return tmp_path / "COIN"


def test_coin_layout(coin_folder):
    with pytest.warns(MissingMpp, match="2 of 5"):
        samples = find_samples(coin_folder)
    assert [(s.dataset, s.split) for s in samples] == [
        ("CPM-17", "train"),
        ("CPM-17", "test"),
        ("MoNuSeg", "train"),
        ("MoNuSeg", "test"),
        ("PanNuke", "Fold1"),
    ]
    assert len({s.name for s in samples}) == 5  # the same file name in each
    assert samples[0].load_label_map().max() == 24
    (one,) = find_samples(coin_folder / "data" / "PanNuke" / "Fold1")
    assert one.name == "image_00"
    assert one.mpp == 0.25
    assert len(find_samples(coin_folder / "data" / "MoNuSeg")) == 2


def test_coin_layout_palette_masks(coin_folder):
    sample = coin_layout.find(coin_folder / "data" / "MoNuSeg" / "test", masks="mask_semantic")[0]
    assert sample.load_label_map().max() == 1
    with pytest.raises(UserError, match="masks"):
        coin_layout.find(coin_folder, masks="image")


# --- all


def test_cards_are_complete():
    for name in catalogue.NAMES:
        card = catalogue.get(name).CARD
        assert card.name == name
        for value in (card.title, card.url, card.licence, card.citation, card.layout):
            assert value
        assert card.counts or name == "imagescope"  # anybody's images
        assert card.splits
        assert card.steps
        for archive in card.archives:
            assert archive.url.startswith("https://")
            assert len(archive.sha256 or "") == 64
    assert sum(catalogue.get("pannuke").CARD.counts.values()) == 7901


def test_names_of_data_sets():
    assert catalogue.get("CPM-17") is cpm17
    with pytest.raises(UserError, match="unknown data set"):
        catalogue.get("kumar")


def test_a_plain_folder_is_no_data_set(tmp_path):
    save(tmp_path / "image" / "a.png", rgb())
    save(tmp_path / "mask" / "a.png", np.zeros((20, 24), np.uint8))
    assert catalogue.detect(tmp_path) is None


def test_a_named_data_set_that_is_not_there(tmp_path):
    save(tmp_path / "a.png", rgb())
    for name in ("tnbc", "cpm17", "cryonuseg", "monuseg", "pannuke", "brca"):
        with pytest.raises(UserError):
            find_samples(tmp_path, dataset=name)


def test_options_reach_the_data_set(cryonuseg_folder):
    samples = find_samples(cryonuseg_folder, options={"rater": "biologist2"})
    assert "second round" in str(samples[0].truth_path)
    with pytest.raises(UserError, match="no option 'fold'"):
        find_samples(cryonuseg_folder, options={"fold": "1"})


def test_options_of_a_plain_folder(tmp_path):
    save(tmp_path / "a.png", rgb())
    with pytest.raises(UserError, match="--dataset"):
        find_samples(tmp_path, options={"fold": "1"})


def test_finding_decodes_nothing(monuseg_folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    monkeypatch.setattr("coin_ray.data.monuseg.read_outlines", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(find_samples(monuseg_folder)) == 3
