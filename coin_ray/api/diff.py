"""Two cells, two levels or two studies, compared from what they left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.api.studies import PathLike, Study, load_study
from coin_ray.execution.trial_log import runs_folder, with_proposals

if TYPE_CHECKING:
    from coin_ray.report.values.differences import Difference
    from coin_ray.report.values.study_results import Results


def diff(a: Study | PathLike, b: Study | PathLike) -> Difference:
    """Two studies, as they were loaded when they ran or by their paths or names, level by level;
    nothing is computed."""
    from coin_ray.report.values.differences import of_studies

    studies = [one if isinstance(one, Study) else load_study(one) for one in (a, b)]
    first, second = studies
    names = (first.resolved.name, second.resolved.name)
    if names[0] == names[1]:
        names = (f"{names[0]} (A)", f"{names[1]} (B)")
    return of_studies(_read(first), _read(second), names)


def diff_within(study: Study | PathLike, a: str, b: str) -> Difference:
    """Two levels of a study, or two of its cells.

    Raises:
        UserError: a name that is neither.
    """
    from coin_ray.report.values.differences import of_study

    study = study if isinstance(study, Study) else load_study(study)
    return of_study(_read(study), a, b)


def diff_folder(study: Study, found: Difference) -> Path:
    """Where the page goes: beside the cells of the study, by the names of the two."""
    from coin_ray.study.names import study_name

    runs = runs_folder(study.resolved, study.workspace)
    labels = [[c.key_label for c in side.cells] for side in (found.a, found.b)]
    return runs / "diffs" / study_name((found.a.name, found.b.name), labels)


def _read(study: Study) -> Results:
    """What has finished; where nothing has, settings and keys can be compared all the same."""
    from coin_ray.report.values.study_results import read_results

    runs = runs_folder(study.resolved, study.workspace)
    return read_results(with_proposals(study.resolved, runs), runs, study.data)
