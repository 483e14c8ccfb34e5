"""Optuna's proposals, as trials of Ray Tune."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from pydantic import ValidationError
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from coin_ray.pipeline.settings import Cell
from coin_ray.study.resolved import Dimension, ResolvedStudy
from coin_ray.study.search import active, proposal, settings_of, wanted

VALUE = "value"
"""Under this name a trial reports the objective."""
REPEATS = 200
"""A sampler that proposes so many known configurations one after the other has no more to say."""
Values = Mapping[str, Any]


class Proposals(Searcher):
    """Asks Optuna for configurations and runs each once.

    A known one is not run: its value goes back to the sampler, which is asked again. One that is
    being run is held back until its value is there. ``known``: what has been run, in its order (a
    value of None: it failed); ``run`` makes a job of settings and gives its name; ``done`` hears of
    the value. The sampler is seeded by how much is known, so that a search which goes on does not
    draw the same numbers again.
    """

    def __init__(
        self,
        study: ResolvedStudy,
        known: Sequence[tuple[Values, float | None]],
        baseline: float | None,
        run: Callable[[Values], str],
        done: Callable[[Values, float | None], None],
    ) -> None:
        super().__init__(metric=VALUE, mode=study.objective.mode)
        self._study, self._run, self._done = study, run, done
        self._known: dict[Cell | None, float | None] = {None: None}
        self._known[study.configuration(study.baseline_level)] = baseline
        self._known |= {self._config(values): value for values, value in known}
        self._running: dict[str, tuple[str, Values]] = {}
        self._held: tuple[str, Values] | None = None
        self._optuna = _optuna_search(study, [values for values, _ in known])
        for number, (_, value) in enumerate(known):  # the first proposals are these, in order
            self._ask(f"known-{number}")
            self._tell(f"known-{number}", value)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The job of a trial; None while the next one is being run; FINISHED."""
        for attempt in range(REPEATS):
            name, values = self._held or self._ask(f"{trial_id}-{attempt}")
            config = self._config(values)
            if config in self._known:
                self._held = None
                self._tell(name, self._known[config])
            elif any(self._config(other) == config for _, other in self._running.values()):
                self._held = name, values
                return None
            else:
                self._held = None
                self._running[trial_id] = name, values
                return {"job": self._run(values)}
        return Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial ended by itself, was stopped after a round (its value counts), or failed."""
        name, values = self._running.pop(trial_id)
        value = None if error or result is None else result.get(VALUE)  # none if a cell failed
        self._known[self._config(values)] = value
        self._tell(name, value)
        self._done(values, value)

    def _ask(self, name: str) -> tuple[str, Values]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to whoever wrote the space, on a slow machine
            return name, active(self._study, self._optuna.suggest(name) or {})

    def _tell(self, name: str, value: float | None) -> None:
        result = None if value is None else {VALUE: value}
        self._optuna.on_trial_complete(name, result, error=value is None)

    def _config(self, values: Values) -> Cell | None:
        """None for settings that do not go together."""
        try:
            return proposal(self._study, values)[0].config
        except ValidationError:
            return None

    def save(self, checkpoint_path: str) -> None:
        """Tune's own state is never restored: the study's file of trials is."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore, too


def _optuna_search(study: ResolvedStudy, known: Sequence[Values]) -> OptunaSearch:
    assert study.search is not None
    space = {dimension.key: dimension for dimension in study.search.space}
    base = settings_of(study.configuration(study.baseline_level))

    def define(trial: Any) -> dict[str, Any]:
        current, drawn = dict(base), {}
        for key, dimension in space.items():
            if key not in study.overrides and wanted(dimension, current):
                drawn[key] = current[key] = _draw(trial, dimension)
        return drawn

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    points = [
        {key: json.dumps(v) if space[key].kind == "any" else v for key, v in values.items()}
        for values in known
    ]
    return OptunaSearch(
        define,
        metric=VALUE,
        mode=study.objective.mode,
        sampler=_sampler(study.search.sampler, len(known)),
        points_to_evaluate=points,
    )


def _draw(trial: Any, dimension: Dimension) -> Any:
    if dimension.kind == "any":
        # As text: a choice may be a list, which Optuna does not take.
        return json.loads(
            trial.suggest_categorical(dimension.key, [json.dumps(v) for v in dimension.values])
        )
    low, high = dimension.values
    if dimension.kind == "int":
        return trial.suggest_int(dimension.key, low, high, step=dimension.step)
    return trial.suggest_float(dimension.key, low, high, log=dimension.kind == "log")


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if name == "grid":  # the one that follows conditions
            return optuna.samplers.BruteForceSampler(seed=seed)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)
