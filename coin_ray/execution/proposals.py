"""Optuna's proposals, each configuration once."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from coin_ray.pipeline.settings import Cell
from coin_ray.study.resolved import Dimension, ResolvedStudy
from coin_ray.study.search import active, proposal, settings_of, wanted

if TYPE_CHECKING:
    import optuna

REPEATS = 200
"""A sampler that proposes so many known configurations one after the other has no more to say."""
Values = Mapping[str, Any]


class Proposals:
    """Asks Optuna for configurations and has each run once.

    A known one is not run: its value goes back to the sampler, which is asked again. One that is
    being run is held back until its value is there. ``known``: what has been run, in its order (a
    value of None: it failed); ``run`` makes a job of settings and gives its name; ``done`` hears of
    the value. The sampler is seeded by how much is known, so that a search which goes on does not
    draw the same numbers again. ``over``: it has no more to say.
    """

    def __init__(
        self,
        study: ResolvedStudy,
        known: Sequence[tuple[Values, float | None]],
        baseline: float | None,
        run: Callable[[Values], str],
        done: Callable[[Values, float | None], None],
    ) -> None:
        self._study, self._run, self._done = study, run, done
        self._known: dict[Cell | None, float | None] = {None: None}
        self._known[study.configuration(study.baseline_level)] = baseline
        self._known |= {self._config(values): value for values, value in known}
        self._running: dict[str, tuple[optuna.Trial, Values]] = {}
        self._held: tuple[optuna.Trial, Values] | None = None
        self._define = _space(study)
        self._optuna = _optuna_study(study, [values for values, _ in known])
        for _, value in known:  # the first proposals are these, in order
            self._tell(self._ask()[0], value)
        self.over = False
        self._stopped = False

    def stop(self) -> None:
        """Propose nothing any more. From any thread."""
        self._stopped = True

    def suggest(self, trial: str) -> str | None:
        """The job of a trial; None while the next one is being run, or when it is ``over``."""
        for _ in range(0 if self._stopped else REPEATS):
            asked, values = self._held or self._ask()
            config = self._config(values)
            if config in self._known:
                self._held = None
                self._tell(asked, self._known[config])
            elif any(self._config(other) == config for _, other in self._running.values()):
                self._held = asked, values
                return None
            else:
                self._held = None
                self._running[trial] = asked, values
                return self._run(values)
        self.over = True
        return None

    def complete(self, trial: str, value: float | None) -> None:
        """A trial ended by itself, was stopped after a round (its value counts), or failed."""
        asked, values = self._running.pop(trial)
        self._known[self._config(values)] = value
        self._tell(asked, value)
        self._done(values, value)

    def _ask(self) -> tuple[optuna.Trial, Values]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to whoever wrote the space, on a slow machine
            trial = self._optuna.ask()
            return trial, active(self._study, self._define(trial))

    def _tell(self, trial: optuna.Trial, value: float | None) -> None:
        from optuna.trial import TrialState

        if value is None or math.isnan(value):
            self._optuna.tell(trial, state=TrialState.FAIL)
        else:
            self._optuna.tell(trial, value)

    def _config(self, values: Values) -> Cell | None:
        """None for settings that do not go together."""
        try:
            return proposal(self._study, values)[0].config
        except ValidationError:
            return None


def _space(study: ResolvedStudy) -> Callable[[Any], dict[str, Any]]:
    assert study.search is not None
    space = {dimension.key: dimension for dimension in study.search.space}
    base = settings_of(study.configuration(study.baseline_level))

    def define(trial: Any) -> dict[str, Any]:
        current, drawn = dict(base), {}
        for key, dimension in space.items():
            if key not in study.overrides and wanted(dimension, current):
                drawn[key] = current[key] = _draw(trial, dimension)
        return drawn

    return define


def _optuna_study(study: ResolvedStudy, known: Sequence[Values]) -> optuna.Study:
    import optuna

    assert study.search is not None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(
        sampler=_sampler(study.search.sampler, len(known)),
        direction=f"{study.objective.mode}imize",
    )
    listed = {d.key for d in study.search.space if d.kind == "any"}
    for values in known:
        made.enqueue_trial({k: json.dumps(v) if k in listed else v for k, v in values.items()})
    return made


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
    import optuna

    class EveryOne(optuna.samplers.BruteForceSampler):
        """A grid that follows conditions."""

        def after_trial(self, *ended: Any) -> None:
            """Optuna would stop a loop that is not its own here, which is an error."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if name == "grid":
            return EveryOne(seed=seed)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)
