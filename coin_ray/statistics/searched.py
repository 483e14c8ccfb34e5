"""What the trials of a search say of its settings: importances, interactions, the best so far."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coin_ray.study.resolved import Dimension

if TYPE_CHECKING:
    import optuna

Mode = Literal["max", "min"]
FEWEST = 8
"""Trials below which nothing is said of the settings."""


@dataclass(frozen=True)
class Trial:
    """``settings``: dotted key -> value, only those that were asked for; ``value``: of the
    objective, None where it failed."""

    settings: Mapping[str, Any]
    value: float | None


@dataclass(frozen=True)
class Importance:
    """Shares of all settings, summing to 1. ``ped_anova``: how far the best tenth of the trials
    lies from all in this setting alone (Watanabe et al. 2023, arXiv 2304.10255); ``fanova``: share
    of the variance over the whole space that it explains alone (Hutter et al. 2014), None for a
    setting that not every trial was asked for."""

    key: str
    ped_anova: float
    fanova: float | None


def importances(
    space: Sequence[Dimension], trials: Sequence[Trial], mode: Mode
) -> list[Importance]:
    """Of each setting that took two values, the largest PED-ANOVA first; by Optuna's evaluators.
    Empty for fewer than ``FEWEST`` trials, or where the objective never changed."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import (
        FanovaImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )

    done = _finished(trials)
    keys = _varied(space, done)
    if len(done) < FEWEST or len({t.value for t in done}) < 2 or not keys:
        return []
    always = [key for key in keys if all(key in trial.settings for trial in done)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = in_optuna(space, done, mode)
        near = {
            key: value
            for key in keys
            for value in [_share(study, PedAnovaImportanceEvaluator(), key)]
        }
        forest = FanovaImportanceEvaluator(seed=0)
        whole = get_param_importances(study, evaluator=forest, params=always) if always else {}
    total = sum(near.values())
    out = [
        Importance(
            key,
            near[key] / total if total else 0.0,
            float(whole[key]) if key in whole else None,
        )
        for key in keys
    ]
    return sorted(out, key=lambda one: -one.ped_anova)


def _share(study: optuna.Study, evaluator: Any, key: str) -> float:
    """Of a setting alone, among the trials that were asked for it; not normalised."""
    from optuna.importance import get_param_importances

    found = get_param_importances(study, evaluator=evaluator, params=[key], normalize=False)
    return max(0.0, float(found[key]))


def in_optuna(
    space: Sequence[Dimension], trials: Sequence[Trial], mode: Mode, study: Any = None
) -> optuna.Study:
    """The trials as a study of Optuna, by default a new one in memory. A choice is text there: it
    may be a list, which Optuna does not take."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = study if study is not None else optuna.create_study(direction=f"{mode}imize")
    known = {dimension.key: dimension for dimension in space}
    for trial in trials:
        own = {key: known[key] for key in trial.settings if key in known}
        failed = trial.value is None or math.isnan(trial.value)
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
        made.add_trial(
            optuna.trial.create_trial(
                state=state,
                params={key: _given(d, trial.settings[key]) for key, d in own.items()},
                distributions={key: _distribution(d) for key, d in own.items()},
                value=None if failed else trial.value,
                user_attrs={"settings": settings_text(trial)},
            )
        )
    return made


def settings_text(trial: Trial) -> str:
    """What tells trials apart."""
    return json.dumps(dict(trial.settings), sort_keys=True)


def _given(dimension: Dimension, value: Any) -> Any:
    return json.dumps(value) if dimension.kind == "any" else value


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions

    if dimension.kind == "any":
        return distributions.CategoricalDistribution([json.dumps(v) for v in dimension.values])
    low, high = dimension.values
    if dimension.kind == "int":
        return distributions.IntDistribution(low, high, step=dimension.step)
    return distributions.FloatDistribution(low, high, log=dimension.kind == "log")


@dataclass(frozen=True)
class Interaction:
    """How much more of the objective's variance two settings explain together than each adds by
    itself: ``share`` of the whole, ``p`` of the F test that it is nothing, ``trials`` that have
    both."""

    first: str
    second: str
    share: float
    p: float
    trials: int


def interactions(space: Sequence[Dimension], trials: Sequence[Trial]) -> list[Interaction]:
    """Of each pair of settings that enough trials have, the largest share first.

    A least-squares fit of the objective: a setting as a square (in the logarithm for ``log``), a
    choice as a level each; with and without the products of both.
    """
    from scipy.stats import f as f_distribution

    done, known, out = _finished(trials), {d.key: d for d in space}, []
    for first, second in itertools.combinations(_varied(space, done), 2):
        own = [t for t in done if first in t.settings and second in t.settings]
        if len(own) < FEWEST:
            continue
        y = np.array([t.value for t in own], dtype=np.float64)
        one, two = (_terms(known[k], [t.settings[k] for t in own]) for k in (first, second))
        alone = np.column_stack([np.ones(len(own)), one, two])
        both = np.column_stack([alone, *(a[:, None] * two for a in one.T)])
        (left, rank), (rest, full) = _residual(alone, y), _residual(both, y)
        total = float(((y - y.mean()) ** 2).sum())
        free = len(own) - full
        if full == rank or free < 2 or total == 0:
            continue
        ratio = (left - rest) / (full - rank) / max(rest / free, 1e-300)
        p = float(f_distribution.sf(ratio, full - rank, free))
        out.append(Interaction(first, second, max(0.0, (left - rest) / total), p, len(own)))
    return sorted(out, key=lambda found: -found.share)


def _terms(dimension: Dimension, values: Sequence[Any]) -> NDArray[np.float64]:
    if dimension.kind == "any":
        words = [json.dumps(v) for v in values]
        levels = list(dict.fromkeys(words))[1:]
        return np.array([[float(word == level) for level in levels] for word in words])
    x = np.array(values, dtype=np.float64)
    x = np.log(x) if dimension.kind == "log" else x
    spread = x.std()
    x = (x - x.mean()) / (spread if spread > 0 else 1.0)
    return np.column_stack([x, x**2])


def _residual(design: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, int]:
    """Sum of squares that a fit leaves, and its rank."""
    found, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ found) ** 2).sum()), int(rank)


def _finished(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t.value is not None and not math.isnan(t.value)]


def _varied(space: Sequence[Dimension], trials: Sequence[Trial]) -> list[str]:
    taken = {
        d.key: {json.dumps(t.settings[d.key]) for t in trials if d.key in t.settings} for d in space
    }
    return [key for key, values in taken.items() if len(values) > 1]


@dataclass(frozen=True)
class Best:
    """The best trial among the first so many: its mean over random seeds, Student's interval over
    them (None for one seed)."""

    value: float
    low: float | None
    high: float | None


def best_so_far(values: ArrayLike, mode: Mode, confidence: float) -> Iterator[Best]:
    """After 1, 2, … trials; ``values`` (trials, random seeds), NaN where there is none. A trial
    that lacks one changes nothing: a lucky seed is not compared with the mean of several."""
    from scipy.special import stdtrit

    sign, best = (1 if mode == "max" else -1), None
    for own in np.asarray(values, dtype=np.float64):
        if not np.isnan(own).any() and (best is None or sign * own.mean() > sign * best.value):
            mean, half = float(own.mean()), None
            if len(own) > 1:
                spread = own.std(ddof=1) / math.sqrt(len(own))
                half = float(stdtrit(len(own) - 1, (1 + confidence) / 2) * spread)
            best = Best(
                mean, None if half is None else mean - half, None if half is None else mean + half
            )
        if best is not None:
            yield best
        else:
            yield Best(math.nan, None, None)
