"""A batch of jobs as one run of Ray Tune."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher

from coin_ray.cluster.callbacks import RETRIES, Following, Retold
from coin_ray.cluster.folders import storage
from coin_ray.cluster.nodes import staying
from coin_ray.cluster.trial import run_trial
from coin_ray.events.events import Event
from coin_ray.execution.executor import Batch
from coin_ray.execution.failures import Failure
from coin_ray.execution.jobs import FAILED, ROUNDS, VALUE, Halving, Job
from coin_ray.execution.proposals import Proposals
from coin_ray.study.resolved import ResolvedStudy


class SearchOfProposals(Searcher):
    """Proposals as Ray Tune asks for them."""

    def __init__(self, proposals: Proposals, mode: str) -> None:
        super().__init__(metric=VALUE, mode=mode)
        self._proposals = proposals

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The job of a trial; None while the next one is being run; FINISHED."""
        job = self._proposals.suggest(trial_id)
        if job is not None:
            return {"job": job}
        return Searcher.FINISHED if self._proposals.over else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended; one of which a cell failed has no value."""
        value = None if error or result is None else result.get(VALUE)
        self._proposals.complete(trial_id, value)

    def save(self, checkpoint_path: str) -> None:
        """Tune's own state is never restored: the study's file of trials is."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore, too


class Rungs(FIFOScheduler):
    """ASHA with rounds as rungs, among the jobs of each group; see ``Halving``."""

    def __init__(self, study: ResolvedStudy, halving: Halving) -> None:
        super().__init__()
        self._study, self._halving = study, halving
        self._groups: dict[str, ASHAScheduler] = {}

    def _job(self, trial: Any) -> Job:
        return self._halving.jobs[trial.config["job"]]

    def _asha(self, trial: Any) -> ASHAScheduler:
        group = self._job(trial).group
        if group not in self._groups:
            self._groups[group] = ASHAScheduler(
                time_attr=ROUNDS,
                metric=VALUE,
                mode=self._study.objective.mode,
                max_t=self._halving.most,
                grace_period=self._study.stopping.grace,
                reduction_factor=self._study.stopping.reduction,
            )
        return self._groups[group]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._asha(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = self._asha(trial).on_trial_result(tune_controller, trial, result)
        job, rounds = self._job(trial), int(result[ROUNDS])
        if decision != self.STOP or job.baseline or rounds >= job.rounds:
            return self.CONTINUE  # after its last round a trial ends by itself
        self._halving.stopped(job, rounds)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._asha(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._asha(trial).on_trial_remove(tune_controller, trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler for a restore that is never done


def tune_jobs(
    batch: Batch,
    rungs: Rungs | None,
    mode: str,
    *,
    hub: Any,
    folder: Path,
    at_once: Callable[[], int],
    tell: Callable[[Event], None],
    advances: Callable[[str], int],
) -> dict[str, Failure]:
    """Run the jobs of a batch, as many as ``at_once`` says now; ``mode`` is that of the objective.

    A job that fails ends no other; gives why, by job. A trial whose process or node is lost is
    tried again on another node, as long as its job ``advances``. All else of interest comes as
    events.
    """
    trainable = tune.with_parameters(run_trial, hub=hub, settings=batch.settings)
    # A driver only waits, and whatever CPU it holds its own workers lack: with a thousandth of one,
    # two workers never fit on two CPUs. Nothing at all is refused, so it asks for one byte.
    # Ray would put all of them on one node; the hint is dropped where its node is gone.
    order = {job: index for index, job in enumerate(batch.jobs)}

    def place(config: Mapping[str, str]) -> tune.PlacementGroupFactory:
        index = order.get(config["job"], crc32(config["job"].encode()))
        nodes = staying()
        node = nodes[index % len(nodes)]["NodeID"] if nodes else None
        return tune.PlacementGroupFactory(
            [{"memory": 1}], strategy="STRICT_PACK", _soft_target_node_id=node
        )

    trainable = tune.with_resources(trainable, place)
    search, number, retold = batch.search, at_once(), Retold(tell, advances)
    limited: Any = BasicVariantGenerator(max_concurrent=number)
    if search:
        limited = ConcurrencyLimiter(SearchOfProposals(search, mode), number)
    tuner = tune.Tuner(
        trainable,
        param_space={} if search else {"job": tune.grid_search(list(batch.jobs))},
        tune_config=tune.TuneConfig(
            search_alg=limited,
            scheduler=rungs,
            num_samples=batch.trials if search else 1,
            # A fresh process takes seconds, and what one leaves behind no other reads.
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{batch.settings.study}-{time.time_ns()}",
            **storage(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[retold, Following(limited, at_once)],
        ),
    )
    results = tuner.fit()
    # By our own name: a trial's id and its place say nothing.
    ended = {r.config["job"]: (r.metrics or {}).get(FAILED) for r in results if r.config}
    failures = {job: Failure(why, "") for job, why in ended.items() if why}
    return failures | retold.given_up
