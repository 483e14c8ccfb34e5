"""PanNuke and the BRCA sets, patches and crops with classes, in the format of their owners."""

from __future__ import annotations

import numpy as np
import pytest

from coin_ray.data import brca, pannuke
from coin_ray.data.folder import find_samples
from coin_ray.errors import UserError
from tests.data_files import RNG, rgb, save


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
