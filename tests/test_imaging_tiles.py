"""Squares with a halo: every pixel once, and around each what was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from coin_ray.imaging.tiles import squares


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 130), (10, 200)])
@pytest.mark.parametrize(("side", "halo"), [(64, 0), (64, 20), (30, 100)])
def test_squares_cover_the_image_once_and_see_their_halo(
    shape: tuple[int, int], side: int, halo: int
) -> None:
    image = np.arange(shape[0] * shape[1]).reshape(shape)
    covered = np.zeros(shape, dtype=int)
    for seen, core, within in squares(shape, side, halo):
        covered[core] += 1
        np.testing.assert_array_equal(image[seen][within], image[core])
        for axis, length in enumerate(shape):
            assert seen[axis].start == max(0, core[axis].start - halo)
            assert seen[axis].stop == min(length, core[axis].stop + halo)
            assert core[axis].stop - core[axis].start <= side
    assert (covered == 1).all()
