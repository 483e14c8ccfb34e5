"""The head of a report: what was compared on what, and what came out in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from coin_ray.report.document.blocks import Notes, Section
from coin_ray.report.document.numbers import in_words, plain, signed
from coin_ray.report.values.result_tables import count
from coin_ray.report.values.study_results import Results, unlabelled
from coin_ray.report.values.tidy import metric_title
from coin_ray.report.values.trials import trials_of

_WORDS = {
    "better": "Better than the baseline",
    "worse": "Worse than the baseline",
    "equal": "No difference worth having",
    "open": "Open, the data do not decide",
    None: "Not compared, a value is missing",
}
MOST_NAMES = 6


def facts(results: Results) -> tuple[tuple[str, str], ...]:
    """What was compared on what, for the head of a page."""
    study = results.study
    finished = len(results.facts)
    shape = (
        f"{count(len(study.levels), 'level')} × {count(len(study.data), 'data set')} × "
        f"{count(len(study.seeds), 'random seed')}"
    )
    data = [f"{spec.name}: {_measured(results, spec.name)}, {spec.setting}" for spec in study.data]
    return (
        ("design", study.design.replace("_", " ")),
        ("cells", f"{finished} of {len(study.cells)} finished ({shape})"),
        ("data", "; ".join(data)),
        ("profile", study.profile),
        ("baseline", study.baseline_level),
    )


def _measured(results: Results, dataset: str) -> str:
    """How many images have labels."""
    if dataset in unlabelled(results):
        return "no labels"
    images = results.frame.filter(pl.col("dataset") == dataset)["image"].n_unique()
    return count(images, "labelled image") if images else "not run yet"


def in_short(results: Results) -> Section:
    """What the first metric says of every level, by verdict; nothing is claimed that is open."""
    metric = results.study.report[0]
    told = results.compared.filter(pl.col("metric") == metric)
    lines = []
    for table in results.tables:
        base = table.at_end(table.baseline, metric)
        title = metric_title(metric)
        if base is None:
            bare = table.dataset in unlabelled(results)
            lines.append(
                f"{table.dataset}: {'no labels' if bare else f'the baseline has no {title}'}."
            )
            continue
        lines.append(
            f"{table.dataset}: {title} of {table.reference} is {in_words(base)}, over "
            f"{count(base.images, 'image')} and {count(base.seeds, 'random seed')}."
        )
        rows = told.filter(pl.col("dataset") == table.dataset).to_dicts()
        lines += [line for word in _WORDS if (line := _said(word, rows))]
    if results.study.search:
        lines.append(_found(results))
    cautions = dict.fromkeys(part for text in told["caution"] if text for part in text.split("; "))
    lines += [f"{text[0].upper()}{text[1:]}." for text in cautions]
    return Section("In short", (Notes(tuple(lines)),))


def _said(word: str | None, rows: Sequence[Mapping[str, Any]]) -> str:
    found = [row for row in rows if row["verdict"] == word and (word or row["delta"] is None)]
    found.sort(key=lambda row: -(row["delta"] or 0))
    names = [
        row["level"] if row["delta"] is None else f"{row['level']} ({signed(row['delta'])})"
        for row in found
    ]
    more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
    return f"{_WORDS[word]}: {'; '.join(names[:MOST_NAMES])}{more}." if found else ""


def _found(results: Results) -> str:
    """What a search found by its objective."""
    goal, found = results.study.objective, trials_of(results)
    best, base = found.best(goal.mode), found.baseline_mean(found.ranked)
    if best is None:
        return f"No finished trial has the objective {goal.metric}."
    value, sign = found.means(found.ranked)[best], -1 if goal.mode == "min" else 1
    if base is not None and sign * value <= sign * base:
        return f"No trial has a better {goal.metric} than the baseline ({plain(base)})."
    against = "" if base is None else f", the baseline {plain(base)}"
    return f"Best {goal.metric}: {best} ({plain(value)}{against})."
