"""Pictures on a page: which ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from coin_ray.report.figures.gallery import gallery
from coin_ray.study.resolved import StudyCell
from tests.report_study import NUMBERS, finished


def by_image(cell: StudyCell, step: int, image: int) -> float:
    """Images from worst to best: 1, 3, 0, 2, 4; the second seed turns them round."""
    order = [0.3, 0.1, 0.4, 0.2, 0.5][image] + (cell.level == "3.0") / 10
    return order if cell.seed == 0 else 1 - order


def test_worst_median_and_best_image_of_the_baseline_beside_the_best_level(tmp_path: Path) -> None:
    results = finished(tmp_path, NUMBERS, value=by_image, images=5)
    photos = gallery(results)
    (table,) = results.tables
    best = table.best_level("aji", baseline=False)
    assert [photo.caption for photo in photos] == [
        f"tile_{image} (generated): 0.1 (seed 0), {best} (seed 0); the {word} image of 0.1"
        for image, word in ((1, "worst"), (0, "median"), (4, "best"))
    ]
    assert all(photo.jpeg.startswith(b"\xff\xd8") for photo in photos)


def test_first_images_where_nothing_is_measured_and_none_where_nothing_ran(tmp_path: Path) -> None:
    results = finished(tmp_path, NUMBERS, images=5)
    bare = replace(results, frame=results.frame.clear(), tables=[])
    names = [f"tile_{image} (generated): 0.1 (seed 0)" for image in range(3)]
    assert [photo.caption for photo in gallery(bare)] == names
    assert not gallery(replace(results, runs=tmp_path / "nowhere"))
    assert not gallery(replace(results, data={}))
