"""Where a study's results lie, how its tables are printed and what its last sweep leaves there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.study.resolved import ResolvedStudy

if TYPE_CHECKING:
    from rich.console import Console

    from coin_ray.report.values.study_results import Results
    from coin_ray.study.datasets import Resolved


def runs_folder(workspace: Path, study: ResolvedStudy) -> Path:
    """The folder of the cells of a study that knows the contents of its data sets."""
    return workspace / "runs" / study.run_name


def as_known(study: ResolvedStudy, workspace: Path) -> ResolvedStudy:
    """A search with all that it has proposed so far; any other study as it is."""
    from coin_ray.cluster.trials import with_proposals

    return with_proposals(study, runs_folder(workspace, study))


def results_of(study: ResolvedStudy, runs: Path) -> Results:
    """What the finished cells of a study say; of a search, of all that it has proposed."""
    from coin_ray.cluster.trials import with_proposals
    from coin_ray.report.values.study_results import read_results

    return read_results(with_proposals(study, runs), runs)


def verdicts_in(runs: Path) -> Callable[[ResolvedStudy], dict[tuple[str, str], str | None]]:
    """What the finished cells of a part of a study say of its levels, by its first metric:
    (data set, level) -> better, worse, equal, open or None."""
    from coin_ray.report.values.collect import collect
    from coin_ray.report.values.comparisons import comparisons

    def verdicts(part: ResolvedStudy) -> dict[tuple[str, str], str | None]:
        rows = comparisons(collect(part, runs).frame, part).to_dicts()
        own = [row for row in rows if row["metric"] == part.report[0]]
        return {(row["dataset"], row["level"]): row["verdict"] for row in own}

    return verdicts


def show_tables(screen: Console, results: Results) -> None:
    """Print the result tables and the comparison with the baseline."""
    from coin_ray.report.formats.terminal import renderables

    for item in renderables(results, screen.width):
        screen.print(item)


def sweep_facts(data: Mapping[str, Resolved], device: str) -> dict[str, Any]:
    """How the numbers of a sweep come about, but for its failures; see ``keep_sweep``."""
    from coin_ray.cli.recording import command_line
    from coin_ray.tracking.environment import environment, git_commit

    commit, changed = git_commit()
    return {
        "command": command_line(),
        "git_commit": commit,
        "git_changed": changed,
        "environment": {**environment(), "device": device},
        "data": {name: _images(found) for name, found in data.items()},
    }


def _images(found: Resolved) -> dict[str, Any]:
    return {
        "digest": found.digest(),
        "train": {image.name: image.digest() for image in found.train},
        "evaluated": {sample.image.name: sample.image.digest() for sample in found.samples},
        "labelled": sum(sample.has_truth for sample in found.samples),
    }
