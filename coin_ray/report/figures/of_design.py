"""The figures that a design asks for: settings against results, and what each factor gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from coin_ray.report.document.blocks import Plot
from coin_ray.report.document.numbers import minus
from coin_ray.report.figures import levels
from coin_ray.report.figures.levels import Interval
from coin_ray.report.figures.slices import Varied, draw_budget, draw_parallel, draw_slices
from coin_ray.report.figures.style import plot
from coin_ray.report.values.factor_effects import factor_effects
from coin_ray.report.values.result_tables import ResultTable
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import metric_title
from coin_ray.report.values.trials import trials_of
from coin_ray.statistics.objective import expected_best
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.search import settings_of

EFFECTS = {
    "main": "main effects",
    "interaction": "two-way interactions",
    "difference": "one factor changed, the others at the baseline",
    "step": "steps of the ladder",
    "shapley": "Shapley shares of the whole gain",
}


def varied(study: ResolvedStudy) -> list[Varied]:
    """The settings that levels carry as numbers, three or more of them; in a search all settings
    that take two values."""
    keys = dict.fromkeys(key for patch in study.patches.values() for key in patch)
    scales = {d.key: d.kind for d in study.search.space} if study.search else {}
    configs = {cell.level: cell.config for cell in study.cells}
    configured = {level: settings_of(configs[level]) for level in study.levels}
    out = []
    for key in keys:
        carry = [v for v in study.levels if key in study.patches[v] or v == study.baseline_level]
        values = {level: configured[level][key] for level in carry}
        found = Varied(key, values, scales.get(key))
        different = len({str(value) for value in found.values.values()})
        if different > 1 if study.search else found.numeric and different > 2:
            out.append(found)
    return out


def of_settings(results: Results, table: ResultTable) -> Iterator[Plot]:
    """Slices by setting; for several settings their parallel coordinates, too."""
    study, settings = results.study, varied(results.study)
    if not settings:
        return
    for title, found in _outcomes(results, table).items():
        yield from _slices(study, settings, table, title, found)
    title, found = next(iter(_outcomes(results, table).items()), ("", {}))
    if len(settings) > 1 and len(found) > 2:
        best = _best(results, table, title)
        of = "the best trial" if study.search else "the best"
        orange = "" if best is None else f"Orange: {of}, {best}; "
        outcome = Varied(title, {level: value[0] for level, value in found.items()})
        yield plot(
            "parallel",
            table.dataset,
            f"A line a level, from its settings to its {title}, dark for high values. "
            f"{orange}{'dashed' if orange else 'Dashed'}: the baseline.",
            lambda: draw_parallel(settings, outcome, table.baseline, best),
        )


def of_budget(results: Results, table: ResultTable) -> Iterator[Plot]:
    """What a search was expected to find by its number of trials."""
    if results.study.search is None:
        return
    goal, trials = results.study.objective, trials_of(results, table.dataset)
    found, baseline = trials.means(trials.first), trials.baseline_mean(trials.first)
    if len(found) > 1:
        best = expected_best(list(found.values()), goal.mode).tolist()
        yield plot(
            "budget",
            table.dataset,
            f"Best {goal.metric} that so many of these trials are expected to find, in any order; "
            "dashed: the baseline. Searches are compared at the same number of trials.",
            lambda: draw_budget(best, baseline, metric=goal.metric),
        )


def _slices(
    study: ResolvedStudy,
    settings: list[Varied],
    table: ResultTable,
    title: str,
    found: Mapping[str, Interval],
) -> Iterator[Plot]:
    alone = len(settings) == 1 and not study.search
    others = [v for v in study.levels if v in found and v not in settings[0].values]
    without = f" Without a value of their own: {', '.join(others)}." if alone and others else ""
    yield plot(
        f"slice-{title}",
        table.dataset,
        f"{title} against each setting that the study varies. Black diamond: the baseline."
        f"{without}",
        lambda: draw_slices(settings, found, table.baseline, metric=title, connected=alone),
    )


def _outcomes(results: Results, table: ResultTable) -> dict[str, dict[str, Interval]]:
    """What is drawn against the settings, level -> value: of a search its objective, then the first
    metric of the report; those that were measured."""
    study, metric = results.study, results.study.report[0]
    outcomes: dict[str, dict[str, Interval]] = {}
    if study.search and study.objective.metric != metric:
        trials = trials_of(results, table.dataset)
        values = {study.baseline_level: trials.baseline_mean(trials.ranked)}
        values |= {level: trial.value for level, trial in trials.trials.items()}
        outcomes[study.objective.metric] = {
            level: (value, None, None) for level, value in values.items() if value is not None
        }
    measured = {level: table.interval(level, metric) for level in table.rows}
    outcomes[metric_title(metric)] = {v: found for v, found in measured.items() if found}
    return {title: found for title, found in outcomes.items() if found}


def _best(results: Results, table: ResultTable, title: str) -> str | None:
    """The best level by one of the outcomes, of a search the best trial; None where neither more
    nor less of it is better."""
    study = results.study
    if study.search and title == study.objective.metric:
        return trials_of(results, table.dataset).best(study.objective.mode)
    return table.best_level(study.report[0], baseline=study.search is None)


def of_factors(results: Results, table: ResultTable) -> Iterator[Plot]:
    """What each factor gives in a factorial, a ladder or a leave-one-out."""
    metric = results.study.report[0]
    own = tuple(spec for spec in results.study.data if spec.name == table.dataset)
    study = replace(results.study, data=own, report=(metric,))
    found = factor_effects(results.frame, study, results.ends)
    title = metric_title(metric)
    for kind, words in EFFECTS.items():
        parts = [kind, "total"] if kind in ("shapley", "step") else [kind]
        rows = found.filter(pl.col("kind").is_in(parts) & pl.col("effect").is_not_null())
        # Of one factor at a time these are the differences, which have a figure already.
        if kind in rows["kind"] and results.study.design != "one_at_a_time":
            yield _effects(results, table, title, kind, words, rows)


def _effects(
    results: Results, table: ResultTable, title: str, kind: str, words: str, rows: pl.DataFrame
) -> Plot:
    dots = [
        levels.Row(_effect_name(row), ((row["effect"], row["low"], row["high"]),))
        for row in rows.iter_rows(named=True)
    ]
    cautions = dict.fromkeys(text for text in rows["caution"].to_list() if text)
    return plot(
        f"effects-{kind}",
        table.dataset,
        f"Change of {title} with its {results.study.analysis.confidence:.0%} interval: {words}."
        + "".join(f" {text[0].upper()}{text[1:]}." for text in cautions),
        lambda: levels.draw_dots([f"change of {title}"], dots),
    )


def _effect_name(row: Mapping[str, Any]) -> str:
    if row["kind"] == "total":
        return "all together"
    if row["other"]:
        return f"{row['factor']} × {row['other']}"
    name = f"{row['factor']}: {row['level']}" if row["level"] else row["factor"]
    return name if row["share"] is None else f"{name} ({minus(format(row['share'], '.0%'))})"
