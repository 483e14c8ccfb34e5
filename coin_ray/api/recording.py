"""What a running study leaves in the tracker: its events, and the files of each finished cell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.events.events import (
    CellFinished,
    CellsProposed,
    Event,
    RoundProgress,
    StudyFinished,
)
from coin_ray.events.tracked import File, LevelMeasured, Metrics, Table, Tags
from coin_ray.files import pull, read_object, seen
from coin_ray.study.names import safe_names
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.search import proposal

if TYPE_CHECKING:
    from coin_ray.report.values.study_results import Results
    from coin_ray.tracking.tracker import Tracker

MOST_PICTURES = 12
"""Overlays attached per cell; all of them lie in the workspace."""
COMPARED = {
    "delta": "delta",
    "low": "delta_low",
    "high": "delta_high",
    "p_image_adjusted": "p_image_adjusted",
    "p_seed_adjusted": "p_seed_adjusted",
}
"""Column of a comparison that is also a value of the study's run -> what its name ends in."""


class Recorder:
    """Hands events to a tracker; without one it does nothing. ``ended``: the last event was the
    end of the study."""

    def __init__(self, tracker: Tracker | None, study: ResolvedStudy, runs: Path) -> None:
        self._tracker, self._study, self._runs = tracker, study, runs
        self.ended = False

    def __call__(self, event: Event) -> None:
        """Record an event; a finished cell brings its table, configuration and pictures."""
        if self._tracker is None or isinstance(event, RoundProgress):
            return  # a sign of life, of which there are thousands
        self.ended = isinstance(event, StudyFinished)
        if isinstance(event, CellsProposed):
            from coin_ray.tracking.describe import describe_cells

            self._tracker.add(describe_cells(proposal(self._study, event.settings, repeated=True)))
        self._record(event)
        if isinstance(event, CellFinished):
            self._files(event.cell)

    def turn(self, study: ResolvedStudy) -> None:
        """The study has been edited."""
        self._study = study
        if self._tracker is not None:
            from coin_ray.tracking.describe import describe_cells

            self._tracker.add(describe_cells(study.cells))

    def _files(self, cell: str) -> None:
        from coin_ray.report.values.spreads import cell_rounds

        folder = self._runs / cell
        metrics = folder / "metrics.json"
        found = read_object(metrics) if seen(metrics) else None
        if found is None:
            return  # nothing but its coarse model was asked for
        rows = found["rows"]
        if rows:
            self._record(Table("per_image", rows, cell))
        for round_, means in cell_rounds(rows, self._study.report).items():
            self.metrics(cell, round_, means)
        pull(folder / "overlays")
        for picture in sorted((folder / "overlays").glob("*.png"))[:MOST_PICTURES]:
            self._record(File(str(picture), "overlays", cell=cell))

    def metrics(self, cell: str, step: int, values: Mapping[str, float]) -> None:
        """Values of a cell's run at a step."""
        self._record(Metrics(dict(values), step, cell))

    def report(self, files: Sequence[Path], rows: list[dict[str, Any]]) -> None:
        """Attach the files of a report to the study's own run, the page first, and ``rows`` as a
        table."""
        for path in files:
            folder = Path("report", path.relative_to(files[0].parent)).parent
            self._record(File(str(path), str(folder)))
        if rows:
            self._record(Table("summary", rows))

    def comparisons(self, rows: list[dict[str, Any]]) -> None:
        """Attach the comparison with the baseline (``report.values.comparisons``) to the study's
        own run: ``rows`` as a table, and the columns ``COMPARED`` as values
        ``<data set>/<level>/<metric>_delta`` and so on; tags of the run give in full what a name
        says shortened. One that does not exist is in the table only, where a reason stands beside
        it."""
        if not rows:
            return
        data = safe_names(spec.name for spec in self._study.data)
        levels = safe_names([*self._study.levels, *(row["level"] for row in rows)])
        full = {f"name.{name}": text for text, name in (data | levels).items() if name != text}
        values = {
            f"{data[row['dataset']]}/{levels[row['level']]}/{row['metric']}_{end}": row[column]
            for row in rows
            for column, end in COMPARED.items()
            if row[column] is not None
        }
        self._record(Table("comparisons", rows))
        self._record(Metrics(values))
        if full:
            self._record(Tags(full))

    def levels(self, results: Results) -> None:
        """A run a level and data set beside those of its cells: by round ``<metric>_mean``,
        ``_low`` and ``_high`` of the metrics of the study's table."""
        if self._tracker is None:
            return
        from coin_ray.report.values.spreads import seeds_of, spreads
        from coin_ray.tracking.describe import describe_levels

        points: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in spreads(results):
            points.setdefault((row["dataset"], row["level"]), []).append(row)
        told = describe_levels(results.study, points, seeds_of(results))
        self._tracker.add(list(told.values()))
        for which, level in told.items():
            by_round: dict[int, dict[str, float]] = {}
            for row in points[which]:
                ends = {f"{row['metric']}_{end}": row[end] for end in ("mean", "low", "high")}
                known = {name: value for name, value in ends.items() if value is not None}
                by_round.setdefault(row["round"], {}).update(known)
            for round_, values in by_round.items():
                self.metrics(level["cell"], round_, values)
            self._record(LevelMeasured(level["cell"]))

    def _record(self, event: Event) -> None:
        if self._tracker is not None:
            self._tracker.record(event.to_json())


@contextmanager
def recorder(
    study: ResolvedStudy,
    workspace: Path,
    runs: Path,
    *,
    device: str,
    command: str | None,
) -> Iterator[Recorder]:
    """Yield the study's recorder; what it holds is written out on leaving, also after a failure.
    ``command`` started the run; without one nothing is recorded."""
    if command is None:
        yield Recorder(None, study, runs)
        return
    from coin_ray.execution.trial_log import with_proposals
    from coin_ray.tracking.describe import describe_study
    from coin_ray.tracking.tracker import Tracker

    study = with_proposals(study, runs)
    info = describe_study(
        study, data_digest=study.data_digest, command=command, device=device, runs=runs.name
    )
    tracker = Tracker(workspace, info)
    record, begun = Recorder(tracker, study, runs), time.perf_counter()
    try:
        yield record
    except BaseException as error:
        if not record.ended:  # it did not even start
            interrupted = isinstance(error, KeyboardInterrupt)
            failed, seconds = len(study.cells), time.perf_counter() - begun
            record(StudyFinished(study.name, 0, 0, failed, seconds, interrupted))
        raise
    finally:
        tracker.close()
