"""Broken and hostile files: one clear error that names the file, and nothing written."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from coin_ray.data import cpm17, pannuke
from coin_ray.data.aperio import read_outlines
from coin_ray.data.convert import convert
from coin_ray.data.fetch import unpack
from coin_ray.data.folder import find_samples
from coin_ray.data.rasters import raster_shape, read_raster
from coin_ray.errors import UserError

SHARES = [0.0, 0.1, 0.5, 0.95]


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


# --- XML


XML = """<?xml version="1.0"?>
<Annotations MicronsPerPixel="0.25"><Annotation><Regions><Region><Vertices>
<Vertex X="1" Y="2"/><Vertex X="5" Y="2"/><Vertex X="5" Y="6"/>
</Vertices></Region></Regions></Annotation></Annotations>"""


@pytest.mark.parametrize("share", SHARES)
def test_truncated_xml(tmp_path, share):
    (tmp_path / "a.xml").write_text(XML)
    assert len(read_outlines(tmp_path / "a.xml").polygons) == 1
    cut(tmp_path / "a.xml", share)
    with pytest.raises(UserError, match=r"a\.xml: cannot read these annotations"):
        read_outlines(tmp_path / "a.xml")


ENTITIES = {
    "expansion": '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>",
    "external": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
    "parameter": '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x"> %x;]>',
    "dtd": '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd">',
}


@pytest.mark.parametrize("kind", ENTITIES)
def test_xml_with_entities_is_refused(tmp_path, kind):
    head, body = XML.split("\n", 1)
    use = body.replace('X="1"', 'X="&i;"') if kind == "expansion" else body
    (tmp_path / "a.xml").write_text(f"{head}\n{ENTITIES[kind]}\n{use}")
    with pytest.raises(UserError, match=r"a\.xml: XML with a document type declaration"):
        read_outlines(tmp_path / "a.xml")


@pytest.mark.parametrize("old, new", [('X="1"', 'X="one"'), ('X="1" ', ""), ('X="1"', 'X="nan"')])
def test_xml_without_numbers(tmp_path, old, new):
    (tmp_path / "a.xml").write_text(XML.replace(old, new))
    with pytest.raises(UserError, match=r"a\.xml"):
        read_outlines(tmp_path / "a.xml")


# --- MATLAB


@pytest.fixture
def mat(tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (30, 30))
    savemat(tmp_path / "a.mat", {"inst_map": ids.astype(np.int32)}, do_compression=True)
    return tmp_path / "a.mat"


@pytest.mark.parametrize("share", SHARES)
def test_truncated_mat(mat, share):
    assert cpm17.read_truth(mat, (30, 30)).max() == 8
    cut(mat, share)
    with pytest.raises(UserError, match=r"a\.mat: (cannot decode|no label map)"):
        cpm17.read_truth(mat, (30, 30))


def test_mat_of_version_7_3_is_named(mat):
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    mat.write_bytes(head.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(500))
    with pytest.raises(UserError, match=r"a\.mat: this is a MATLAB v7\.3 file[\s\S]*-v7"):
        cpm17.read_truth(mat, (30, 30))


def test_mat_of_absurd_dimensions(mat):
    def element(kind, body):
        return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)

    head = mat.read_bytes()[:128]
    flags = element(6, struct.pack("<II", 12, 0))  # mxINT32
    name = element(1, b"inst_map")
    matrix = flags + element(5, struct.pack("<ii", 2**20, 2**20)) + name + element(5, b"\0" * 8)
    packed = zlib.compress(element(14, matrix))
    mat.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(UserError, match=r"a\.mat: absurd dimensions"):
        cpm17.read_truth(mat, (30, 30))


# --- NumPy


@pytest.mark.parametrize("share", SHARES)
def test_truncated_fold(tmp_path, share):
    (tmp_path / "fold1").mkdir()
    path = tmp_path / "fold1" / "images.npy"
    np.save(path, np.zeros((2, 256, 256, 3)))
    assert len(pannuke.find(tmp_path)) == 2
    cut(path, share)
    with pytest.raises(UserError, match=r"images\.npy: cannot decode"):
        pannuke.find(tmp_path)


def test_pickled_tissue_types_are_not_loaded(tmp_path):
    (tmp_path / "fold1").mkdir()
    np.save(tmp_path / "fold1" / "images.npy", np.zeros((2, 256, 256, 3)))
    types = np.array(["Breast", "Skin"], dtype=object)
    np.save(tmp_path / "fold1" / "types.npy", types, allow_pickle=True)
    with pytest.raises(UserError, match=r"types\.npy: this is a pickled Python object"):
        pannuke.find(tmp_path)


# --- archives


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_unpack(tmp_path):
    unpack(zipped(tmp_path / "a.zip", {"x/y.txt": "y", "z.txt": "z"}), tmp_path / "out")
    assert (tmp_path / "out" / "x" / "y.txt").read_text() == "y"
    with pytest.raises(UserError, match="exists"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil"])
def test_entries_that_climb_out_are_refused(tmp_path, name):
    path = zipped(tmp_path / "a.zip", {"ok": "1", name: "2"})
    with pytest.raises(UserError, match=r"a\.zip: an archive that reaches out[\s\S]*evil"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_links_are_refused(tmp_path):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match=r"\(a link\)"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_zip_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr("coin_ray.data.fetch.MAX_RATIO", 100)
    path = zipped(tmp_path / "a.zip", {"zeros": bytes(1_000_000)})
    with pytest.raises(UserError, match=r"a\.zip: an archive of absurd size"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("share", SHARES)
def test_truncated_zip(tmp_path, share):
    noise = np.random.default_rng(0).bytes(2000)
    path = zipped(tmp_path / "a.zip", {"a": noise, "b": noise})
    cut(path, share)
    with pytest.raises(UserError, match=r"a\.zip: cannot decode"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_zip_with_a_corrupt_entry_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).bytes(2000)
    path = zipped(tmp_path / "a.zip", {"a": noise, "b": noise})
    content = bytearray(path.read_bytes())
    content[3000] ^= 255  # in the second entry
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip: cannot decode"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


# --- a bad sample among good ones


@pytest.mark.parametrize("kind", ["coin", "tif", "folder", "overlay", "geojson", "coco"])
def test_nothing_is_converted_if_one_file_is_broken(tmp_path, kind):
    rng = np.random.default_rng(0)
    for name in "abc":
        for folder, array in (("image", rng.integers(0, 256, (9, 9, 3))), ("mask", np.eye(9) * 7)):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(array.astype(np.uint8))
            picture.save(tmp_path / "in" / folder / f"{name}.png")
    samples = find_samples(tmp_path / "in", mpp=0.25)
    convert(samples, kind, tmp_path / "good")
    assert any((tmp_path / "good").rglob("*.*"))
    cut(tmp_path / "in" / "mask" / "c.png", 0.5)
    with pytest.raises(UserError, match=r"mask/c\.png: cannot decode"):
        convert(samples, kind, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good", "in"]


CLAIMS = {
    "60,000 samples": ({"SamplesPerPixel": 60_000}, "60,000"),
    "10^7 px on a side": ({"ImageLength": 10**7, "ImageWidth": 10**7}, "10000000 x 10000000"),
    "both": ({"ImageLength": 60_000, "SamplesPerPixel": 60_000}, "60,000"),
    "no pixel": ({"ImageLength": 0}, "0 x 64"),
}


@pytest.mark.parametrize("kind", list(CLAIMS))
@pytest.mark.parametrize("read", [read_raster, raster_shape])
def test_a_tif_of_absurd_dimensions(tmp_path, kind, read):
    tags, found = CLAIMS[kind]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for name, value in tags.items():
            tif.pages[0].tags[name].overwrite(value)
    with pytest.raises(UserError, match="absurd dimensions") as caught:
        read(path)
    assert found in caught.value.found and caught.value.where == str(path) and caught.value.do


@pytest.mark.parametrize("side", [13_000, 10**7])
@pytest.mark.parametrize("read", [read_raster, raster_shape])
def test_a_png_of_absurd_dimensions(tmp_path, side, read):
    path = tmp_path / "a.png"
    Image.new("RGB", (1, 1)).save(path)
    raw = bytearray(path.read_bytes())
    raw[16:24] = struct.pack(">II", side, side)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    path.write_bytes(raw)
    with pytest.raises(UserError, match="absurd dimensions"):
        read(path)
