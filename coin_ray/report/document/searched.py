"""What a search says of its settings, in tables."""

from __future__ import annotations

from coin_ray.report.document.blocks import Section, Table, Value
from coin_ray.report.document.numbers import DASH, p_value
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.trials import trials_of
from coin_ray.statistics.searched import FEWEST, importances, interactions

MOST = 10
"""Interactions listed."""


def search_section(results: Results) -> Section | None:
    """Importances and interactions of the settings, of all data sets together; None for what is no
    search."""
    study = results.study
    if study.search is None:
        return None
    goal, trials = study.objective, list(trials_of(results).trials.values())
    done = sum(trial.value is not None for trial in trials)
    ranked = importances(study.search.space, trials, goal.mode)
    if not ranked:
        said = (
            f"Too early to say which settings matter: {done} finished trials of {FEWEST} at least"
        )
        said += ", that differ in their objective."
        return Section("The search explained", (said,))
    first = tuple(
        (
            Value(one.key),
            Value(f"{one.ped_anova:.0%}"),
            Value(DASH if one.fanova is None else f"{one.fanova:.0%}"),
        )
        for one in ranked
    )
    tables = [
        Table(
            f"Importance of settings for {goal.metric}, {done} trials",
            ("setting", "PED-ANOVA", "fANOVA"),
            first,
            notes=(
                "PED-ANOVA: what the best tenth of the trials have in common. fANOVA: share of the "
                "variance over the whole space; a dash: not every trial was asked for it.",
            ),
        )
    ]
    found = interactions(study.search.space, trials)[:MOST]
    if found:
        second = tuple(
            (
                Value(one.first),
                Value(one.second),
                Value(f"{one.share:.0%}"),
                Value(p_value(one.p)),
                Value(str(one.trials)),
            )
            for one in found
        )
        tables.append(
            Table(
                f"Interactions of two settings in {goal.metric}",
                ("setting", "with", "share of the variance", "p", "trials"),
                second,
                2,
                notes=(
                    "Share: what products of the two explain beyond a square of each; p: F test of "
                    "one pair, not corrected for their number.",
                ),
            )
        )
    return Section("The search explained", tuple(tables))
