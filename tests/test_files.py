"""Files that are written whole."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from coin_ray import files


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="disk"), files.whole(path) as part:
        part.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    path, errors = tmp_path / "overlay.png", []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                files.write_bytes(path, bytes([number]) * 10_000)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    content = path.read_bytes()
    assert content == content[:1] * 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_whatever_the_locale_is(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "µm\r\n")
    assert (tmp_path / "a").read_bytes() == b"\xc2\xb5m\r\n"


def test_a_scratch_name_keeps_the_suffix_and_fits_beside_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".tif")
    assert files.scratch(path).suffix == ".tif"
    files.write_bytes(path, b"x")
