"""Folders of images: pairing, order, names, mpp."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from coin_ray.data.digests import content_digest
from coin_ray.data.folder import find_samples
from coin_ray.data.resolution import MissingMpp, pixel_scale, with_mpp
from coin_ray.data.sample import unique_names
from coin_ray.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
IDS = np.kron(np.arange(6).reshape(2, 3), np.ones((3, 3)))[:, :8].astype(np.uint16)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)


def test_flat_folder_in_order(tmp_path):
    for name in ("b.png", "a.tif", "C.npy", "d.JPG"):
        save(tmp_path / name, RGB)
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    samples = find_samples(tmp_path, mpp=0.25)
    assert [s.name for s in samples] == ["C", "a", "b", "d"]
    assert not any(s.has_truth for s in samples)
    for sample in samples[:3]:
        np.testing.assert_array_equal(sample.load_image(), RGB)
    assert samples[3].image.shape() == (6, 8)


@pytest.mark.parametrize("folder", ["mask", "label", "masks", "labels"])
def test_pairs_and_images_without_truth(tmp_path, folder):
    for name in ("a.b.png", "c.png"):
        save(tmp_path / "image" / name, RGB)
    save(tmp_path / folder / "a.b.tif", IDS * 100)
    with_truth, without = find_samples(tmp_path, mpp=0.25)
    assert with_truth.name == "a.b"
    np.testing.assert_array_equal(with_truth.load_label_map(), IDS)
    assert with_truth.load_label_map().dtype == np.int32
    assert not without.has_truth
    assert without.truth_digest() is None
    with pytest.raises(UserError, match="no ground truth"):
        without.load_label_map()


def test_one_image(tmp_path):
    save(tmp_path / "a.png", RGB)
    (sample,) = find_samples(tmp_path / "a.png", mpp=0.25)
    assert sample.name == "a"


def test_data_set_and_split_from_the_path(tmp_path):
    save(tmp_path / "Lung" / "test" / "image" / "a.png", RGB)
    (sample,) = find_samples(tmp_path / "Lung" / "test", mpp=0.25)
    assert (sample.dataset, sample.split) == ("Lung", "test")


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(UserError, match=r"no image in this folder[\s\S]*empty folder"):
        find_samples(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no image[\s\S]*notes\.txt"):
        find_samples(tmp_path)
    with pytest.raises(UserError, match="no such"):
        find_samples(tmp_path / "nowhere")


def test_two_images_of_one_name(tmp_path):
    save(tmp_path / "a.png", RGB)
    save(tmp_path / "a.tif", RGB)
    with pytest.raises(UserError, match=r"two files of one name[\s\S]*a\.png and a\.tif"):
        find_samples(tmp_path)


def test_binary_masks_on_request(tmp_path):
    save(tmp_path / "image" / "a.png", RGB)
    save(tmp_path / "mask" / "a.png", ((IDS == 2) | (IDS == 3)).astype(np.uint8) * 255)
    with pytest.raises(UserError, match="binary"):
        find_samples(tmp_path, mpp=0.25)[0].load_label_map()
    assert find_samples(tmp_path, mpp=0.25, binary="components")[0].load_label_map().max() == 2


def test_another_size_than_the_image(tmp_path):
    save(tmp_path / "image" / "a.png", RGB)
    save(tmp_path / "mask" / "a.png", IDS[:, :-1])
    with pytest.raises(
        UserError, match=r"mask/a\.png: label map and image differ[\s\S]*6 x 8[\s\S]*6 x 7"
    ):
        find_samples(tmp_path, mpp=0.25)[0].load_label_map()


def test_samples_travel_between_processes(tmp_path):
    save(tmp_path / "image" / "a.png", RGB)
    save(tmp_path / "mask" / "a.png", ((IDS == 1) * 255).astype(np.uint8))
    sample = find_samples(tmp_path, mpp=0.25, binary="components")[0]
    again = pickle.loads(pickle.dumps(sample))  # noqa: S301
    np.testing.assert_array_equal(again.load_label_map(), sample.load_label_map())


def test_an_image_has_no_way_to_its_truth(tmp_path):
    save(tmp_path / "image" / "a.png", RGB)
    save(tmp_path / "mask" / "a.png", IDS)
    image = find_samples(tmp_path, mpp=0.25)[0].image
    assert not any("truth" in n or "label" in n or "mask" in n for n in dir(image))


def test_digest_follows_the_content(tmp_path):
    save(tmp_path / "a.npy", RGB)
    save(tmp_path / "b.npy", RGB)
    first = content_digest(tmp_path / "a.npy")
    assert first == content_digest(tmp_path / "b.npy")
    save(tmp_path / "a.npy", RGB[:, :4])
    assert content_digest(tmp_path / "a.npy") != first
    with pytest.raises(UserError, match="no such file"):
        content_digest(tmp_path / "c.npy")


def test_missing_mpp_warns_once_and_names_the_flag(tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.png", RGB)
    with pytest.warns(MissingMpp, match=r"3 of 3.*--mpp") as caught:
        samples = find_samples(tmp_path)
    assert len(caught) == 1
    assert samples[0].mpp is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_samples(tmp_path, mpp=0.5)[0].mpp == 0.5


def test_mpp_from_the_file_and_the_flag_that_wins(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", RGB, resolution=(20_000, 20_000), resolutionunit="CENTIMETER"
    )
    Image.fromarray(RGB).save(tmp_path / "b.png", dpi=(50_800, 50_800))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [s.mpp for s in find_samples(tmp_path)] == pytest.approx([0.5, 0.5], rel=1e-3)
    with pytest.warns(UserWarning, match=r"--mpp 0\.25 replaces the 0\.5"):
        assert [s.mpp for s in find_samples(tmp_path, mpp=0.25)] == [0.25, 0.25]


def test_a_printers_resolution_is_none(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png", dpi=(72, 72))
    with pytest.warns(MissingMpp):
        assert find_samples(tmp_path)[0].mpp is None


def test_impossible_mpp():
    with pytest.raises(UserError, match="--mpp"):
        with_mpp([], 40)


@pytest.mark.parametrize(
    ("mpp", "scale"), [(None, 1), (0.25, 1), (0.2376, 1), (0.2624, 1), (0.5, 0.5), (0.2, 1.25)]
)
def test_pixel_scale(mpp, scale):
    assert pixel_scale(mpp) == pytest.approx(scale)


def test_unique_names(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "image" / "a.png", RGB)
    save(tmp_path / "test" / "image" / "b.png", RGB)
    samples = [s for d in ("train", "test") for s in find_samples(tmp_path / d, mpp=0.25)]
    assert [s.name for s in unique_names(samples)] == ["train_a", "test_a", "b"]
