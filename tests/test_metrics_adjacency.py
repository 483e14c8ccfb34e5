"""The split into adjacent and lone cells on drawn cases."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, label

from coin_ray.data.folder import find_samples
from coin_ray.metrics.adjacency import neighbours, split_metrics
from coin_ray.metrics.aji import components
from coin_ray.metrics.evaluate import evaluate
from coin_ray.metrics.settings import Evaluate
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stages import STAGES
from tests.computing import compute
from tests.test_metrics_properties import discs, edited


def cells(*columns, width=3, size=40):
    """Squares of ``width`` px in one row, at the given columns."""
    out = np.zeros((9, size), dtype=np.int32)
    for i, x in enumerate(columns):
        out[3 : 3 + width, x : x + width] = i + 1
    return out


@pytest.mark.parametrize(("gap", "smallest"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_radius_that_joins_two_cells(gap, smallest):
    # dilated by r, two cells touch from a gap of 2 r px on
    label_map = cells(5, 8 + gap, 30)
    for radius in range(4):
        assert list(neighbours(label_map, radius=radius)) == [radius >= smallest] * 2 + [0]


def test_touching_by_a_corner_is_adjacent():
    label_map = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 0]], dtype=np.int32)
    assert list(neighbours(label_map, radius=0)) == [1, 1]


def test_a_cell_in_two_pieces_is_one_cell():
    label_map = np.array([[1, 0, 0, 1, 0, 0, 2]], dtype=np.int32)
    assert not neighbours(label_map, radius=0).any()


def test_empty():
    empty = np.zeros((3, 3), dtype=np.int32)
    assert neighbours(empty, radius=1).shape == (0,)
    assert math.isnan(split_metrics(empty, empty, radius=1)["adj_aji"])


def test_parts_by_hand():
    true = cells(5, 8, 30)  # two adjacent, one lone, 9 px each
    predicted = cells(5, 8, 31)  # the pair exact, the lone one shifted: 6 of 12 px
    v = split_metrics(true, predicted, radius=1)
    assert v["n_adjacent"] == 2
    assert (v["adj_aji"], v["adj_iou"], v["adj_fn"], v["adj_fp"]) == (1, 1, 0, 0)
    assert v["nonadj_aji"] == v["nonadj_iou"] == pytest.approx(6 / 12)
    assert v["nonadj_fn"] == v["nonadj_fp"] == pytest.approx(3 / 12)


def test_merged_pair_leaves_the_lone_cell_alone():
    true = cells(5, 8, 30)
    predicted = np.where((true == 1) | (true == 2), 1, np.where(true == 3, 2, 0))
    v = split_metrics(true, predicted, radius=1)
    assert v["adj_aji"] == pytest.approx((9 + 9) / (18 + 18))
    assert v["nonadj_aji"] == 1


def test_prediction_on_nothing_counts_in_both_parts():
    true = cells(5, 8, 30)
    predicted = true.copy()
    predicted[0, 20:23] = 4
    v = split_metrics(true, predicted, radius=1)
    assert v["adj_aji"] == pytest.approx(18 / 21)
    assert v["nonadj_aji"] == pytest.approx(9 / 12)


def test_pixels_on_the_other_part_are_ignored():
    # the lone cell's prediction reaches over to cell 2 by 2 px; it belongs to the lone cell
    true = cells(5, 8, 20, size=30)
    predicted = np.where(true == 3, 3, 0)
    predicted[4, 9:20] = 3
    v = split_metrics(true, predicted, radius=1)
    assert v["nonadj_aji"] == pytest.approx(9 / (9 + 9))  # columns 11..19 only
    assert v["adj_aji"] == 0
    assert v["adj_fp"] == 0


def test_a_part_without_truth_is_skipped():
    v = split_metrics(cells(5, 30), cells(5, 30), radius=1)
    assert math.isnan(v["adj_aji"])
    assert v["nonadj_aji"] == 1


def measured(config: Cell, true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    found = compute("evaluate", config, {"labels": predicted, "truth": true})
    return dict(zip(found.info["names"], found.arrays["values"], strict=True))


def test_the_radius_is_a_setting_and_both_evaluators_always_report():
    true, predicted = cells(5, 10, 30), cells(5, 10, 30)  # a gap of 2 px
    for radius, adjacent in ((0, 0), (1, 2), (2, 2), (11, 3)):
        config = Cell.model_validate({"evaluate": {"adjacency_radius": radius}})
        values = measured(config, true, predicted)
        assert values["n_adjacent"] == adjacent
        assert values["aji"] == values["official_aji"] == 1
    without = measured(
        Cell.model_validate({"evaluate": {"adjacency_radius": None}}), true, predicted
    )
    assert set(values) - set(without) == {
        "n_adjacent", "adj_aji", "adj_iou", "adj_fn", "adj_fp",
        "nonadj_aji", "nonadj_iou", "nonadj_fn", "nonadj_fp",
    }  # fmt: skip


def test_with_two_neighbours_a_cell_at_the_end_of_a_row_is_in_neither_part():
    true = cells(5, 8, 11, 30)  # three in a row: ends with one neighbour, the middle with two
    assert list(neighbours(true, radius=1)) == [1, 2, 1, 0]
    predicted = np.where((true == 1) | (true == 4), true, 0)  # an end and the lone one
    v = split_metrics(true, predicted, radius=1, least=2)
    assert (v["n_adjacent"], v["n_one_neighbour"]) == (1, 2)
    assert (v["adj_aji"], v["adj_fn"]) == (0, 1)  # the end's prediction belongs to no part
    assert v["nonadj_aji"] == 1
    one = split_metrics(true, predicted, radius=1)
    assert one["n_adjacent"] == 3
    assert "n_one_neighbour" not in one
    assert one["adj_aji"] == pytest.approx(1 / 3)


def test_iou_over_both_classes_of_a_part():
    true, predicted = cells(5, 8, 30), cells(5, 8, 31)  # 9 x 40 px, 27 of them nuclei
    v = split_metrics(true, predicted, radius=1, miou=True)
    assert v["adj_miou"] == 1
    outside = (360 - 18 - 12) / (360 - 18 - 6)  # without the pair's 18 px
    assert v["nonadj_miou"] == pytest.approx((6 / 12 + outside) / 2)
    assert "adj_miou" not in split_metrics(true, predicted, radius=1)


def test_the_number_of_neighbours_is_a_setting_that_leaves_older_keys_as_they_were():
    true = cells(5, 8, 11, 30)
    two = Cell.model_validate({"evaluate": {"adjacency_neighbours": 2}})
    assert measured(two, true, true)["n_adjacent"] == 1
    assert measured(Cell(), true, true)["n_adjacent"] == 3
    identity = STAGES["evaluate"].identity
    assert identity(SimpleNamespace(config=Cell()), None) == {"adjacency_radius": 1}
    assert identity(SimpleNamespace(config=two), None)["adjacency_neighbours"] == 2


def test_shares_of_neighbours_on_real_tiles(real_tiles):
    """What the issue measured: 11 % with two or more, 30 % with one."""
    found = [
        neighbours(sample.load_label_map(), radius=1)
        for sample in find_samples(real_tiles / "coin_layout" / "MoNuSeg" / "test")
    ]
    counts = np.concatenate(found)
    assert (counts >= 2).mean() == pytest.approx(0.11, abs=0.005)
    assert (counts == 1).mean() == pytest.approx(0.30, abs=0.005)


def in_a_component_of_several(true, radius):
    """The rule of before: components of the dilated foreground, a cell in pieces joins them."""
    square = np.ones((3, 3), dtype=bool)
    foreground = binary_dilation(true > 0, square, iterations=radius) if radius else true > 0
    parts, m = label(foreground, structure=square)
    n, inside = int(true.max()), true > 0
    group = components(true[inside] - 1, parts[inside] - 1, n, m)
    return np.bincount(group[:n])[group[:n]] >= 2


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), radius=st.integers(0, 3))
def test_parts_of_random_maps(seed, radius):
    """Each cell is in one part; a perfect prediction is perfect in both; with one part empty the
    other is the whole."""
    rng = np.random.default_rng(seed)
    true = discs(rng, int(rng.integers(1, 9)))
    predicted = edited(rng, true)
    adjacent = neighbours(true, radius=radius) > 0
    near = neighbours(true, radius=radius + 1)
    assert (near >= neighbours(true, radius=radius)).all()  # a wider reach never separates
    assert (adjacent == in_a_component_of_several(true, radius)).all()
    perfect = split_metrics(true, true, radius=radius)
    for name, members in (("adj", adjacent), ("nonadj", ~adjacent)):
        for metric in ("aji", "iou"):
            value = perfect[f"{name}_{metric}"]
            assert value == 1 if members.any() else math.isnan(value)
    if adjacent.all() or not adjacent.any():
        name = "adj" if adjacent.all() else "nonadj"
        whole = evaluate(true, predicted, Evaluate(), official=False)
        part = split_metrics(true, predicted, radius=radius)
        for metric in ("aji", "iou", "fn", "fp"):
            assert part[f"{name}_{metric}"] == pytest.approx(whole[metric])
