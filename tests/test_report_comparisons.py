"""Tables against the baseline, across data sets and by factor, from tidy values made by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from coin_ray.data.dataset import DataSpec
from coin_ray.pipeline.settings import Cell
from coin_ray.report.values.across_data import AGGREGATE_SCHEMA, aggregate
from coin_ray.report.values.comparisons import SCHEMA, comparisons
from coin_ray.report.values.ends import ends, performance_profile
from coin_ray.report.values.factor_effects import EFFECTS_SCHEMA, factor_effects
from coin_ray.report.values.tidy import tidy
from coin_ray.statistics.paired import compare, holm, sign_flip
from coin_ray.study.metrics import METRICS, mode
from coin_ray.study.resolved import Analysis, ResolvedStudy, StudyCell

NAN = float("nan")
ONE_ROUND = Cell.model_validate({"rounds": {"count": 1}})
Labels = Mapping[str, Mapping[str, str]]


def study(
    labels: Labels,
    data: Sequence[str] = ("tiles",),
    seeds: Sequence[int] = (0, 1),
    **options: object,
) -> ResolvedStudy:
    """The first of ``labels`` (level -> factor -> label) is the baseline."""
    specs = tuple(DataSpec(name, "folder", "/somewhere") for name in data)
    cells = tuple(
        StudyCell(level, spec, seed, ONE_ROUND, f"{level}-{spec.name}-{seed}", labels[level])
        for seed, level, spec in itertools.product(seeds, labels, specs)
    )
    given: dict[str, object] = {"report": ("aji",), "seeds": tuple(seeds), **options}
    return ResolvedStudy(
        name="s",
        title="A title",
        profile="mini",
        source_files=(),
        data=specs,
        levels=tuple(labels),
        baseline_level=next(iter(labels)),
        cells=cells,
        **given,  # type: ignore[arg-type]
    )


def one_factor(*levels: str) -> Labels:
    return {level: {"f": level} for level in levels}


Value = Callable[[str, str, int, int], float]
"""Level, data set, image, seed -> value."""


def frame(
    given: ResolvedStudy, value: Value, images: int = 12, step: str = "round_1", metric: str = "aji"
) -> pl.DataFrame:
    """Finished cells; the coarse step has the value 0, which nothing may use."""
    rows = [
        {
            "study": given.name,
            "cell": cell.key_label,
            "level": cell.level,
            "dataset": cell.data.name,
            "image": f"i{image:02}",
            "seed": cell.seed,
            "step": at,
            "metric": metric,
            "value": value(cell.level, cell.data.name, image, cell.seed) if at == step else 0.0,
        }
        for cell in given.cells
        for image in range(images)
        for at in ("ucis", step)
    ]
    return tidy(rows)


NOISE = np.random.default_rng(0).normal(0, 0.02, (4, 60, 6))


def noisy(shift: Mapping[str, float]) -> Value:
    place = {level: i for i, level in enumerate(shift)}
    return lambda level, _, image, seed: (
        0.5 + image / 100 + shift[level] + NOISE[place[level], image, seed]
    )


def row(table: pl.DataFrame, **where: str) -> dict:
    return table.row(
        by_predicate=pl.all_horizontal(pl.col(k) == v for k, v in where.items()), named=True
    )


def test_numbers_are_those_of_the_paired_statistics() -> None:
    given = study(one_factor("base", "good", "same"), seeds=range(6))
    value = noisy({"base": 0.0, "good": 0.1, "same": 0.0})
    found = comparisons(frame(given, value), given)
    assert dict(found.schema) == SCHEMA
    assert found.select("level", "family", "step").rows() == [
        ("good", "f", "round_1"), ("same", "f", "round_1"),
    ]  # fmt: skip
    tables = {
        level: np.array([[value(level, "", i, s) for s in range(6)] for i in range(12)])
        for level in given.levels
    }
    expected = {level: compare(tables[level], tables["base"]) for level in ("good", "same")}
    adjusted = holm([expected["good"].p_image, expected["same"].p_image])
    for level, p in zip(("good", "same"), adjusted, strict=True):
        got, want = row(found, level=level), expected[level]
        assert got["delta"] == pytest.approx(want.delta.mean)
        assert (got["low"], got["high"]) == pytest.approx((want.delta.low, want.delta.high))
        assert (got["t_low"], got["t_high"]) == pytest.approx((want.delta.t_low, want.delta.t_high))
        assert got["p_image"] == pytest.approx(want.p_image)
        assert got["p_image_adjusted"] == pytest.approx(p)
        assert got["p_seed"] == pytest.approx(want.p_seed)
        assert got["effect_size"] == pytest.approx(want.effect_size)
        assert (got["images"], got["seeds"], got["skipped"]) == (12, 6, 0)
        assert got["level_mean"] == pytest.approx(tables[level].mean())
        assert got["reason"] is None
        assert got["caution"] == "12 images, fewer than 50: intervals are approximate"
    assert row(found, level="good")["verdict"] == "better"
    assert row(found, level="same")["verdict"] != "better"


def test_families_are_the_levels_of_a_factor() -> None:
    labels = {
        "baseline": {"f": "a", "g": "x"}, "b": {"f": "b", "g": "x"},
        "c": {"f": "c", "g": "x"}, "y": {"f": "a", "g": "y"},
    }  # fmt: skip
    value = noisy({"baseline": 0.0, "b": 0.01, "c": 0.02, "y": 0.01})
    given = study(labels)
    found = comparisons(frame(given, value), given)
    assert found["family"].to_list() == ["f", "f", "g"]
    raw = found["p_image"].to_list()
    assert found["p_image_adjusted"].to_list() == pytest.approx([*holm(raw[:2]), raw[2]])
    grid = study(labels, design="grid")
    found = comparisons(frame(grid, value), grid)
    assert found["family"].unique().to_list() == ["all levels"]
    assert found["p_image_adjusted"].to_list() == pytest.approx(holm(raw))
    plain = study(labels, analysis=Analysis(correction="none"))
    found = comparisons(frame(plain, value), plain)
    assert found["p_image_adjusted"].to_list() == pytest.approx(raw)


def test_what_is_missing_stays_and_is_named() -> None:
    given = study(one_factor("base", "gone", "half", "cut"), seeds=(0, 1, 2), report=("aji", "pq"))
    full = frame(given, noisy(dict.fromkeys(given.levels, 0.0)))
    full = full.filter(
        (pl.col("level") != "gone")
        & ~((pl.col("level") == "half") & (pl.col("seed") == 2))
        & ~((pl.col("level") == "cut") & (pl.col("step") == "round_1"))
    )
    found = comparisons(full, given)
    assert found.select("level", "metric").rows() == list(
        itertools.product(("gone", "half", "cut"), ("aji", "pq"))
    )
    gone = row(found, level="gone", metric="aji")
    assert gone["reason"] == "missing: gone"
    assert [gone[k] for k in ("step", "delta", "low", "p_image", "verdict", "images")] == [None] * 6
    half = row(found, level="half", metric="aji")
    assert half["reason"] == "no test: random seeds 0, 1 here, 0, 1, 2 at the baseline"
    assert half["seeds"] == 2 and half["delta"] is not None
    assert [half[k] for k in ("p_image", "p_seed", "p_wilcoxon")] == [None] * 3
    assert half["verdict"] == "open"
    assert "missing: random seed 2" in half["caution"]
    assert row(found, level="half", metric="pq")["reason"] == "no pq: half; no pq: base"


def test_a_cell_that_was_not_distilled_is_missing() -> None:
    given = study(one_factor("base", "screened"))
    parts = [
        frame(given, noisy({"base": 0.0, "screened": 0.0}), step=step).filter(
            pl.col("level") == level
        )
        for level, step in (("base", "round_1"), ("screened", "step1"))
    ]
    (found,) = comparisons(pl.concat(parts), given).to_dicts()
    assert found["reason"] == "missing: screened" and found["delta"] is None
    nothing = comparisons(tidy([]), given)
    assert nothing["reason"].to_list() == ["missing: screened; missing: base"]


def test_one_seed_or_one_image_decides_nothing() -> None:
    given = study(one_factor("base", "good"), seeds=(0,))
    value = noisy({"base": 0.0, "good": 0.3})
    (found,) = comparisons(frame(given, value, images=60), given).to_dicts()
    assert found["p_image"] is not None and found["p_seed"] is None
    assert found["reason"] == "no test by seed: there is one"
    assert found["caution"] == "one random seed: nothing is known of another training"
    assert found["verdict"] == "open" and found["improvement"] == 1
    (found,) = comparisons(frame(given, value, images=1), given).to_dicts()
    assert found["reason"] == "no test by image: there is one; no test by seed: there is one"
    assert found["low"] is None and found["delta"] is not None


def test_images_that_are_empty_are_skipped_and_counted() -> None:
    given = study(one_factor("base", "other"))
    value = noisy({"base": 0.0, "other": 0.1})

    def holes(level: str, data: str, image: int, seed: int) -> float:
        empty = image == 0 or (image == 1 and level == "base")
        return NAN if empty else value(level, data, image, seed)

    (found,) = comparisons(frame(given, holes), given).to_dicts()
    assert (found["images"], found["skipped"]) == (10, 2)
    assert found["p_image"] == pytest.approx(
        sign_flip([value("other", "", i, 0) - value("base", "", i, 0)
                   + value("other", "", i, 1) - value("base", "", i, 1) for i in range(2, 12)])
    )  # fmt: skip


@pytest.mark.parametrize(("metric", "verdict"), [("aji", "better"), ("fn", "worse")])
def test_less_of_an_error_is_better(metric: str, verdict: str) -> None:
    given = study(one_factor("base", "more"), report=(metric,), seeds=(0, 1, 2))
    full = frame(given, noisy({"base": 0.0, "more": 0.2}), metric=metric)
    (found,) = comparisons(full, given).to_dicts()
    assert found["delta"] > 0 and found["verdict"] == verdict
    assert found["improvement"] == (1 if verdict == "better" else 0)


def test_direction_of_every_metric() -> None:
    found = {metric: mode(metric) for metric in METRICS}
    counts = ["n_true", "n_predicted", "n_adjacent", "n_one_neighbour"]
    assert [m for m in METRICS if found[m] is None] == counts
    assert [m for m in METRICS if found[m] == "min"] == [
        "fn", "fp", "adj_fn", "adj_fp", "nonadj_fn", "nonadj_fp", "official_mfn", "official_mfp",
    ]  # fmt: skip
    given = study(one_factor("base", "more"), report=("n_predicted",))
    full = frame(given, noisy({"base": 0.0, "more": 0.2}), metric="n_predicted")
    (row_,) = comparisons(full, given).to_dicts()
    assert row_["delta"] > 0 and row_["verdict"] is None and row_["improvement"] is None


def test_a_chain_that_ended_early_is_said() -> None:
    given = study(one_factor("base", "other"))
    longer = Cell.model_validate({"rounds": {"count": 3}})
    given = replace(given, cells=tuple(replace(cell, config=longer) for cell in given.cells))
    (found,) = comparisons(frame(given, noisy({"base": 0.0, "other": 0.0})), given).to_dicts()
    assert "ended at round_1 of 3" in found["caution"]


def test_aggregate_by_hand() -> None:
    given = study(one_factor("base", "good"), data=("large", "small"))
    level = {"base": 0.0, "good": 0.1}
    base = {"large": 0.2, "small": 0.6}
    full = frame(given, lambda v, data, *_: base[data] + level[v])
    full = full.filter((pl.col("dataset") == "large") | (pl.col("image") < "i03"))
    found = aggregate(full, given)
    assert dict(found.schema) == AGGREGATE_SCHEMA
    good = row(found, level="good")
    # 12 images of 0.3 weigh as much as 3 of 0.7.
    assert (good["iqm"], good["iqm_low"], good["iqm_high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert (good["delta"], good["delta_low"]) == pytest.approx((0.1, 0.1))
    assert (good["improvement"], good["datasets"], good["images"]) == (1, 2, 15)
    assert good["average_rank"] is None and good["reason"] is None
    assert row(found, level="base")["delta"] is None
    assert aggregate(full, study(one_factor("base", "good"))).is_empty()


def test_aggregate_never_averages_over_fewer_data_sets() -> None:
    given = study(one_factor("base", "good", "half"), data=("a", "b"))
    full = frame(given, noisy(dict.fromkeys(given.levels, 0.0)))
    full = full.filter(
        ~((pl.col("level") == "good") & (pl.col("dataset") == "b"))
        & ~((pl.col("level") == "half") & (pl.col("seed") == 1) & (pl.col("dataset") == "a"))
    )
    found = aggregate(full, given)
    good, half = row(found, level="good"), row(found, level="half")
    assert good["reason"] == "missing on b" and good["iqm"] is None and good["delta"] is None
    assert half["caution"] == "over the shared random seeds on a" and half["delta"] is not None
    lost = aggregate(full.filter(pl.col("level") != "base"), given)
    assert row(lost, level="half")["reason"] == "no image and seed of the baseline on a, b"


def test_aggregate_ranks_five_data_sets() -> None:
    given = study(one_factor("base", "good", "bad"), data="abcde", report=("aji", "fn"))
    value = noisy({"base": 0.0, "good": 0.1, "bad": -0.1})
    full = pl.concat(frame(given, value, metric=metric) for metric in ("aji", "fn"))
    found = aggregate(full, given)
    ranked = {(r["metric"], r["level"]): r["average_rank"] for r in found.iter_rows(named=True)}
    assert [ranked["aji", level] for level in given.levels] == [2, 1, 3]
    assert [ranked["fn", level] for level in given.levels] == [2, 3, 1]
    assert found["p_friedman"].n_unique() == 1 and found["p_friedman"][0] < 0.01
    assert found["critical_difference"][0] > 0
    holed = full.filter((pl.col("level") != "bad") | (pl.col("dataset") != "c"))
    assert aggregate(holed, given)["average_rank"].null_count() == 6


def factorial() -> tuple[ResolvedStudy, Value]:
    labels = {
        f"A {a}, B {b}": {"A": a, "B": b} for a, b in itertools.product(("off", "on"), repeat=2)
    }
    worth = dict(zip(labels, (0.1, 0.3, 0.6, 1.6), strict=True))
    given = study(labels, design="factorial")
    return given, lambda level, _, image, __: worth[level] + image / 100


def test_effects_of_a_factorial_by_hand() -> None:
    given, value = factorial()
    found = factor_effects(frame(given, value), given)
    assert dict(found.schema) == EFFECTS_SCHEMA
    got = {(r["kind"], r["factor"]): (r["effect"], r["share"]) for r in found.iter_rows(named=True)}
    assert got["main", "A"][0] == pytest.approx(0.9)
    assert got["main", "B"][0] == pytest.approx(0.6)
    assert got["interaction", "A"][0] == pytest.approx(0.4)
    assert got["shapley", "A"] == pytest.approx((0.9, 0.6))
    assert got["shapley", "B"] == pytest.approx((0.6, 0.4))
    assert got["total", None][0] == pytest.approx(1.5)
    # The effects are paired: what images have in common is in no interval.
    assert found["high"].to_list() == pytest.approx(found["effect"].to_list())
    assert (found["images"].unique().item(), found["seeds"].unique().item()) == (12, 2)


def test_effects_with_a_missing_level_are_null_and_named() -> None:
    given, value = factorial()
    full = frame(given, value)
    found = factor_effects(full.filter(pl.col("level") != "A on, B off"), given)
    assert found["effect"].null_count() == 5
    assert row(found, kind="total")["effect"] == pytest.approx(1.5)
    assert row(found, kind="main", factor="A")["reason"] == "missing: A on, B off"
    uneven = full.filter((pl.col("level") != "A on, B off") | (pl.col("seed") == 0))
    main = row(factor_effects(uneven, given), kind="main", factor="A")
    assert main["seeds"] == 1 and "the random seeds differ" in main["caution"]


def test_effects_of_a_ladder_and_of_one_at_a_time() -> None:
    rungs = {
        "baseline": {"A": "0", "B": "0"},
        "+ 1": {"A": "1", "B": "0"},
        "+ 2": {"A": "1", "B": "2"},
    }
    given = study(rungs, design="ladder", seeds=(0, 1))
    found = factor_effects(frame(given, noisy(dict.fromkeys(rungs, 0.0))), given)
    assert found["kind"].to_list() == ["step", "step", "total"]
    steps = found["effect"].to_list()
    assert steps[0] + steps[1] == pytest.approx(steps[2])
    assert "order" in found["caution"][0]
    given = study(one_factor("base", "x", "y"))
    full = frame(given, noisy({"base": 0.0, "x": 0.1, "y": 0.2}))
    found = factor_effects(full, given)
    assert found.select("kind", "level").rows() == [("difference", "x"), ("difference", "y")]
    same = comparisons(full, given)
    assert found["effect"].to_list() == pytest.approx(same["delta"].to_list())
    assert found["low"].to_list() == pytest.approx(same["low"].to_list())


def test_performance_profile_by_hand() -> None:
    given = study(one_factor("base", "gone"))
    full = frame(
        given, lambda _, __, image, seed: (0.2, 0.4, 0.4, 0.8)[image] + 0.1 * seed, images=4
    )
    found = ends(full.filter(pl.col("level") == "base"), given)
    assert not found["tiles", "gone"].values
    thresholds, shares = performance_profile(found["tiles", "base"].values["aji"])
    assert thresholds == pytest.approx([0, 0.25, 0.45, 0.85])
    assert shares == [1, 0.75, 0.25, 0]
