"""A slide in tiles is the slide: whatever the size of the tiles, the same nuclei, each once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from coin_ray.confidence import small, small_model
from coin_ray.labels import LabelMap, count, relabel
from coin_ray.pipeline.settings import Cell
from coin_ray.slides import nuclei, tiles
from coin_ray.slides.method import Method, calibrated, segment, separates
from coin_ray.slides.nuclei import Nuclei, measure
from coin_ray.slides.tissue import tissue_mask
from tests.slide_files import Image8, tissue

MINI = yaml.safe_load((Path(__file__).parents[1] / "search_spaces/mini.yaml").read_text())
CONFIG = Cell.model_validate(MINI["baseline"])
IMAGE = tissue(520, 1150)
METHOD = calibrated(Method(CONFIG), IMAGE, 1.0)


def found_in(tile: tiles.Tile, image: Image8) -> Nuclei:
    y0, x0, y1, x1 = tile.seen
    assert METHOD is not None
    part = image[y0:y1, x0:x1]
    label_map, score = segment(part, METHOD, 1.0)
    kept, keep = tiles.owned(tile, label_map)
    return measure(part, kept, (y0, x0), score[keep])


def painted(found: list[Nuclei], shape: tuple[int, int]) -> LabelMap:
    out, last = np.zeros(shape, dtype=np.int32), 0
    for part in found:
        (y, x), (h, w) = part.corner_yx, part.label_map.shape
        at = out[y : y + h, x : x + w]
        assert not (at[part.label_map > 0] > 0).any()
        at[part.label_map > 0] = (part.label_map + last)[part.label_map > 0]
        last += len(part)
    return out


def same_share(one: LabelMap, other: LabelMap) -> float:
    """Share of the instances that are in both maps, pixel by pixel."""
    pairs, pixels = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1, return_counts=True)
    first, second = np.bincount(one.ravel()), np.bincount(other.ravel())
    (a, b) = pairs
    equal = (a > 0) & (b > 0) & (first[a] == pixels) & (second[b] == pixels)
    return float(equal.sum() / max(count(one), count(other)))


def test_the_grid_is_the_one_of_the_segmenter() -> None:
    assert (tiles.GRID, tiles.WINDOW) == (small.STRIDE, small_model.WINDOW)


def test_cores_cover_the_slide_once_and_halos_are_within() -> None:
    for shape in ((5000, 3000), (4 * 1920, 2368), (2400, 9000)):
        seen: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        for tile in tiles.plan_tiles(shape):
            y0, x0, y1, x1 = tile.core
            seen[y0:y1, x0:x1] += 1
            assert tile.seen[0] % tiles.GRID == tile.seen[1] % tiles.GRID == 0
            assert 0 <= tile.seen[0] <= y0 < y1 <= tile.seen[2] <= shape[0]
            assert 0 <= tile.seen[1] <= x0 < x1 <= tile.seen[3] <= shape[1]
        assert (seen == 1).all()
    assert len(tiles.plan_tiles((2368, 2000))) == 1


def test_tiles_give_the_nuclei_of_the_whole() -> None:
    shape = IMAGE.shape[:2]
    whole = found_in(tiles.Tile((0, 0, *shape), (0, 0, *shape)), IMAGE)
    expected = painted([whole], shape)
    assert count(expected) > 200
    plan = tiles.plan_tiles(shape, 384)
    assert len(plan) == 6
    found = list(tiles.merged(found_in(tile, IMAGE) for tile in plan))
    got = painted(found, shape)
    assert abs(count(got) - count(expected)) <= 1
    # float sums of another batch may move a pixel of a mask
    assert same_share(got, expected) > 0.985
    scores = np.concatenate([part.table["score"] for part in found])
    assert scores.mean() == pytest.approx(float(whole.table["score"].mean()), abs=1e-3)


def test_a_single_tile_is_measured_as_in_a_study() -> None:
    from coin_ray.imaging.instances import split_instances
    from coin_ray.ucis.stain import stain_mask

    image = tissue(300, 300, seed=8)
    config = CONFIG.model_copy(
        update={"infer": CONFIG.infer.model_copy(update={"redraw_min_iou": 0.0})}
    )
    found, score = segment(image, Method(config), 1.0)
    assert count(found) == len(score) > 10
    assert ((score >= 0) & (score <= 1)).all()
    coarse = split_instances(stain_mask(image, CONFIG.ucis), CONFIG.instances)
    assert (score > 0.5).mean() > 0.8
    assert abs(count(found) - count(coarse)) <= 0.1 * count(coarse)


def test_tiles_that_differ_make_one_nucleus_of_a_seam() -> None:
    def drawn(y: int, x: int, h: int, w: int) -> Nuclei:
        label_map = np.ones((h, w), dtype=np.int32)
        table = {name: np.ones(1) for name in nuclei.COLUMNS}
        return Nuclei((y, x), label_map, table | {"area": np.array([h * w])})

    first, again, touching = drawn(10, 10, 20, 20), drawn(12, 11, 20, 20), drawn(10, 26, 20, 20)
    out = list(tiles.merged([first, again, touching]))
    assert [len(part) for part in out] == [1, 0, 1]
    assert out[2].table["area"].tolist() == [20 * 16]
    assert out[2].table["x"].tolist() == [30 + 7.5]
    painted(out, (60, 60))


def test_background_is_skipped_and_pale_tissue_is_not() -> None:
    slide = np.full((400, 600, 3), 242, dtype=np.uint8)
    slide[100:200, 100:200] = (238, 205, 222)  # pale eosin
    mask = tissue_mask(slide)
    assert mask[100:200, 100:200].all()
    assert mask.mean() < 0.1
    assert not tissue_mask(np.full((50, 50, 3), 243, dtype=np.uint8)).any()
    assert tissue_mask(IMAGE).mean() > 0.9
    plan = tiles.plan_tiles((40_000, 60_000))
    chosen = tiles.on_tissue(plan, mask, (40_000, 60_000))
    assert len(chosen) < 0.15 * len(plan)
    inside = [t for t in plan if 10_000 < t.core[0] < 18_000 and 10_000 < t.core[1] < 18_000]
    assert set(inside) <= set(chosen)


def test_other_stains_are_noticed() -> None:
    assert separates(IMAGE)
    assert not separates(np.full((100, 100, 3), 243, dtype=np.uint8))
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    assert not separates(grey)
    assert not separates(np.ascontiguousarray(IMAGE[..., [0, 2, 1]] // 2))
    assert calibrated(Method(CONFIG), np.full((300, 300, 3), 243, dtype=np.uint8), 1.0) is None


def test_a_file_of_a_tile_is_whole_or_made_again(tmp_path: Path) -> None:
    label_map = np.zeros((60, 60), dtype=np.int32)
    label_map[10:20, 10:30] = 1
    label_map[40:50, 5:15] = 2
    part = measure(IMAGE[:60, :60], relabel(label_map), (100, 200), np.array([0.5, 0.7]))
    assert part.corner_yx == (110, 205)
    assert part.table["y"].tolist() == [114.5, 144.5]
    assert part.table["area"].tolist() == [200, 100]
    path = tmp_path / "0_0.npz"
    nuclei.save(path, part)
    again = nuclei.load(path)
    assert again is not None
    np.testing.assert_array_equal(again.label_map, part.label_map)
    assert again.corner_yx == part.corner_yx
    for name in nuclei.COLUMNS:
        np.testing.assert_array_equal(again.table[name], part.table[name])
    content = path.read_bytes()
    middle = len(content) // 3
    for damaged in (content[:200], b"", content[:middle] + b"\0" * 40 + content[middle + 40 :]):
        path.write_bytes(damaged)
        assert nuclei.load(path) is None
    assert nuclei.load(tmp_path / "none.npz") is None
