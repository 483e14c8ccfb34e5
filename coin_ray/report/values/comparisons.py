"""Every level against the baseline. A value that cannot be computed is null with a ``reason``, and
its row stays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from coin_ray.report.values.ends import End, Ends, bounds, ends, few_notes
from coin_ray.statistics.paired import Comparison, aligned, compare, holm, verdict
from coin_ray.statistics.power import smallest_p
from coin_ray.study.metrics import mode
from coin_ray.study.resolved import ResolvedStudy

SCHEMA = {
    **dict.fromkeys(("dataset", "level", "metric", "family", "step"), pl.String),
    **dict.fromkeys(("level_mean", "baseline_mean", "delta", "low", "high"), pl.Float64),
    **dict.fromkeys(("t_low", "t_high"), pl.Float64),
    **dict.fromkeys(("images", "seeds", "skipped"), pl.Int64),
    **dict.fromkeys(("p_image", "p_image_adjusted", "p_seed", "p_seed_adjusted"), pl.Float64),
    **dict.fromkeys(("p_wilcoxon", "effect_size", "improvement"), pl.Float64),
    **dict.fromkeys(("verdict", "reason", "caution"), pl.String),
}
"""Columns of ``comparisons``.

* ``family``: the tests that are corrected together: the factor in which a level of a one-at-a-time
  study differs from the baseline, else ``all levels``.
* ``step``: the end of the level's chain, which is what is compared.
* ``level_mean``, ``baseline_mean``, ``delta`` (level - baseline), ``low``, ``high``: means over the
  ``images`` and ``seeds`` that both have, with the bootstrap interval of ``delta``; ``t_low``,
  ``t_high`` the t interval where there are fewer than 50 images.
* ``skipped``: labelled images that not both have a value for (empty in truth and prediction).
* ``p_image``, ``p_seed``: two-sided paired sign-flip tests over images and over random seeds, then
  corrected within the family; ``p_wilcoxon`` over images, a cross-check.
* ``effect_size``: mean over standard deviation of the differences by image.
* ``improvement``: share of images on which the level is better than the baseline, ties half.
* ``verdict``: better, worse, equal or open; null for a metric of which more is neither.
* ``reason``: why something is null. ``caution``: what to know when reading the row.
"""


ALL_LEVELS = "all levels"
_Key = tuple[str, str, str]
"""Data set, level, metric."""


def comparisons(
    frame: pl.DataFrame, study: ResolvedStudy, ended: Ends | None = None
) -> pl.DataFrame:
    """Every level but the baseline against the baseline at the end of the chain: one row
    (``SCHEMA``) per data set, level and metric of ``study.report``, in the study's order.

    ``frame`` is the tidy table of the finished cells. Levels whose random seeds are not those of
    the baseline get a difference over the shared ones and no test; a level that was decided after
    some of the seeds is compared over those.
    """
    found = ended or ends(frame, study)
    families = _families(study)
    names = [spec.name for spec in study.data]
    compared = {
        (dataset, level, metric): _compare(
            found[dataset, level], found[dataset, study.baseline_level], study, metric
        )
        for dataset, level, metric in itertools.product(names, families, study.report)
    }
    done = {key: comparison for key, comparison in compared.items() if comparison is not None}
    by_image = _adjusted({key: c.p_image for key, c in done.items()}, families, study)
    by_seed = _adjusted({key: c.p_seed for key, c in done.items()}, families, study)
    rows = []
    for key, comparison in compared.items():
        dataset, level, metric = key
        own, base = found[dataset, level], found[dataset, study.baseline_level]
        row: dict[str, Any] = {
            "dataset": dataset,
            "level": level,
            "metric": metric,
            "family": families[level],
            "step": own.step,
            "reason": _reason(comparison, own, base, study, metric, level),
        }
        if comparison is not None:
            row |= _numbers(comparison) | {
                "skipped": max(own.images, base.images) - comparison.delta.images,
                "p_image_adjusted": by_image[key],
                "p_seed_adjusted": by_seed[key],
                "caution": "; ".join(_cautions(comparison, own, study)) or None,
            }
            if direction := mode(metric):
                row["improvement"] = comparison.improvement
                row["verdict"] = verdict(comparison, by_image[key], study.analysis, mode=direction)
        rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def _families(study: ResolvedStudy) -> dict[str, str]:
    """Level -> the family of tests it is corrected in; without the baseline."""
    labels = {cell.level: cell.labels for cell in study.cells}
    base = labels[study.baseline_level]
    out = {}
    for level in study.levels:
        changed = [name for name in base if labels[level].get(name) != base[name]]
        single = study.design == "one_at_a_time" and len(changed) == 1
        out[level] = changed[0] if single else ALL_LEVELS
    del out[study.baseline_level]
    return out


def _compare(own: End, base: End, study: ResolvedStudy, metric: str) -> Comparison | None:
    theirs = base.values.get(metric, {})
    if own.decided:
        theirs = {key: value for key, value in theirs.items() if key[1] in own.seeds(metric)}
    level, baseline = aligned(own.values.get(metric, {}), theirs)
    return compare(
        level, baseline, mode=mode(metric) or "max", confidence=study.analysis.confidence
    )


def _adjusted(
    p_values: Mapping[_Key, float | None], families: Mapping[str, str], study: ResolvedStudy
) -> dict[_Key, float | None]:
    if study.analysis.correction == "none":
        return dict(p_values)
    together: dict[_Key, list[_Key]] = {}
    for key in p_values:
        dataset, level, metric = key
        together.setdefault((dataset, families[level], metric), []).append(key)
    out: dict[_Key, float | None] = {}
    for keys in together.values():
        out |= zip(keys, holm([p_values[key] for key in keys]), strict=True)
    return out


def _numbers(found: Comparison) -> dict[str, Any]:
    means, tests = ("level_mean", "baseline_mean"), ("p_image", "p_seed", "p_wilcoxon")
    row = {name: getattr(found, name) for name in (*means, *tests, "effect_size")}
    delta = found.delta
    return {**row, "delta": delta.mean, **bounds(delta, "t_low", "t_high")}


def _reason(
    found: Comparison | None, own: End, base: End, study: ResolvedStudy, metric: str, level: str
) -> str | None:
    """Why there is no comparison, or no test."""
    if found is None:
        lacking = [
            f"missing: {name}" if end.step is None else f"no {metric}: {name}"
            for name, end in ((level, own), (study.baseline_level, base))
            if not end.seeds(metric)
        ]
        return "; ".join(lacking) or "no image and random seed that both have"
    if not found.same_seeds:
        here, there = (_listed(end.seeds(metric)) for end in (own, base))
        return f"no test: random seeds {here} here, {there} at the baseline"
    one = [("image", found.delta.images), ("seed", found.delta.seeds)]
    return "; ".join(f"no test by {name}: there is one" for name, n in one if n == 1) or None


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))


def _cautions(found: Comparison, own: End, study: ResolvedStudy) -> list[str]:
    seeds, out = found.delta.seeds, few_notes(found.delta)
    if found.p_seed is not None and smallest_p(seeds) > study.analysis.alpha:
        out.append(f"{seeds} random seeds: p by seed cannot go below {smallest_p(seeds):.2g}")
    if own.decided:
        out.append(f"decided after {seeds} of {len(study.seeds)} random seeds")
    elif own.missing:
        out.append(f"missing: random seed {_listed(own.missing)}")
    return [*out, own.early] if own.early else out
