"""A slide of 20,000 x 20,000 px takes no more memory than it may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slide_files import tissue, write_large

SIDE = 20_000
MOST_KB = 3_000_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_large_slide_in_three_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    write_large(path, SIDE, [(512, 1024), (18_432, 18_432)], tissue(1024, 1024))
    asked = ["segment", str(path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    child = subprocess.Popen(
        [sys.executable, "-m", "coin_ray.cli", *asked], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, said
    assert usage.ru_maxrss <= MOST_KB, said
    import pandas
    import tifffile

    table = pandas.read_parquet(tmp_path / "out" / "large.parquet")
    assert len(table) > 1000
    inside = ((table.y_px < 2000) & (table.x_px < 2500)) | (table[["y_px", "x_px"]] > 18_000).all(1)
    assert inside.all()
    with tifffile.TiffFile(tmp_path / "out" / "large.labels.ome.tif") as tif:
        assert tif.pages[0].shape == (SIDE, SIDE)
    print(f"{usage.ru_maxrss / 1e6:.2f} GB, {len(table):,} nuclei\n{said}")
