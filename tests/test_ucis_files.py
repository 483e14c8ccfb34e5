"""Coarse masks made elsewhere: found by the image's name, or a message that helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from coin_ray.errors import UserError
from coin_ray.ucis.mask_files import find_mask


def png(path: Path) -> Path:
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(path)
    return path


def test_masks_are_found_by_stem(tmp_path: Path) -> None:
    expected = png(tmp_path / "tile.v2-A1.PNG")
    png(tmp_path / "tile.v2.png")
    (tmp_path / "tile.v2-A1.txt").write_text("notes")
    assert find_mask(tmp_path, "tile.v2-A1") == expected
    assert find_mask(str(tmp_path), "tile.v2").name == "tile.v2.png"


def test_missing_folder_mask_and_two_candidates(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_mask(tmp_path / "nowhere", "a")
    png(tmp_path / "tile_01.png")
    with pytest.raises(UserError, match=r"tile_02[\s\S]*closest is tile_01"):
        find_mask(tmp_path, "tile_02")
    tifffile.imwrite(tmp_path / "tile_01.tif", np.eye(9, dtype=np.uint8))
    with pytest.raises(UserError, match=r"2 coarse masks[\s\S]*tile_01.png, tile_01.tif"):
        find_mask(tmp_path, "tile_01")
