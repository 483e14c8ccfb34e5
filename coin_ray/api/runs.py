"""Plan a study, run it, and read what an earlier run left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coin_ray.api.notebook import progress_bar
from coin_ray.api.results import Results
from coin_ray.api.studies import PathLike, Study, default_workspace, load_study
from coin_ray.errors import UserError
from coin_ray.events.events import Event, Note, StudyStarted
from coin_ray.execution.budget import StudyPlan, plan_study
from coin_ray.execution.driving import driving
from coin_ray.execution.executor import Executor
from coin_ray.execution.local import Local
from coin_ray.execution.refusals import Target, refuse_missing, target
from coin_ray.execution.tally import unfailing
from coin_ray.execution.trial_log import runs_folder, with_proposals
from coin_ray.files import seen
from coin_ray.study.resolved import Budget

if TYPE_CHECKING:
    from coin_ray.data.dataset import DataSet

Listen = Callable[[Event], None]


def plan(study: Study | PathLike, executor: Executor | None = None) -> StudyPlan:
    """Say what a study would run and cost, before anything runs: its stages, shared and stored,
    and, as far as they were timed before, hours and bytes. ``study`` as it was loaded, or its path
    or name.

    >>> import coin_ray
    >>> study = coin_ray.load_study("baseline", set={"rounds.count": 1}, workspace=folder)
    >>> coin_ray.plan(study).to_compute["round"]  # of two random seeds
    2

    Raises:
        UserError: all that ``run`` would refuse, but for the budget
            (``StudyPlan.refuse_over_budget``).
    """
    study = _loaded(study)
    return plan_study(study.resolved, study.data, study.workspace, chosen(executor))


def chosen(executor: Executor | None) -> Executor:
    """Where a study is to run: this process unless it is said. UserError for what is no place."""
    if executor is not None and not hasattr(executor, "runner"):
        raise UserError(
            "no executor",
            expected="coin_ray.Local() or coin_ray.Cluster(...)",
            found=repr(executor)[:100],
        )
    return executor or Local()


def _loaded(study: Study | PathLike, workspace: PathLike | None = None) -> Study:
    return study if isinstance(study, Study) else load_study(study, workspace=workspace)


def run(
    study: Study | PathLike,
    workspace: PathLike | None = None,
    executor: Executor | None = None,
    on_event: Listen | None = None,
    *,
    tracking: bool = True,
) -> Results:
    """Run a study, as it was loaded or by its path or name: compute what is missing, write its
    report, give its results.

    There is no resume: the same call, or one with the study changed, continues. ``workspace``: by
    default the one that the study was loaded for. ``executor``: ``Local()``, this process, by
    default; ``Cluster(address=…)`` for Ray. ``on_event`` hears all that happens, as
    ``coin_ray.events`` says it; without it a notebook shows a progress bar, and a script nothing.
    An error of its own stops nothing and is logged as a warning; KeyboardInterrupt ends the run.
    ``tracking``: keep the run in MLflow, too. Cells that fail are in ``Results.failed`` and stop no
    other.

    >>> import coin_ray
    >>> study = coin_ray.load_study("first.yaml", workspace=folder)
    >>> results = coin_ray.run(study, executor=coin_ray.Local(), tracking=False)
    >>> results.failed
    {}
    >>> results.table("aji")["level"].to_list()
    ['none', 'mae']

    Raises:
        UserError: before anything starts, if images, weights, labels, a GPU or the cluster are
            missing, or if the study would exceed its budget.
    """
    study = _loaded(study, workspace)
    if workspace is not None:
        study = replace(study, workspace=default_workspace(workspace))
    command = f"coin_ray.run({study.resolved.name!r})"
    with progress_bar(on_event) as listen:
        return run_and_report(
            study, chosen(executor), unfailing(listen), tracking=tracking, command=command
        )


def run_and_report(
    study: Study, executor: Executor, listen: Listen, *, tracking: bool, command: str
) -> Results:
    """``run``, for whoever shows events in a way of their own; ``command`` is kept with the
    results as what they were made by."""
    from coin_ray.api.recording import recorder
    from coin_ray.execution import study_run
    from coin_ray.report.values.result_tables import summary
    from coin_ray.report.values.study_results import keep_sweep, read_results
    from coin_ray.report.write import write_report
    from coin_ray.study.datasets import check_images

    resolved, data, workspace = study.resolved, study.data, study.workspace
    check_images(data)
    where = _admitted(study, executor, listen)
    runs = runs_folder(resolved, workspace)
    facts = _facts(data, where.device, command)
    refuse_missing(resolved, data, workspace)
    kept = command if tracking else None
    with (
        driving(resolved, runs, listen),
        recorder(resolved, workspace, runs, device=where.device, command=kept) as record,
    ):

        def hear(event: Event) -> None:
            if isinstance(event, StudyStarted):  # what is refused leaves nothing behind
                keep_sweep(runs, facts)
            listen(event)
            record(event)

        outcome = study_run.run_study(
            resolved,
            data,
            workspace=workspace,
            listen=hear,
            executor=executor,
            device=where.device,
            workers=where.workers,
            edited=record.turn,
        )
        resolved = outcome.study
        keep_sweep(runs, {**facts, "missing": {**outcome.left_out, **outcome.failed}})
        values = read_results(with_proposals(resolved, runs), runs, data)
        files = write_report(values, runs / "report", overwrite=True)
        record.report(files, summary(values.tables).to_dicts())
        record.comparisons(values.compared.to_dicts())
        record.levels(values)
    return Results(values, workspace, outcome)


def results(workspace: PathLike | None, study: Study | PathLike) -> Results:
    """What the finished cells of a study left in a workspace; nothing is computed. ``workspace``:
    by default the one that the study was loaded for.

    ``study`` as it was loaded when it ran, or its path or name if it ran without options. Cells
    that have not finished, or whose settings have changed since, are missing and named.

    >>> import coin_ray
    >>> coin_ray.results(folder, "first.yaml").per_image().height > 0
    True

    Raises:
        UserError: the study has not run with these options in this workspace, or none of its cells
            has finished.
    """
    from coin_ray.report.values.study_results import read_results

    study = _loaded(study, workspace)
    place = study.workspace if workspace is None else default_workspace(workspace)
    runs = runs_folder(study.resolved, place)
    ran = seen(runs / "sweep.json")
    values = read_results(with_proposals(study.resolved, runs), runs, study.data)
    if not any(runs.glob("*/metrics.json")):
        raise UserError(
            "no cell of this study has finished"
            if ran
            else "this study has not run with these options",
            where=str(runs),
            do="run `coin-ray sweep` with the same options, or name its --workspace",
        )
    return Results(values, place)


def _admitted(study: Study, executor: Executor, listen: Listen) -> Target:
    """Where a study is to run. UserError if it cannot, or if what it lacks is estimated to exceed
    its budget."""
    if study.resolved.budget == Budget():
        return target(study.resolved, executor)
    planned = plan_study(study.resolved, study.data, study.workspace, executor, ahead=False)
    planned.refuse_over_budget()
    if planned.cost.untimed:
        listen(Note("note: the budget was checked only for what was timed here before"))
    return planned.where


def _facts(data: Mapping[str, DataSet], device: str, command: str) -> dict[str, Any]:
    """How the numbers of a run come about, but for its failures; see ``keep_sweep``."""
    from coin_ray.tracking.environment import environment, git_commit

    commit, changed = git_commit()
    return {
        "command": command,
        "git_commit": commit,
        "git_changed": changed,
        "environment": {**environment(), "device": device},
        "data": {name: _images(images) for name, images in data.items()},
    }


def _images(images: DataSet) -> dict[str, Any]:
    return {
        "digest": images.digest(),
        "train": {image.name: image.digest() for image in images.train},
        "evaluated": {sample.image.name: sample.image.digest() for sample in images.samples},
        "labelled": sum(sample.has_truth for sample in images.samples),
    }
