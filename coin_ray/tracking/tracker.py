"""Journal first, then MLflow: what a driver calls while a study runs, and the replay afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coin_ray import safe
from coin_ray.errors import redacted
from coin_ray.events import events
from coin_ray.events.state import StageCount, StudyState
from coin_ray.events.tracked import Description, File
from coin_ray.files import longest
from coin_ray.tracking import describe
from coin_ray.tracking.journal import Journal, plain
from coin_ray.tracking.lines import read_checked
from coin_ray.tracking.mlflow_store import tracking_uri, unreachable
from coin_ray.tracking.mlflow_writer import MlflowWriter
from coin_ray.tracking.records import STUDY
from coin_ray.tracking.replay import Replay, journal_path, reason, study_identity

PATIENCE = (5.0, 15.0, 60.0)
"""Seconds between attempts while the tracker is away; the last one repeats."""
LAST = 60.0
"""Seconds that an ended study waits for its tracker; `coin-ray track sync` does the rest."""


class Tracker:
    """Records a study. The only writer of its journal and, from a thread of its own, of its MLflow
    runs, so that a slow or absent tracker never holds the study up.

    ``study_info`` comes from :func:`coin_ray.tracking.describe.describe_study`. The constructor
    opens ``<workspace>/journal/<study>.jsonl`` and brings MLflow up to date with what an earlier,
    perhaps killed, driver left in it. ``warn`` gets one line when the tracker goes away and one
    when it is back, from the writing thread; by default they go to the log.

    ``record(event)`` takes what the ``to_json()`` of an event gives, of ``coin_ray.events.events``
    and of ``coin_ray.events.tracked`` (NumPy scalars and paths are fine); ``cell`` is a cell's key
    label. Stage events are counted, and written as one line when the cell ends.
    """

    def __init__(
        self,
        workspace: Path,
        study_info: Mapping[str, Any],
        *,
        uri: str = "",
        experiment: str = "",
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.workspace = workspace.resolve()
        self.uri = uri or tracking_uri(workspace)
        self.study = study_identity(study_info)
        self._info = study_info
        self._cells: dict[str, Mapping[str, Any]] = {}
        self.add(study_info["cells"])
        self._seen: set[str] = set()
        self._state = StudyState()
        told = warn or logging.getLogger(__name__).warning
        self._warn = lambda text: told(safe.printable(text))  # what a server says is any text
        path = journal_path(workspace, self.study)
        self._journal = Journal(longest(path))
        self._described = _descriptions(path)
        writer = MlflowWriter(workspace, self.study, uri=self.uri, experiment=experiment)
        self._replay = Replay(path, writer)
        self._news, self._closing = threading.Event(), threading.Event()
        self._writing = threading.Lock()
        self._fault: BaseException | None = None
        self._end: float | None = None
        self._warned = False
        self._describe(STUDY, describe.study_event(study_info))
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def add(self, cells: Sequence[Mapping[str, Any]]) -> None:
        """Cells (``describe_cells``) that the study has come to while it runs, or levels
        (``describe_levels``) whose values are there."""
        self._cells |= {cell["cell"]: cell for cell in cells}

    def record(self, event: Mapping[str, Any]) -> None:
        """Write an event into the journal (on disk on return); MLflow follows.

        Raises ValueError for a kind, a field or a cell that is not known, TypeError for a value
        that JSON cannot hold, OSError for a file that is not there, UserError where the journal
        cannot be written: the event is not written then.
        """
        row, label = plain(event), event.get("cell", "")
        told = _checked(row)
        if label:
            if label not in self._cells:
                raise ValueError(f"no cell {label!r} in this study: {', '.join(self._cells)}")
            row["run"] = self._cells[label]["digest"]
            if label not in self._seen and not isinstance(told, events.CellLeftOut):
                self._seen.add(label)  # a cell that is left out has no run
                cell_or_level = self._cells[label]
                tell = describe.level_event if "seeds" in cell_or_level else describe.cell_event
                self._describe(row["run"], tell(self._info, cell_or_level))
        cell = self._state.cells.get(label)
        if isinstance(told, events.CellFinished | events.CellFailed) and cell and cell.stages:
            counts = {name: _summary(count) for name, count in cell.stages.items()}
            self._journal.append({"event": "Stages", "run": row["run"], "stages": counts})
        self._state.update(told)
        if isinstance(told, events.StageStarted | events.StageFinished | events.StageReused):
            return
        if isinstance(told, File):
            row |= _file(self.workspace, Path(told.path))
        self._journal.append(row)
        self._news.set()

    def sync(self) -> bool:
        """Write everything recorded so far to MLflow; false if it is away (warned once)."""
        if self._fault is not None:
            raise self._fault
        with self._writing:
            return self._attempt()

    def close(self) -> bool:
        """Write on for at most ``LAST`` seconds, then stop; returns as ``sync``. The journal stays
        for a replay."""
        self._end = time.monotonic() + LAST
        self._closing.set()
        self._news.set()
        self._thread.join()
        self._journal.close()
        done = self.sync()
        if behind := len(self._replay.dirty) if not self._warned else 0:
            self._warn(
                f"the tracker {redacted(self.uri)} has not taken {behind} runs within {LAST:g} s; "
                "`coin-ray track sync` writes them from the journal"
            )
        return done and not behind

    def _late(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            self._news.wait()
            self._news.clear()
            if self._closing.is_set():
                return
            try:
                with self._writing:
                    done = self._attempt()
            except BaseException as error:
                self._fault = error  # a fault of ours, not the tracker's: sync and close raise it
                return
            failures = 0 if done else failures + 1
            if not done:
                self._closing.wait(PATIENCE[min(failures, len(PATIENCE)) - 1])
                self._news.set()

    def _attempt(self) -> bool:
        try:
            self._replay.run(self._late)
        except unreachable() as error:
            if not self._warned:
                self._warned = True
                self._warn(
                    f"the tracker {redacted(self.uri)} is away ({reason(error)}); the study goes "
                    "on, its journal is kept and `coin-ray track sync` writes it later"
                )
            return False
        if self._warned:
            self._warned = False
            self._warn(f"the tracker {redacted(self.uri)} is back and up to date")
        return True

    def _describe(self, run: str, event: events.Event) -> None:
        """Unless the journal has it: looking again at a thousand cells adds no thousand lines."""
        row = plain(event.to_json())
        if self._described.get(run) != events.from_json(row):
            self._described[run] = events.from_json(row)
            self._journal.append(row | ({"run": run} if run else {}))


def _summary(count: StageCount) -> dict[str, Any]:
    """One key an image: a tag holds their digest and how many they are."""
    key = "".join(sorted(count.keys))
    if len(count.keys) > 1:
        digest = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
        key = f"{digest} ({len(count.keys)} keys)"
    counts = {"computed": count.computed, "reused": count.reused}
    return {"key": key, **counts, "seconds": round(count.seconds, 3)}


def _descriptions(path: Path) -> dict[str, events.Event]:
    """The last description of each run in a journal."""
    lines = read_checked(path).good
    return {line.run: line.event for line in lines if isinstance(line.event, Description)}


def _checked(row: Mapping[str, Any]) -> events.Event:
    try:
        return events.from_json(row)
    except (KeyError, ValidationError) as error:
        kind = row.get("event", "")
        raise ValueError(f"not an event that the tracker takes: {kind!r} ({error})") from error


def _file(workspace: Path, path: Path) -> dict[str, str]:
    """Path (relative to the workspace where it lies there, so that a workspace can be moved) and
    content digest of a file to attach."""
    path = path.resolve()
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    with contextlib.suppress(ValueError):
        path = path.relative_to(workspace)
    return plain({"path": path, "digest": digest})
