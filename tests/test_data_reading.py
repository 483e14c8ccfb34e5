"""Images and label maps: every container, and every kind of bad file."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from coin_ray.data.images import read_image
from coin_ray.data.label_files import read_foreground, read_label_map
from coin_ray.data.rasters import raster_shape
from coin_ray.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
IDS = RNG.integers(0, 9, (40, 50))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF", "a.npy"])
def test_lossless_images(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, RGB)
    elif path.suffix == ".png":
        Image.fromarray(RGB).save(path)
    else:
        tifffile.imwrite(path, RGB, compression="zlib")
    image = read_image(path)
    np.testing.assert_array_equal(image, RGB)
    assert image.flags.writeable
    assert raster_shape(path) == (40, 50)


@pytest.mark.parametrize("compression", ["none", "packbits", "lzw", "zlib"])
def test_tif_compressions(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", RGB, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


def test_tif_planes_apart(tmp_path):
    planes = np.moveaxis(RGB, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


def test_jpeg(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=95)
    assert read_image(tmp_path / "a.jpg").shape == RGB.shape


def rgba(alpha):
    return np.dstack([RGB, np.full(RGB.shape[:2], alpha, np.uint8)])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_opaque_alpha_is_dropped(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, rgba(255))
    np.testing.assert_array_equal(read_image(path), RGB)


def write(path, array, **options):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, **options)
    else:
        Image.fromarray(array).save(path)


REFUSED = {
    "grey": RGB[..., 0],
    "16 bits": RGB.astype(np.uint16) * 256,
    "float": RGB / np.float32(255),
    "transparent": rgba(254),
    "two channels": RGB[..., :2],
    "five channels": np.dstack([RGB, RGB[..., :2]]),
    "planes first": np.moveaxis(RGB, -1, 0),
    "a stack": np.stack([RGB] * 4),
}


CONTAINERS = [
    *((kind, ".npy") for kind in REFUSED),
    *((kind, ".tif") for kind in REFUSED if kind != "planes first"),  # a tif says which axis it is
    ("grey", ".png"),
    ("transparent", ".png"),
]


@pytest.mark.parametrize(("kind", "suffix"), CONTAINERS)
def test_other_images_are_refused_with_one_clear_message(tmp_path, kind, suffix):
    array, path = REFUSED[kind], tmp_path / f"slide{suffix}"
    options = {} if kind in ("grey", "a stack") else {"photometric": "rgb"}
    if kind == "two channels":
        options = {"photometric": "minisblack", "planarconfig": "contig"}
    write(path, array, **(options if suffix == ".tif" else {}))
    with pytest.raises(UserError) as caught:
        read_image(path)
    text = str(caught.value)
    assert "slide" + suffix in text
    assert "expected" in text
    assert "found" in text


def test_modes_of_png_are_named(tmp_path):
    path = tmp_path / "a.png"
    for mode in ("L", "LA", "P", "1"):
        Image.fromarray(RGB).convert(mode).save(path)
        with pytest.raises(UserError, match="not an RGB image"):
            read_image(path)


def png(width, height, depth, color, data):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bit_colour_png_is_not_cut_to_8_bits(tmp_path):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RGB.astype(np.uint16) * 257)
    (tmp_path / "a.png").write_bytes(png(50, 40, 16, 2, rows))
    with pytest.raises(UserError, match="16-bit"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "raw.tif", "lzw.tif", "a.npy"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_images(tmp_path, name, share):
    path = tmp_path / name
    write(path, RGB, **({"compression": "lzw", "rowsperstrip": 8} if name == "lzw.tif" else {}))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=f"{name}: cannot decode"):
        read_image(path)


def test_noise_is_no_image(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "a.npy"):
        (tmp_path / name).write_bytes(RNG.bytes(500))
        with pytest.raises(UserError, match=f"{name}: cannot decode"):
            read_image(tmp_path / name)


def test_missing_file_and_unknown_suffix(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.svs").write_bytes(b"x")
    with pytest.raises(UserError, match="unknown kind of file"):
        read_image(tmp_path / "a.svs")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match=r"b\.png"):
        read_image(tmp_path / "b.png")


@pytest.mark.filterwarnings("ignore:Image size")
def test_decompression_bombs_are_refused_before_decoding(tmp_path):
    (tmp_path / "a.png").write_bytes(png(100_000, 100_000, 8, 2, b"\0" * 1000))
    (tmp_path / "b.png").write_bytes(png(13_000, 13_000, 8, 2, b"\0" * 1000))
    tifffile.imwrite(tmp_path / "c.tif", RGB)
    whole = (tmp_path / "c.tif").read_bytes()
    height = struct.pack("<HHII", 257, 4, 1, 40)  # ImageLength, LONG, one value
    assert height in whole
    huge = struct.pack("<HHII", 257, 4, 1, 9_000_000)
    (tmp_path / "c.tif").write_bytes(whole.replace(height, huge))
    with (tmp_path / "d.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (60_000, 60_000, 3)}
        )
        file.truncate(60_000 * 60_000 * 3 + 128)  # sparse: claims 10 GB, holds none
    for name in ("a.png", "b.png", "c.tif", "d.npy"):
        with pytest.raises(UserError, match=f"{name}: absurd dimensions"):
            read_image(tmp_path / name)


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy: this is a pickled Python object"):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
def test_label_tifs(tmp_path, dtype):
    gaps = np.array([0, 3, 4, 90, 100, 101, 120, 200, 250])[IDS].astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", gaps, compression="zlib")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif", (40, 50)), IDS)


def test_label_ids_above_8_and_16_bits(tmp_path):
    Image.fromarray((IDS * 300).astype(np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), IDS)
    tifffile.imwrite(tmp_path / "a.tif", (IDS * 500_000_000).astype(np.uint32))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif"), IDS)
    np.save(tmp_path / "a.npy", IDS * 70_000)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.npy"), IDS)


def coin(ids):
    return np.stack([np.zeros_like(ids), ids % 256, ids // 256], axis=-1).astype(np.uint8)


def test_coin_png_keeps_ids_above_255(tmp_path):
    ids = np.arange(600).reshape(20, 30)
    Image.fromarray(coin(ids)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), ids)


def test_colour_pictures_and_pseudo_labels_are_no_label_maps(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="colour picture"):
        read_label_map(tmp_path / "a.png")
    pseudo = coin(IDS)
    pseudo[0] = 255
    Image.fromarray(pseudo).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="pseudo label map"):
        read_label_map(tmp_path / "a.png")


def test_masks_where_instances_are_needed(tmp_path):
    mask = IDS > 4
    palette = Image.fromarray(mask.astype(np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 32, 167, 132])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "grey.png")
    Image.fromarray(mask).save(tmp_path / "bits.png")
    np.save(tmp_path / "bool.npy", mask)
    for name in ("palette.png", "grey.png", "bits.png", "bool.npy"):
        with pytest.raises(UserError, match=f"{name}: a binary mask"):
            read_label_map(tmp_path / name)
        np.testing.assert_array_equal(read_foreground(tmp_path / name), mask)
        assert read_label_map(tmp_path / name, binary="components").max() > 1


def test_one_nucleus_is_no_binary_mask(tmp_path):
    one = np.zeros((40, 50), dtype=np.uint8)
    one[3:9, 4:12] = 1
    Image.fromarray(one).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), one)
    Image.fromarray((IDS == 3).astype(np.uint8)).save(tmp_path / "a.png")
    found = read_label_map(tmp_path / "a.png", binary="instances")
    np.testing.assert_array_equal(found, IDS == 3)


def test_an_answer_that_is_none(tmp_path):
    Image.fromarray((IDS == 3).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="True is none of components"):
        read_label_map(tmp_path / "a.png", binary=True)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (IDS / 2, "whole numbers"),
        (-IDS, "negative ids"),
        (np.dstack([IDS, IDS]), "one channel"),
        (IDS[:, :-1], "differ in size"),
    ],
)
def test_label_arrays_that_are_refused(tmp_path, array, text):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=rf"a\.npy[\s\S]*{text}"):
        read_label_map(tmp_path / "a.npy", (40, 50))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_label_maps(tmp_path, name, share):
    path = tmp_path / name
    noise = RNG.integers(0, 60_000, (40, 50)).astype(np.uint16)
    write(path, noise, **({"compression": "zlib"} if name == "a.tif" else {}))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=f"{name}: cannot decode"):
        read_label_map(path)
