"""The tiles of a slide on Ray are those of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coin_ray.slides import run
from coin_ray.slides.method import Method
from coin_ray.slides.reading import open_slide
from tests.slide_files import tissue, write_pyramid
from tests.test_slides_tiles import CONFIG


@pytest.mark.ray
def test_tiles_on_ray_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coin_ray.cluster.session import session
    from coin_ray.cluster.slides import run_on_ray

    monkeypatch.setattr(run, "SIDE", 192)
    monkeypatch.setattr(run, "SAMPLE", 128)
    image = np.full((500, 900, 3), 243, dtype=np.uint8)
    image[:200, :330] = tissue(200, 330)
    path = tmp_path / "slide.tif"
    write_pyramid(path, image, levels=1)
    slide = open_slide(path)
    here = run.prepare(slide, Method(CONFIG), tmp_path / "here")
    there = run.prepare(slide, Method(CONFIG), tmp_path / "there")
    expected = list(run.run_here(here, slide))
    first = run.do_tile(there, slide, there.tiles[0])  # of an earlier call
    with session(cpus=2):
        done = list(run_on_ray(there, slide))
    assert done == expected
    assert done[0] == first
    assert sum(one.nuclei for one in done) > 20
    for one, other in zip(run.parts(here), run.parts(there), strict=True):
        assert one.corner_yx == other.corner_yx
        np.testing.assert_array_equal(one.label_map, other.label_map)
        for name, values in one.table.items():
            np.testing.assert_allclose(values, other.table[name], rtol=1e-6)
