"""Masks from files: the formats that exist, and one clear message for each mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from coin_ray.data.label_files import read_foreground
from coin_ray.errors import UserError

TRUTH = np.zeros((12, 17), dtype=bool)
TRUTH[2:6, 3:9] = True
TRUTH[8:11, 10:16] = True
IDS = np.where(TRUTH, 256, 0)  # an id whose low byte is 0
IDS[8:11] *= 2


def png(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def coded(ids: np.ndarray) -> np.ndarray:
    """COIN's colour code, id = 256 * B + G in RGB order."""
    return np.stack([np.zeros_like(ids), ids % 256, ids // 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "values",
    [
        TRUTH.astype(np.uint8),
        TRUTH.astype(np.uint8) * 255,
        TRUTH,
        IDS.astype(np.uint16),
        coded(IDS),
        np.dstack([coded(IDS), np.full(IDS.shape, 255, np.uint8)]),
        np.dstack([TRUTH.astype(np.uint8), np.full(IDS.shape, 255, np.uint8)]),
    ],
    ids=["0-1", "0-255", "one-bit", "uint16", "coin-code", "coin-code-alpha", "grey-alpha"],
)
def test_png_masks(tmp_path: Path, values: np.ndarray) -> None:
    found = read_foreground(png(tmp_path / "a.png", values), TRUTH.shape)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, TRUTH)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.float32])
@pytest.mark.parametrize("axes", ["plain", "one-channel-first", "one-channel-last"])
def test_tif_masks(tmp_path: Path, dtype: type, axes: str) -> None:
    ids = np.where(TRUTH, 200, 0).astype(dtype)
    ids = {"plain": ids, "one-channel-first": ids[None], "one-channel-last": ids[..., None]}[axes]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, ids, compression="zlib")
    np.testing.assert_array_equal(read_foreground(path, TRUTH.shape), TRUTH)


def test_colour_coded_tif(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", coded(IDS), photometric="rgb")
    np.testing.assert_array_equal(read_foreground(tmp_path / "a.tif", TRUTH.shape), TRUTH)


def test_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", TRUTH.astype(np.uint8))
    with pytest.raises(UserError, match=r"a\.png[\s\S]*17 x 12[\s\S]*12 x 17"):
        read_foreground(path, (17, 12))


def test_probabilities_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.linspace(0, 1, TRUTH.size).reshape(TRUTH.shape).astype(np.float32))
    with pytest.raises(UserError, match="threshold"):
        read_foreground(path, TRUTH.shape)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("png"):
        rng = np.random.default_rng(0)
        png(path, rng.integers(0, 255, TRUTH.shape, dtype=np.uint8))
    else:
        tifffile.imwrite(path, TRUTH.astype(np.uint8))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=rf"{name}[\s\S]*cannot decode"):
        read_foreground(path, TRUTH.shape)
