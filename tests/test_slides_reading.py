"""Slides in the formats that scanners and other programs write."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from coin_ray.data.resolution import file_mpp
from coin_ray.errors import UserError
from coin_ray.slides.dicom import wsidicom_slide
from coin_ray.slides.reading import Slide, open_slide
from tests.slide_files import (
    Image8,
    halved,
    tissue,
    write_dicom,
    write_ome_tiff,
    write_pyramid,
    write_svs,
)

IMAGE = tissue(700, 900)


def check(slide: Slide, image: Image8, *, off: float = 0.0, levels: int = 3) -> None:
    """Regions of every level are the picture's own, up to a mean difference of ``off``."""
    assert slide.shapes[0] == image.shape[:2]
    assert len(slide.shapes) == levels
    assert slide.mpp == pytest.approx(0.25)
    for level in range(levels):
        height, width = slide.shapes[level]
        whole = slide.region(level, 0, 0, height, width)
        assert whole.dtype == np.uint8
        assert np.abs(whole.astype(int) - image).mean() <= off
        y, x = height // 3 + 1, width // 3 + 2
        part = slide.region(level, y, x, height - y, width - x)
        np.testing.assert_array_equal(part, whole[y:, x:])
        image = halved(image)


def test_an_ome_tiff_with_levels_below_its_page(tmp_path: Path) -> None:
    write_ome_tiff(tmp_path / "a.ome.tif", IMAGE)
    check(open_slide(tmp_path / "a.ome.tif"), IMAGE)


@pytest.mark.parametrize("suffix", ["tif", "btf"])
def test_a_pyramid_of_pages(tmp_path: Path, suffix: str) -> None:
    write_pyramid(tmp_path / f"a.{suffix}", IMAGE)
    check(open_slide(tmp_path / f"a.{suffix}"), IMAGE)


def test_a_slide_of_a_scanner(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="openslide is not installed")
    write_svs(tmp_path / "a.svs", IMAGE)
    slide = open_slide(tmp_path / "a.svs")
    assert slide.kind == "aperio"
    check(slide, IMAGE, off=6.0, levels=2)
    (tmp_path / "a.svs").rename(tmp_path / "a.tif")  # by its content, whatever its name
    assert open_slide(tmp_path / "a.tif").kind == "aperio"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_of_the_reference_writer(tmp_path: Path, version: str) -> None:
    writer = pytest.importorskip("ome_zarr.writer", reason="ome-zarr is not installed")
    import zarr
    from ome_zarr.format import FormatV04, FormatV05

    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    first = np.moveaxis(IMAGE, -1, 0)
    pyramid = [first, np.moveaxis(halved(IMAGE), -1, 0)]
    scales = [[{"type": "scale", "scale": [1, 0.25 * f, 0.25 * f]}] for f in (1, 2)]
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": n, "type": "space", "unit": "micrometer"} for n in "yx"
    ]
    writer.write_multiscale(
        pyramid,
        root,
        fmt=FormatV04() if version == "0.4" else FormatV05(),
        axes=axes,
        coordinate_transformations=scales,
    )
    check(open_slide(tmp_path / "a.zarr"), IMAGE, levels=2)


def test_a_dicom_slide_by_both_readers(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    pytest.importorskip("openslide", reason="openslide is not installed")
    write_dicom(tmp_path / "level.dcm", IMAGE)
    for path in (tmp_path, tmp_path / "level.dcm"):
        slide = open_slide(path)
        assert slide.kind == "dicom"
        check(slide, IMAGE, off=2.0, levels=1)
    wsidicom = pytest.importorskip("wsidicom", reason="wsidicom is not installed")
    other = wsidicom_slide(tmp_path / "level.dcm", wsidicom.WsiDicom.open(tmp_path))
    check(other, IMAGE, off=2.0, levels=1)


def test_the_level_that_matches_the_model(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", IMAGE, mpp=0.125)
    slide = open_slide(tmp_path / "a.tif")
    assert slide.matching_level() == 1
    assert slide.matching_level(0.5) == 2
    assert slide.downsample(2) == 4
    with pytest.warns(UserWarning, match="replaces"):
        assert open_slide(tmp_path / "a.tif", mpp=0.5).matching_level() == 0


def test_a_tile_is_a_slide_of_one_level(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="taken as 0.25"):
        slide = open_slide(tmp_path / "a.png")
    check(slide, IMAGE, levels=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_slide(tmp_path / "a.png", mpp=0.5).mpp == 0.5


@pytest.mark.parametrize("mpp", [None, 88.0])
def test_a_slide_needs_a_plausible_resolution(tmp_path: Path, mpp: float | None) -> None:
    write_ome_tiff(tmp_path / "a.ome.tif", IMAGE, mpp=mpp)
    found = "none of square pixels" if mpp is None else f"{mpp:g} um/px"
    with pytest.raises(UserError, match=rf"plausible resolution[\s\S]*{found}[\s\S]*--mpp"):
        open_slide(tmp_path / "a.ome.tif")
    assert open_slide(tmp_path / "a.ome.tif", mpp=0.25).mpp == 0.25
    with pytest.raises(UserError, match="impossible"):
        open_slide(tmp_path / "a.ome.tif", mpp=90.0)


def test_what_the_user_says_wins_and_is_told(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", IMAGE)
    with pytest.warns(UserWarning, match=r"--mpp 0.5 replaces the 0.25"):
        assert open_slide(tmp_path / "a.tif", mpp=0.5).mpp == 0.5


def test_what_is_no_slide(tmp_path: Path) -> None:
    import tifffile

    with pytest.raises(UserError, match="no such file"):
        open_slide(tmp_path / "none.svs")
    (tmp_path / "a.svs").write_bytes(b"nothing" * 100)
    with pytest.raises(UserError, match=r"a\.svs"):
        open_slide(tmp_path / "a.svs")
    (tmp_path / "cut.svs").write_bytes(b"II*\0garbage" * 100)  # as a scanner writes it, cut short
    with pytest.raises(UserError, match=r"cannot decode|openslide is not installed"):
        open_slide(tmp_path / "cut.svs")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no slide"):
        open_slide(tmp_path / "folder")
    tifffile.imwrite(tmp_path / "grey.tif", IMAGE[..., 0], tile=(256, 256))
    with pytest.raises(UserError, match="not an RGB slide"):
        open_slide(tmp_path / "grey.tif")


def test_a_tiff_is_read_as_it_says(tmp_path: Path) -> None:
    import tifffile

    path, tiled = tmp_path / "a.tif", {"tile": (256, 256), "compression": "zlib"}
    alpha = np.full((*IMAGE.shape[:2], 1), 255, dtype=np.uint8)
    alpha[:50] = 0  # outside of what was scanned, and black
    picture = np.concatenate([np.where(alpha > 0, IMAGE, np.uint8(0)), alpha], axis=2)
    tifffile.imwrite(path, picture, photometric="rgb", extrasamples=["unassalpha"], **tiled)
    seen = open_slide(path, mpp=0.25).region(0, 0, 0, 100, 300)
    assert (seen[:50] == 255).all()
    np.testing.assert_array_equal(seen[50:], IMAGE[50:100, :300])
    tifffile.imwrite(path, IMAGE, photometric="ycbcr", **tiled)
    with pytest.raises(UserError, match="not an RGB slide"):
        open_slide(path, mpp=0.25)
    tifffile.imwrite(path, np.stack([IMAGE, IMAGE]), photometric="rgb", **tiled)
    with pytest.raises(UserError, match="a stack of pictures"):
        open_slide(path, mpp=0.25)
    size = 'PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="500" '
    text = f'<?xml version="1.0"?><OME><Image><Pixels {size}PhysicalSizeYUnit="nm"/></Image></OME>'
    tifffile.imwrite(path, IMAGE, photometric="rgb", description=text, metadata=None, **tiled)
    assert file_mpp(path) == 0.5


def test_a_damaged_piece_stops_its_own_region_alone(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "a.tif"
    write_pyramid(path, IMAGE, levels=1)
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + 200] = b"\xff" * 200
    path.write_bytes(content)
    slide = open_slide(path)
    with pytest.raises(UserError):
        slide.region(0, 0, 0, 100, 100)
    np.testing.assert_array_equal(slide.region(0, 256, 0, 100, 600), IMAGE[256:356, :600])
    small = slide.thumbnail(450)
    assert (small[:80, :80] == 128).all()
    assert np.abs(small[200:].astype(int) - halved(IMAGE)[200:]).max() <= 1


def test_a_thumbnail_is_the_mean_of_what_it_shows(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", IMAGE, levels=1)
    slide = open_slide(tmp_path / "a.tif")
    small = slide.thumbnail(450)
    assert small.shape == (350, 450, 3)
    assert np.abs(small.astype(int) - halved(IMAGE)).max() <= 1
