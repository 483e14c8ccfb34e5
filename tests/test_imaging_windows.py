"""Windows: coverage, the counts of the paper's setting, tiny and oblong images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray.imaging.windows import grid, origins


def test_the_papers_setting_gives_81_and_36_windows() -> None:
    for side, zoom, expected in [(1000, 6, 81), (512, 6, 81), (174, 6, 81), (1000, 4, 36)]:
        window = side // zoom
        assert len(grid((side, side), window, int(window * 2 / 3))) == expected


def test_last_window_ends_on_the_border_and_none_follows_it() -> None:
    assert origins(10, 4, 3) == [0, 3, 6]  # 6 + 4 = 10 already
    assert origins(11, 4, 3) == [0, 3, 6, 7]
    assert origins(4, 4, 4) == [0]
    assert origins(3, 4, 2) == [0]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 200),
    window=st.integers(1, 80),
    share=st.floats(0.05, 1),
)
def test_every_pixel_is_covered(length: int, window: int, share: float) -> None:
    stride = max(1, int(window * share))
    starts = origins(length, window, stride)
    covered = np.zeros(length, dtype=int)
    for start in starts:
        assert start == 0 or start + window <= length
        covered[start : start + window] += 1
    assert covered.min() >= 1
    assert starts == sorted(set(starts))


def test_grid_is_in_raster_order_and_oblong() -> None:
    assert grid((5, 8), 4, 4) == [(0, 0), (0, 4), (1, 0), (1, 4)]


@pytest.mark.parametrize(("length", "window", "stride"), [(0, 4, 2), (9, 4, 5), (9, 4, 0)])
def test_windows_that_cannot_cover_are_refused(length: int, window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="no covering windows"):
        origins(length, window, stride)
