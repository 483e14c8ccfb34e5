"""Overlays on a page: which ones, and that they are cut out of the sheets where they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coin_ray.report.document.gallery import gallery
from coin_ray.report.panels import GAP, middles, write_panels
from coin_ray.study.resolved import StudyCell
from tests.report_study import NUMBERS, finished


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize(("height", "width", "zoom"), [(40, 50, 4), (500, 450, 1)])
def test_middles_of_a_sheet_are_the_middles_of_its_panels(
    accepted: bool, height: int, width: int, zoom: int, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    empty = np.zeros((height, width), np.int32)
    write_panels(
        tmp_path / "sheet.png",
        image,
        coarse=empty,
        accepted=empty if accepted else None,
        final=empty,
        truth=None,
    )
    side, panels = 30, 4 if accepted else 3
    row = np.asarray(middles(Image.open(tmp_path / "sheet.png").convert("RGB"), panels, side))
    assert row.shape == (side, panels * (side + GAP) - GAP, 3)
    image = image.repeat(zoom, 0).repeat(zoom, 1)  # so that titles find room
    y, x = ((n * zoom - side) // 2 for n in (height, width))
    for panel in range(panels):  # nothing is outlined: every panel is the image
        start = panel * (side + GAP)
        np.testing.assert_array_equal(
            row[:, start : start + side], image[y : y + side, x : x + side]
        )


def test_small_images_stay_whole(tmp_path: Path) -> None:
    empty = np.zeros((20, 24), np.int32)
    image = np.full((20, 24, 3), 9, np.uint8)
    write_panels(tmp_path / "s.png", image, coarse=empty, accepted=empty, final=empty, truth=None)
    assert middles(Image.open(tmp_path / "s.png"), 4, 256).size == (4 * (192 + GAP) - GAP, 160)


def by_image(cell: StudyCell, step: int, image: int) -> float:
    """Images from worst to best: 1, 3, 0, 2, 4; the second seed turns them round."""
    order = [0.3, 0.1, 0.4, 0.2, 0.5][image]
    return order if cell.seed == 0 else 1 - order


def test_worst_median_and_best_image_of_the_baseline_beside_the_best_level(tmp_path: Path) -> None:
    results = finished(tmp_path, NUMBERS, value=by_image, images=5)
    photos = gallery(results.study, results.frame, results.runs, "3.0")
    assert [photo.caption for photo in photos] == [
        f"tile_{image} (generated): {level}, seed 0, AJI {value}; the {word} image of 0.1"
        for image, value, word in (
            *((1, "0.100", "worst"), (0, "0.300", "median"), (4, "0.500", "best")),
        )
        for level in ("0.1", "3.0")
    ]  # fmt: skip
    assert all(photo.jpeg.startswith(b"\xff\xd8") for photo in photos)


def test_first_images_where_nothing_is_measured_and_none_where_nothing_ran(tmp_path: Path) -> None:
    results = finished(tmp_path, NUMBERS, images=5)
    photos = gallery(results.study, results.frame.clear(), results.runs, None)
    names = [f"tile_{image} (generated): 0.1, seed 0" for image in range(3)]
    assert [photo.caption for photo in photos] == names
    assert not gallery(results.study, results.frame.clear(), tmp_path / "nowhere", None)
