"""What a running study leaves in the tracker: its events, and the files of each finished cell."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.pipeline.events import CellFinished, Event
from coin_ray.study.resolved import ResolvedStudy

if TYPE_CHECKING:
    from coin_ray.tracking.tracker import Tracker

MOST_PICTURES = 12
"""Overlays attached per cell; all of them lie in the workspace."""


class Recorder:
    """Hands events to a tracker; without one it does nothing."""

    def __init__(self, tracker: Tracker | None, runs: Path) -> None:
        self._tracker, self._runs = tracker, runs

    def __call__(self, event: Event) -> None:
        """Record an event; a finished cell brings its table, configuration and pictures."""
        if self._tracker is None:
            return
        self._tracker.record(event.to_json())
        if isinstance(event, CellFinished):
            self._files(self._tracker, event.cell)

    def _files(self, tracker: Tracker, cell: str) -> None:
        folder = self._runs / cell
        rows = json.loads((folder / "metrics.json").read_text())["rows"]
        if rows:
            tracker.record({"event": "Table", "cell": cell, "name": "per_image", "rows": rows})
        for picture in sorted((folder / "overlays").glob("*.png"))[:MOST_PICTURES]:
            tracker.record(
                {"event": "File", "cell": cell, "path": str(picture), "folder": "overlays"}
            )

    def summary(self, text: str, rows: list[dict[str, Any]]) -> None:
        """Attach the result table to the study's own run: as Markdown, and ``rows`` as a table."""
        if self._tracker is None:
            return
        self._tracker.record({"event": "Text", "path": "summary.md", "text": text})
        if rows:
            self._tracker.record({"event": "Table", "name": "summary", "rows": rows})


@contextmanager
def recorder(
    study: ResolvedStudy,
    data: Mapping[str, Any],
    workspace: Path,
    runs: Path,
    *,
    device: str,
    tracked: bool,
) -> Iterator[Recorder]:
    """Yield the study's recorder; what it holds is written out on leaving, also after a failure."""
    if not tracked:
        yield Recorder(None, runs)
        return
    from coin_ray.pipeline.keys import digest
    from coin_ray.tracking.describe import describe_study
    from coin_ray.tracking.tracker import Tracker

    content = digest({name: found.digest() for name, found in data.items()})
    info = describe_study(study, data_digest=content, command=command_line(), device=device)
    tracker = Tracker(workspace, info)
    try:
        yield Recorder(tracker, runs)
    finally:
        tracker.close()


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["coin-ray", *sys.argv[1:]])
