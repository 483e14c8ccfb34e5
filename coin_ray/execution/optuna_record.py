"""The trials of searches in a storage of Optuna, for its own tools: a copy, which nothing reads
back. What a search goes on from is its book of trials (``trial_log``)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from coin_ray import bucket
from coin_ray.statistics.searched import Trial, in_optuna, settings_text
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.workspace import Workspace

log = logging.getLogger(__name__)


class OptunaRecord:
    """The study of one search in the workspace's storage, under the name of its folder of runs."""

    def __init__(self, study: ResolvedStudy, workspace: Path) -> None:
        self._study, self._path = study, Workspace(workspace).optuna
        self._said = False

    def add(self, trials: Sequence[Trial]) -> None:
        """Add those trials that are not there. A storage that cannot be written stops no search:
        it is said once."""
        try:
            self._add(trials)
        except Exception as error:
            if not self._said:
                log.warning("the search goes on, but not in %s: %s", self._path, error)
            self._said = True

    def _add(self, trials: Sequence[Trial]) -> None:
        import optuna

        assert self._study.search is not None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        made = optuna.create_study(
            storage=storage(self._path),
            study_name=self._study.run_name,
            direction=f"{self._study.objective.mode}imize",
            load_if_exists=True,
        )
        there = {(t.user_attrs.get("settings"), t.state.name == "FAIL") for t in made.trials}
        new = [t for t in trials if (settings_text(t), t.value is None) not in there]
        if not new:
            return
        if not there:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                made.set_metric_names([self._study.objective.metric])
            made.set_user_attr("title", self._study.title)
            made.set_user_attr("profile", self._study.profile)
        in_optuna(self._study.search.space, new, self._study.objective.mode, made)
        bucket.send(self._path)


def storage(path: Path) -> object:
    """The file as Optuna opens it."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))
