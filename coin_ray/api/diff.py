"""Two cells, two levels or two studies, compared from what they left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.api.studies import PathLike, Study, load_study
from coin_ray.execution.trial_log import runs_folder, with_proposals

if TYPE_CHECKING:
    from coin_ray.report.values.differences import Difference
    from coin_ray.report.values.study_results import Results


def diff(
    a: Study | PathLike, b: Study | PathLike, levels: tuple[str, str] | None = None
) -> Difference:
    """Two studies, as they were loaded when they ran or by their paths or names, level by level; or
    one of the ``levels`` (or cells) of each, which may be the same study. Nothing is computed.

    Raises:
        UserError: no such level or cell, or no data set that both have.
    """
    from coin_ray.report.values.differences import of_levels, of_studies

    first, second = (one if isinstance(one, Study) else load_study(one) for one in (a, b))
    ours = _read(first)
    theirs = ours if second is first else _read(second)
    if levels is None:
        return of_studies(ours, theirs)
    return of_levels(ours, theirs, levels)


def diff_folder(study: Study, found: Difference) -> Path:
    """Where the page goes: beside the cells of the study, by the names of the two."""
    from coin_ray.study.names import study_name

    runs = runs_folder(study.resolved, study.workspace)
    names = (found.a.name, found.b.name)
    labels = [[c.key_label for c in side.cells] for side in (found.a, found.b)]
    return runs / "diffs" / study_name(names, [names, labels])


def _read(study: Study) -> Results:
    """What has finished; where nothing has, settings and keys can be compared all the same."""
    from coin_ray.report.values.study_results import read_results

    runs = runs_folder(study.resolved, study.workspace)
    return read_results(with_proposals(study.resolved, runs), runs, study.data)
