"""Every data set in the format its owners ship, made small."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from coin_ray.data import brca, catalogue, coin_layout, cpm17, cryonuseg, monuseg, pannuke, tnbc
from coin_ray.data.aperio import draw_outlines, read_outlines
from coin_ray.data.folder import find_samples
from coin_ray.data.resolution import MissingMpp
from coin_ray.errors import UserError

RNG = np.random.default_rng(0)


def rgb(height=20, width=24):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


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
def pannuke_folder(tmp_path):
    for fold in (1, 3):
        base = tmp_path / f"fold_{fold}" / f"Fold {fold}"
        images = RNG.integers(0, 256, (3, 256, 256, 3)).astype(np.float64)
        masks = np.zeros((3, 256, 256, 6))
        masks[..., 5] = 1
        masks[0, :4, :4, 0], masks[0, 10:14, 10:12, 0] = 2, 9
        masks[0, 2:6, 2:6, 3] = 2  # the same id in another class, overlapping
        save(base / "images" / f"fold{fold}" / "images.npy", images)
        save(base / "images" / f"fold{fold}" / "types.npy", np.array(["Breast", "Colon", "Skin"]))
        save(base / "masks" / f"fold{fold}" / "masks.npy", masks)
    return tmp_path


def test_pannuke(pannuke_folder):
    samples = find_samples(pannuke_folder)
    assert [s.name for s in samples] == [f"fold{k}_000{i}" for k in (1, 3) for i in range(3)]
    assert samples[1].image.organ == "Colon"
    assert {s.split for s in samples} == {"fold1", "fold3"}
    assert samples[0].image.shape() == (256, 256)
    image = samples[0].load_image()
    assert image.dtype == np.uint8
    whole = np.load(samples[0].image.path)
    np.testing.assert_array_equal(image, whole[0])
    # two of the first class, one of the fourth; a pixel claimed twice stays with the first class
    assert np.bincount(samples[0].load_label_map().ravel())[1:].tolist() == [16, 8, 12]
    assert samples[1].load_label_map().max() == 0  # the background channel is no nucleus
    assert samples[0].image.digest() != samples[1].image.digest()
    assert samples[0].truth_digest() != samples[1].truth_digest()


def test_pannuke_splits_and_folds(pannuke_folder):
    assert [s.split for s in pannuke.find(pannuke_folder, splits="coin")] == ["train"] * 3 + [
        "test"
    ] * 3
    assert {s.split for s in pannuke.find(pannuke_folder, fold=3)} == {"fold3"}
    with pytest.raises(UserError, match=r"no such fold[\s\S]*\[1, 3\]"):
        pannuke.find(pannuke_folder, fold=2)


def test_pannuke_other_folder_names(pannuke_folder):
    (pannuke_folder / "fold_3").rename(pannuke_folder / "fold_03")
    base = pannuke_folder / "fold_1" / "Fold 1"
    other = pannuke_folder / "fold0"
    other.mkdir()
    for file in base.rglob("*.npy"):
        file.rename(other / file.name)
    samples = pannuke.find(pannuke_folder)
    assert {s.split for s in samples} == {"fold0", "fold3"}
    assert all(s.has_truth for s in samples)


def test_pannuke_is_memory_mapped(pannuke_folder):
    path = pannuke.find(pannuke_folder)[0].image.path
    assert isinstance(pannuke.open_array(path, (256, 256, 3)), np.memmap)


@pytest.mark.parametrize("bad", [-1.0, 0.5, 256.0])
def test_pannuke_values_that_are_no_image(pannuke_folder, bad):
    sample = pannuke.find(pannuke_folder)[0]
    array = np.load(sample.image.path)
    array[0, 0, 0, 0] = bad
    np.save(sample.image.path, array)
    with pytest.raises(UserError, match=r"images\.npy: patch 0"):
        sample.load_image()


def test_pannuke_arrays_that_do_not_fit(pannuke_folder):
    samples = pannuke.find(pannuke_folder)
    np.save(samples[0].truth_path, np.zeros((2, 256, 256, 6)))
    with pytest.raises(UserError, match="differ in number"):
        pannuke.find(pannuke_folder)
    np.save(samples[0].image.path, np.zeros((3, 64, 64, 3)))
    with pytest.raises(UserError, match=r"images\.npy: no fold"):
        pannuke.find(pannuke_folder)


# --- BRCA


@pytest.fixture
def m2c_folder(tmp_path):
    names = [f"TCGA-A7-A0D9-01Z-00-DX1_18001_1300{k}_1000_1000_0.9824" for k in range(3)]
    for name in names:
        save(tmp_path / "images" / f"{name}.png", rgb())
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}_gt_class_coords.txt").write_text("3 20 1\n19 0 3\n")
    for split, name in zip(("train", "val", "test"), names, strict=True):
        (tmp_path / f"brca_ds_{split}.txt").write_text(f"{name}.png\n")
    return tmp_path


def test_brca_m2c(m2c_folder):
    samples = find_samples(m2c_folder)
    assert [s.split for s in samples] == ["train", "val", "test"]
    assert {(s.dataset, s.mpp, s.has_truth) for s in samples} == {("BRCA-M2C", 0.5, False)}
    points = brca.read_points(brca.points_path(samples[0].image))
    assert points.yx.tolist() == [[3, 20], [19, 0]]  # rows are y x class
    assert points.classes.tolist() == [1, 3]


@pytest.mark.parametrize("text", ["1 2", "1 2 3 4", "a b c", "1 2 7"])
def test_brca_m2c_bad_points(m2c_folder, text):
    path = brca.points_path(find_samples(m2c_folder)[0].image)
    path.write_text(text)
    with pytest.raises(UserError, match="gt_class_coords"):
        brca.read_points(path)


COLUMNS = (
    "raw_classification,main_classification,super_classification,"
    "type,xmin,ymin,xmax,ymax,coords_x,coords_y"
)


def nucls_csv(path, field=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        COLUMNS,
        'tumor,tumor,tumor,polyline,5,4,8,7,"5,8,8,5","4,4,7,7"',
        'tumor,tumor,tumor,polyline,0,0,3,3,"0,3,3,0","0,0,3,3"',
        "lymphocyte,sTIL,sTIL,rectangle,15,10,18,14,,",
    ]
    if field:
        rows.append("fov,fov,fov,rectangle,2,2,22,18,,")
    path.write_text("\n".join(rows) + "\n")


def test_brca_nucls(tmp_path):
    image = rgb()
    save(tmp_path / "rgb" / "a.png", image)
    nucls_csv(tmp_path / "csv" / "a.csv")
    (sample,) = find_samples(tmp_path)
    assert (sample.dataset, sample.mpp) == ("NuCLS", 0.2)
    np.testing.assert_array_equal(sample.load_image(), image[2:18, 2:22])
    assert sample.image.shape() == (16, 20)
    label_map = sample.load_label_map()
    assert np.bincount(label_map.ravel())[1:].tolist() == [16, 4]  # the box is no outline
    assert label_map[2, 3] == 1
    assert label_map[0, 0] == 2


def test_brca_nucls_field_of_view_table_and_none(tmp_path):
    save(tmp_path / "rgb" / "a.png", rgb())
    nucls_csv(tmp_path / "csv" / "a.csv", field=False)
    assert find_samples(tmp_path)[0].load_image().shape == (20, 24, 3)
    (tmp_path / "csv" / "ALL_FOV_LOCATIONS.csv").write_text(
        ",fovname,xmin,ymin,xmax,ymax\n0,b,0,0,4,4\n1,a,1,2,11,12\n"
    )
    (sample,) = find_samples(tmp_path)
    assert sample.load_image().shape == (10, 10, 3)


@pytest.mark.parametrize(
    "row",
    [
        'tumor,tumor,tumor,polyline,5,4,8,7,"5,8,8","4,4"',
        'tumor,tumor,tumor,polyline,5,4,8,7,"a,b","1,2"',
        "fov,fov,fov,rectangle,200,200,300,300,,",
        "fov,fov,fov,rectangle,,,,,,",
    ],
)
def test_brca_nucls_bad_rows(tmp_path, row):
    save(tmp_path / "rgb" / "a.png", rgb())
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text(f"{COLUMNS}\n{row}\n")
    with pytest.raises(UserError, match=r"a\.csv"):
        find_samples(tmp_path)[0].load_label_map()


def test_brca_sources(m2c_folder, tmp_path):
    root = tmp_path / "coin"
    save(root / "BRCA" / "test" / "image" / "x_0.png", rgb(18, 19))
    save(root / "BRCA" / "test" / "mask" / "x_0.png", np.zeros((18, 19, 3), np.uint8))
    (sample,) = brca.find(root, source="coin")
    assert (sample.dataset, sample.split, sample.mpp) == ("BRCA", "test", None)
    with pytest.raises(UserError, match="no BRCA data"):
        brca.find(root / "BRCA" / "test" / "image", source="coin")
    with pytest.raises(UserError, match="source"):
        brca.find(root, source="other")


# --- COIN layout


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
        assert card.counts
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
