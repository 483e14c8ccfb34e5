"""The result table against values computed by hand, and its interval against its definition."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from rich.console import Console

from coin_ray.pipeline.settings import Cell
from coin_ray.report.collect import collect
from coin_ray.report.intervals import estimate
from coin_ray.report.layout import markdown, renderables, result_tables
from coin_ray.report.tables import SCHEMA, Column, columns, entry, final_step, summary, tidy
from coin_ray.study.resolved import DataSpec, Published, ResolvedStudy, StudyCell

NAN = float("nan")


def study(
    levels: tuple[str, ...] = ("none", "mae"), seeds: tuple[int, ...] = (0,), **options: object
) -> ResolvedStudy:
    spec = DataSpec("tiles", "folder", "/somewhere")
    cells = tuple(
        StudyCell(level, {"f": level}, spec, seed, Cell(), f"{level}-{seed}")
        for seed in seeds
        for level in levels
    )
    given = {"profile": "mini", "data": (spec,), "report": ("aji", "pq"), **options}
    return ResolvedStudy(
        name="s",
        title="A title",
        source_files=(),
        levels=levels,
        baseline_level="mae",
        cells=cells,
        seeds=seeds,
        **given,  # type: ignore[arg-type]
    )


def row(level: str, image: str, step: str, metric: str, value: float, seed: int = 0) -> dict:
    return {
        "study": "s",
        "cell": f"{level}-{seed}",
        "level": level,
        "dataset": "tiles",
        "image": image,
        "seed": seed,
        "step": step,
        "metric": metric,
        "value": value,
    }


def test_tidy_has_its_columns_and_types() -> None:
    frame = tidy([row("mae", "a", "ucis", "aji", 0.5) | {"more": 1}])
    assert dict(frame.schema) == SCHEMA
    assert tidy([]).schema == frame.schema
    with pytest.raises(KeyError):
        tidy([{"study": "s"}])


def test_mean_is_over_images_of_means_over_seeds() -> None:
    # Image a has three seeds, image b one: they weigh the same.
    found = estimate([[0.1, 0.2, 0.3], [0.8]])
    assert found.mean == pytest.approx((0.2 + 0.8) / 2)
    assert (found.images, found.seeds) == (2, 1)


def test_interval_of_two_images_by_hand() -> None:
    # Two images: a resample is aa, ab, ba or bb with 1/4 each, so the 95 % quantiles are the ends.
    found = estimate([[0.2], [0.6]])
    assert (found.low, found.high) == pytest.approx((0.2, 0.6))


def test_one_image_has_no_interval() -> None:
    found = estimate([[0.2, 0.4]])
    assert found.mean == pytest.approx(0.3) and found.low is None and found.high is None


def test_interval_against_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0.5, 0.1, 40)
    found = estimate([[v] for v in values], draws=4000)
    means = [rng.choice(values, 40).mean() for _ in range(4000)]
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.004)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.004)


def test_seeds_are_nested_in_images_not_pooled() -> None:
    # All the spread is between images: six copies of each image must not narrow the interval.
    values = np.random.default_rng(1).uniform(0.2, 0.8, 14)
    one = estimate([[v] for v in values])
    six = estimate([[v] * 6 for v in values])
    assert one.low is not None and one.high is not None
    assert six.low is not None and six.high is not None
    assert six.high - six.low == pytest.approx(one.high - one.low, rel=0.1)
    # Spread between seeds alone does widen it.
    noisy = estimate([[0.4, 0.6]] * 14)
    assert noisy.low is not None and noisy.high is not None
    assert noisy.high - noisy.low == pytest.approx(2 * 1.96 * 0.1 / math.sqrt(2 * 14), rel=0.1)


def test_uneven_seeds_are_drawn_from_those_that_exist() -> None:
    # The padding of an image with fewer seeds is never drawn: all values are 1.
    found = estimate([[1.0], [1.0, 1.0, 1.0], [1.0, 1.0]])
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_estimate_is_deterministic_and_refuses_nothing() -> None:
    values = [[v] for v in np.random.default_rng(0).random(9)]
    assert estimate(values) == estimate(values)
    for empty in ([], [[0.5], []]):
        with pytest.raises(ValueError, match="needs a value"):
            estimate(empty)


def test_the_last_step() -> None:
    assert final_step(["ucis", "step1", "round_2", "round_10"]) == "round_10"
    assert final_step(["round_1", "final"]) == "final"
    assert final_step(["ucis", "step1", "pseudo_labels"]) == "step1"


def full(level: str, rounds: int = 2) -> list[dict]:
    steps = ["ucis", "step1", "pseudo_labels", *(f"round_{r}" for r in range(1, rounds + 1))]
    return [
        row(level, image, step, metric, 0.1 * (i + 1) + shift)
        for i, step in enumerate(steps)
        for metric in ("aji", "pq")
        for image, shift in (("a", 0.0), ("b", 0.2))
    ]


def test_columns_follow_the_chain() -> None:
    titles = [c.title for c in columns(tidy(full("mae")), ("aji", "pq"))]
    assert titles == [
        "AJI coarse", "AJI step 1", "AJI pseudo labels", "AJI round 1", "AJI round 2", "PQ",
    ]  # fmt: skip
    # Levels that end at different rounds need the AJI at the end as a column of its own.
    uneven = tidy(full("mae") + full("none", rounds=1))
    assert columns(uneven, ("aji",))[-1] == Column("final", "aji")
    assert entry(uneven, "none", Column("final", "aji")) == entry(
        uneven, "none", Column("round_1", "aji")
    )


def test_entries_by_hand() -> None:
    frame = tidy(full("mae"))
    found = entry(frame, "mae", Column("round_1", "aji"))
    assert found is not None
    assert found.mean == pytest.approx((0.4 + 0.6) / 2)
    assert (found.low, found.high) == pytest.approx((0.4, 0.6))
    assert entry(frame, "none", Column("round_1", "aji")) is None


def test_images_that_are_empty_are_skipped_and_counted() -> None:
    frame = tidy(
        [row("mae", image, "ucis", "aji", v) for image, v in (("a", 0.5), ("b", NAN), ("c", 0.7))]
    )
    found = entry(frame, "mae", Column("ucis", "aji"))
    assert found is not None
    assert (found.mean, found.images, found.skipped) == (pytest.approx(0.6), 2, 1)
    (table,) = result_tables(study(), frame)
    assert "Skipped where truth and prediction are both empty: up to 1 images." in table.notes


def test_summary_shows_what_is_missing_as_null() -> None:
    table = summary(tidy(full("mae")), ("none", "mae"), ("aji", "pq"))
    assert table.shape == (12, 10)
    none = table.filter(pl.col("level") == "none")
    assert none["mean"].null_count() == 6
    pq = table.filter((pl.col("level") == "mae") & (pl.col("metric") == "pq"))
    assert pq.select("step", "mean").row(0) == ("final", pytest.approx(0.6))


def test_markdown_by_hand() -> None:
    text = markdown(result_tables(study(), tidy(full("mae", rounds=0))))
    assert text.splitlines() == [
        "## A title",
        "",
        "profile mini · data tiles · 2 labelled images · 1 random seed · transductive: trained, "
        "without labels, on the images it is evaluated on",
        "",
        "| level | n | AJI coarse | AJI step 1 | AJI pseudo labels | PQ |",
        "|---|---:|---:|---:|---:|---:|",
        "| none | 0 | missing | missing | missing | missing |",
        "| mae (baseline) | 2 | **0.200** (0.100–0.300) | **0.300** (0.200–0.400) | "
        "**0.400** (0.300–0.500) | **0.300** (0.200–0.400) |",
        "",
        "- Missing: none, random seed 0.",
        "- Mean over images, 95% bootstrap interval (images resampled, then their seeds).",
        "- 2 images, fewer than 50: intervals are approximate.",
    ]


def test_missing_seeds_are_said() -> None:
    frame = tidy(full("mae") + full("none"))
    (table,) = result_tables(study(seeds=(0, 1)), frame)
    assert table.notes[:2] == ("Missing: none, random seed 1.", "Missing: mae, random seed 1.")
    (table,) = result_tables(study(), tidy([]))
    assert "nothing to measure" in table.notes[0]


def test_many_images_need_no_caution() -> None:
    frame = tidy([row("mae", str(i), "ucis", "aji", 0.5) for i in range(50)])
    (table,) = result_tables(study(("mae",)), frame)
    assert not any("approximate" in note for note in table.notes)


def test_inductive_is_said() -> None:
    spec = DataSpec("tiles", "folder", "/x", train_paths=("/y",))
    (table,) = result_tables(study(data=(spec,)), tidy(full("mae")))
    assert "inductive: trained, without labels, on other images" in table.caption


PUBLISHED = Published(
    "A paper, table 2", {"mae": {"Tiles": {"aji": 0.58}, "other": {"aji": 0.1}}}, note="one run"
)


def test_published_numbers_stand_beside_what_they_compare_with() -> None:
    (table,) = result_tables(study(profile="coin", published=PUBLISHED), tidy(full("mae")))
    assert table.published == {"mae": {"aji": 0.58}}
    text = markdown([table])
    assert "| AJI published |" in text
    assert "0.580 (+0.020) |" in text  # ours is 0.6 after round 2
    assert "Published: A paper, table 2 (one run)." in text


@pytest.mark.parametrize(
    ("profile", "data"), [("mini", "tiles"), ("coin", "elsewhere")], ids=["profile", "data"]
)
def test_published_numbers_of_something_else_are_not_comparable(profile: str, data: str) -> None:
    spec = DataSpec(data, "folder", "/x")
    given = study(profile=profile, data=(spec,), published=PUBLISHED)
    (table,) = result_tables(given, tidy(full("mae")))
    assert not table.published
    text = markdown([table])
    assert f"they are not comparable with profile {profile} on {data}." in text
    assert "0.580" not in text


def test_best_is_the_lowest_error() -> None:
    rows = [row(level, "a", "ucis", "fn", v) for level, v in (("none", 0.3), ("mae", 0.1))]
    rows += [row(level, "a", "ucis", "n_predicted", v) for level, v in (("none", 9), ("mae", 8))]
    rows += [row(level, "a", "step1", m, 0.2) for level in ("none", "mae") for m in ("aji",)]
    rows = [r | {"step": "step1"} for r in rows]
    text = markdown(result_tables(study(report=("fn", "n_predicted")), tidy(rows)))
    assert "**0.100**" in text and "**9" not in text and "**8" not in text


@pytest.mark.parametrize("width", [72, 160])
def test_terminal(width: int) -> None:
    frame = tidy(full("mae") + full("[bold]none"))
    tables = result_tables(study(("[bold]none", "mae")), frame)
    out = io.StringIO()
    console = Console(file=out, width=width)
    for item in renderables(tables, width):
        console.print(item)
    text = out.getvalue()
    assert "[bold]none" in text and "mae *" in text and "* baseline" in text
    assert (".400–.600" in text) == (width == 160)  # no room, no interval
    assert ".500" in text and "…" not in text


def write_cell(folder: Path, config: Cell, value: float) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(config.model_dump(mode="json", by_alias=True))
    )
    rows = [{"image": "a", "step": "ucis", "metric": "aji", "value": value}]
    (folder / "metrics.json").write_text(json.dumps({"cell": {}, "rows": rows}))


def test_collect_reads_finished_cells_of_the_same_configuration(tmp_path: Path) -> None:
    given = study(("none", "mae", "old", "unfinished"))
    write_cell(tmp_path / "none-0", Cell(), 0.5)
    runtime = Cell.model_validate({"uss": {"batch": 2}})  # changes speed, not results
    write_cell(tmp_path / "mae-0", runtime, NAN)
    edited = Cell.model_validate({"ot": {"lambda": 0.7}})
    write_cell(tmp_path / "old-0", edited, 0.9)
    (tmp_path / "unfinished-0").mkdir()
    frame = collect(given, tmp_path)
    assert frame["level"].to_list() == ["none", "mae"]
    assert frame["value"][0] == 0.5 and math.isnan(frame["value"][1])
    assert frame.row(0, named=True) == row("none", "a", "ucis", "aji", 0.5)
