"""The result table against values computed by hand, and its interval against its definition."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console

from coin_ray.data.dataset import DataSpec
from coin_ray.pipeline.settings import Cell
from coin_ray.report.document.sections import results_section
from coin_ray.report.figures.of_study import figures_section
from coin_ray.report.figures.slices import Varied
from coin_ray.report.formats.terminal import renderables
from coin_ray.report.values import across_data as across
from coin_ray.report.values import collect as collecting
from coin_ray.report.values import comparisons as comparing
from coin_ray.report.values import factor_effects as effects_module
from coin_ray.report.values import result_tables as result_module
from coin_ray.report.values import study_results
from coin_ray.report.values.collect import ROUND_SCHEMA, collect
from coin_ray.report.values.comparisons import comparisons
from coin_ray.report.values.ends import ends
from coin_ray.report.values.result_tables import entry, result_tables, summary
from coin_ray.report.values.study_results import Results, read_results
from coin_ray.report.values.tidy import (
    SCHEMA,
    Column,
    columns,
    final_step,
    metric_title,
    tidy,
)
from coin_ray.study.resolved import Published, ResolvedStudy, StudyCell
from tests.report_study import NUMBERS, finish
from tests.report_study import study as small_study

NAN = float("nan")


def study(
    levels: tuple[str, ...] = ("none", "mae"),
    seeds: tuple[int, ...] = (0,),
    rounds: int = 2,
    **options: object,
) -> ResolvedStudy:
    spec = DataSpec("tiles", "folder", "/somewhere")
    config = Cell.model_validate({"rounds": {"count": rounds}})
    cells = tuple(
        StudyCell(level, spec, seed, config, f"{level}-{seed}", {"f": level})
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
    (table,) = result_tables(study(), uneven)
    assert table.at_end("none", "aji") == entry(uneven, "none", Column("round_1", "aji"))
    assert table.at_end("mae", "aji") == entry(uneven, "mae", Column("round_2", "aji"))


def test_without_rounds_the_end_is_step_1_whatever_else_was_measured() -> None:
    """Images that are trained on have pseudo labels, whose column stands behind that of step 1."""
    without = tidy(full("mae", rounds=0) + full("none", rounds=0))
    assert columns(without, ("aji", "pq"))[-2:] == [Column("final", "aji"), Column("final", "pq")]
    (table,) = result_tables(study(rounds=0), without)
    assert table.at_end("mae", "aji") == entry(without, "mae", Column("step1", "aji"))


def test_a_level_that_was_not_distilled_has_no_final_value() -> None:
    (table,) = result_tables(study(), tidy(full("mae") + full("none", rounds=0)))
    assert table.at_end("none", "pq") is None and table.at_end("mae", "pq") is not None
    assert table.notes[0] == "Missing: none, random seed 0."


def test_titles_of_metrics() -> None:
    names = ("aji", "adj_aji", "nonadj_iou", "official_pq", "some_thing")
    assert [metric_title(name) for name in names] == [
        "AJI", "AJI (adjacent)", "IoU (fg) (non-adjacent)", "PQ (official)", "some thing",
    ]  # fmt: skip


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
    table = summary(result_tables(study(), tidy(full("mae"))))
    assert len(table) == 12
    none = table.filter(pl.col("level") == "none")
    assert none["mean"].null_count() == 6
    pq = table.filter((pl.col("level") == "mae") & (pl.col("metric") == "pq"))
    assert pq.select("step", "mean").row(0) == ("final", pytest.approx(0.6))


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


def test_best_is_the_lowest_error() -> None:
    rows = [row(level, "a", "step1", "fn", v) for level, v in (("none", 0.3), ("mae", 0.1))]
    rows += [row(level, "a", "step1", "n_predicted", v) for level, v in (("none", 9), ("mae", 8))]
    given = study(rounds=0, report=("fn", "n_predicted"))
    (table,) = result_tables(given, tidy(rows))
    assert table.best()[-2:] == [0.1, None]
    assert table.best_level("fn") == "mae" and table.best_level("n_predicted") is None
    assert table.best_level("fn", baseline=False) == "none"


def printed(given: ResolvedStudy, frame: pl.DataFrame, width: int) -> str:
    tables, rounds = result_tables(given, frame), pl.DataFrame(schema=ROUND_SCHEMA)
    compared = comparisons(frame, given)
    found = Results(given, Path(), frame, tables, compared, {}, rounds, {}, ends(frame, given))
    out = io.StringIO()
    for item in renderables(found, width):
        Console(file=out, width=width).print(item)
    return out.getvalue()


@pytest.mark.parametrize("width", [72, 100, 160])
def test_terminal(width: int) -> None:
    given = study(("[bold]none", "mae"))
    text = printed(given, tidy(full("mae") + full("[bold]none")), width)
    assert "tiles, against the baseline mae: AJI" in text and "+.000 to +.000" in text
    assert "[bold]none" in text and "mae (baseline)" in text
    # No room, no interval: the last step is the last to lose its own.
    assert (".100–.300" in text, ".500–.700" in text) == (width > 72, True)
    assert ".500" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_long_names_wrap_and_numbers_do_not() -> None:
    name = "ot.lambda 0.2288, ot.prior 2.146, select.rule top_fraction, select.value 0.9264"
    text = printed(study(("mae", name)), tidy(full("mae") + full(name)), 100)
    assert "…" not in text and ".500" in text and "select.value" in text
    assert max(map(len, text.splitlines())) <= 100


def test_published_numbers_are_printed_with_their_verdict() -> None:
    paper = Published("A paper", {"mae": {"tiles": {"aji": 0.6}}}, comparable=("mini",))
    text = printed(study(published=paper), tidy(full("mae")), 100)
    assert "tiles: A paper" in text and "reproduced" in text and "Published: A paper." in text
    elsewhere = Published("A paper", {"mae": {"others": {"aji": 0.6}}}, comparable=("mini",))
    assert "not comparable with profile mini on tiles" in " ".join(
        printed(study(published=elsewhere), tidy(full("mae")), 100).split()
    )


def write_cell(folder: Path, config: Cell, value: float) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(config.model_dump(mode="json", by_alias=True))
    )
    rows = [{"image": "a", "step": "ucis", "metric": "aji", "value": value}]
    level, _, seed = folder.name.partition("-")
    who = {"cell": folder.name, "level": level, "data": "tiles", "seed": int(seed)}
    (folder / "metrics.json").write_text(json.dumps({"cell": who, "rows": rows}))


def test_collect_reads_finished_cells_of_the_same_configuration(tmp_path: Path) -> None:
    given = study(("none", "mae", "old", "unfinished", "ancient"))
    two = {"rounds": {"count": 2}}
    write_cell(tmp_path / "none-0", Cell.model_validate(two), 0.5)
    runtime = Cell.model_validate(two | {"uss": {"batch": 2}})  # changes speed, not results
    write_cell(tmp_path / "mae-0", runtime, NAN)
    edited = Cell.model_validate(two | {"ot": {"lambda": 0.7}})
    write_cell(tmp_path / "old-0", edited, 0.9)
    (tmp_path / "unfinished-0").mkdir()
    write_cell(tmp_path / "ancient-0", edited, 0.9)
    (tmp_path / "ancient-0" / "config.yaml").write_text("section_of_another_version: {a: 1}\n")
    found = collect(given, tmp_path)
    frame = found.frame
    assert found.outdated == ("old-0", "ancient-0")
    assert frame["level"].to_list() == ["none", "mae"]
    assert frame["value"][0] == 0.5 and math.isnan(frame["value"][1])
    assert frame.row(0, named=True) == row("none", "a", "ucis", "aji", 0.5)
    # Whatever the folder is called: what is of another cell, or of other images, is not shown.
    shutil.copytree(tmp_path / "none-0", tmp_path / "unfinished-0", dirs_exist_ok=True)
    assert collect(given, tmp_path).frame["level"].to_list() == ["none", "mae"]
    moved = collect(replace(given, contents={"tiles": "of other images"}), tmp_path)
    assert moved.frame.is_empty() and set(moved.outdated) >= {"none-0", "mae-0"}


def test_what_cells_and_levels_share_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One configuration a level, not one a cell; the ends of the chains once for all tables."""
    given = small_study(tmp_path, NUMBERS)
    finish(given, tmp_path / "runs")
    parsed, ended = [], []
    read, at_ends = collecting._read_yaml, study_results.ends
    monkeypatch.setattr(collecting, "_read_yaml", lambda text: parsed.append(1) or read(text))
    monkeypatch.setattr(study_results, "ends", lambda *a: ended.append(1) or at_ends(*a))
    collecting._digest_of.cache_clear()
    results = read_results(given, tmp_path / "runs")
    assert len(parsed) == len(given.levels) < len(given.cells) and len(ended) == 1
    for module in (result_module, comparing, effects_module, across):
        monkeypatch.setattr(module, "ends", lambda *a: pytest.fail("again"))
    figures_section(results)
    results_section(results)


def test_a_varied_setting_looks_at_each_level_once() -> None:
    """Places on an axis are asked for level by level: of n levels that was n times n looks."""

    class Counted(dict[str, float]):
        looks = 0

        def values(self) -> Any:
            Counted.looks += 1
            return super().values()

    setting = Varied("ot.lambda", Counted({f"l{i}": 0.1 + i for i in range(100)}))
    assert [setting.fraction(f"l{i}") for i in (0, 99)] == [0.0, 1.0]
    before = Counted.looks
    for i in range(100):
        setting.fraction(f"l{i}")
        setting.position(f"l{i}")
    assert Counted.looks == before


def test_cells_of_neither_part_are_counted() -> None:
    values = {"n_true": 10.0, "n_one_neighbour": 3.0, "aji": 0.5}
    rows = [
        row(level, image, step, metric, value)
        for level in ("none", "mae")
        for image in "ab"
        for step in ("ucis", "round_2")
        for metric, value in values.items()
    ]
    (table,) = result_tables(study(), tidy(rows))
    assert any("6 of 20 nuclei have exactly one" in note for note in table.notes)
    (table,) = result_tables(study(), tidy([r for r in rows if r["metric"] == "aji"]))
    assert not any("neither part" in note for note in table.notes)


def test_columns_of_several_steps_for_any_metric() -> None:
    given = study(steps=("ucis", "round_1"), report=("pq", "aji"))
    frame = tidy(full("mae"))
    (table,) = result_tables(given, frame)
    assert [c.title for c in table.columns] == [
        "PQ coarse", "PQ round 1", "PQ", "AJI coarse", "AJI round 1", "AJI",
    ]  # fmt: skip
    assert table.rows["mae"][1] == entry(frame, "mae", Column("round_1", "pq"))
    assert columns(frame, ("aji",), ("final",)) == [Column("final", "aji")]
    assert table.at_end("mae", "pq") == entry(frame, "mae", Column("round_2", "pq"))
