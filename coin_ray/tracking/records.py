"""Journal events folded into what each run in the tracker has to be.

Writing the same journal twice, or a longer one after a shorter one, folds to records that agree on
all they share: that is what makes the tracker's copy repeatable.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from coin_ray import safe
from coin_ray.events import events
from coin_ray.events.state import State, next_state
from coin_ray.events.tracked import (
    Description,
    File,
    LevelMeasured,
    Metrics,
    Stages,
    Table,
    Tags,
    Text,
)
from coin_ray.identity import digest
from coin_ray.store.keys import SHORT
from coin_ray.tracking.lines import Line

STUDY = ""
"""Key of the study's own run among the records; the others are cell digests."""

STATUS: Mapping[State, str] = {
    "queued": "SCHEDULED",
    "running": "RUNNING",
    "interrupted": "KILLED",
    "finished": "FINISHED",
    "failed": "FAILED",
}
LEVEL, BEFORE = "level", "level before"
"""Tag ``kind`` of a level's run, and of one that another has taken the place of."""
PARAM_LENGTH = 500
TAG_LENGTH = 5000
"""Cut here by us, visibly: MLflow cuts silently at 6000 and 8000, older servers refuse from 500."""


@dataclass
class RunRecord:
    """One run as it should be.

    ``metrics``: (name, step) -> (value, time); ``dropped``: values that were not finite; ``texts``:
    artifact path -> text, of which ``tables`` open in MLflow's table view; ``files``: artifact path
    -> {"path", "digest"} of a local file. Times in ms since 1970.
    """

    run: str
    name: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    state: State = "queued"
    described: Description | None = None
    """A description that came after the cell was finished: taken up if anything is recomputed."""
    start: int | None = None
    end: int | None = None

    @property
    def status(self) -> str:
        """MLflow's word for the state."""
        return STATUS[self.state]

    @property
    def last(self) -> int:
        """The last step of any of its curves."""
        return max((step for _, step in self.metrics), default=0)

    def all_tags(self) -> dict[str, str]:
        """Tags, with those that follow from the rest of the record."""
        tags = dict(self.tags)
        if self.dropped:
            tags["nonfinite"] = cut(", ".join(sorted(self.dropped)), TAG_LENGTH)
        if self.tables:  # MLflow's own list of what its table view can open
            listed = [{"path": path, "type": "table"} for path in sorted(self.tables)]
            tags["mlflow.loggedArtifacts"] = json.dumps(listed)
        return tags

    def fingerprint(self) -> str:
        """Digest of everything above: equal means that there is nothing to write."""
        metrics = sorted((name, step, value) for (name, step), (value, _) in self.metrics.items())
        state = [self.name, self.params, self.all_tags(), metrics, self.texts, self.files]
        text = json.dumps([*state, self.status], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fold(records: dict[str, RunRecord], line: Line) -> set[str]:
    """Apply one journal line to ``records`` in place; returns the runs it touched.

    Kinds that say nothing about a run (notes, or kinds of a later version) touch none.
    """
    event, time = line.event, line.time
    record = records.get(line.run) or RunRecord(line.run)
    match event:
        case Description():
            _described(record, event)
        case events.StudyStarted():
            record.start, record.end, record.state = record.start or time, None, "running"
            _metric(record, "cells", 0, event.cells, time)
        case events.StudyFinished():
            return _study_finished(records, event, time)
        case (
            events.CellStarted()
            | events.RoundFinished()
            | events.CellFinished()
            | events.CellFailed()
        ):
            _cell(record, event, time)
        case Stages():
            _stages(record, event, time)
        case Metrics():
            _metrics(record, event.metrics, event.step, time)
        case LevelMeasured():
            return _level_measured(records, record, time)
        case Table():
            _table(record, event)
        case File():
            target = PurePosixPath(event.folder, PurePosixPath(event.path).name)
            record.files[str(target)] = {"path": event.path, "digest": event.digest}
        case Text():
            record.texts[event.path] = event.text
        case Tags():
            _tags(record, event.tags)
        case _:
            return set()
    records[line.run] = record
    return {line.run}


def _cell(record: RunRecord, event: events.CellEvent, time: int) -> None:
    state = next_state(record.state, type(event).__name__)
    match event:
        case events.CellStarted():
            # A finished cell that is looked at again is served from the store.
            record.start = record.start or time
            if state == "running":
                record.state, record.end = state, None
        case events.RoundFinished():
            _metrics(record, event.metrics, event.round, time)
            _seconds(record, "round_seconds", event.round, event.seconds, time)
        case events.CellFinished():
            # Final values belong to the last round, so that a curve over rounds ends in them.
            last = record.last
            _metrics(record, event.metrics, last, time)
            _seconds(record, "cell_seconds", last, event.seconds, time)
            _end(record, state, time)
            for tag in ("failure", "ended_after_rounds"):
                record.tags.pop(tag, None)
            if event.rounds is not None:
                record.tags["ended_after_rounds"] = str(event.rounds)
        case events.CellFailed():
            record.tags["failure"] = cut(event.cause, TAG_LENGTH)
            if event.trace:
                record.texts["failure.txt"] = event.trace
            _end(record, state, time)


def _described(record: RunRecord, event: Description) -> None:
    record.name = event.name
    if record.state == "finished" and record.run != STUDY:
        # Its results are older than this driver, and so are its commit and environment.
        _tags(record, {tag: event.tags[tag] for tag in ("level", "cell") if tag in event.tags})
        record.described = event
        return
    _describe(record, event)


def _describe(record: RunRecord, event: Description) -> None:
    record.params.update({name(key): cut(text(value)) for key, value in event.params.items()})
    _tags(record, event.tags)
    record.texts.update(event.texts)


def _stages(record: RunRecord, event: Stages, time: int) -> None:
    computed = sum(found.computed for found in event.stages.values())
    if record.state == "finished":
        if not computed:
            return  # served from the store: how it came about is already told
        if record.described is not None:
            _describe(record, record.described)
    record.tags.update({f"stage.{stage}": found.key for stage, found in event.stages.items()})
    reused = sum(found.reused for found in event.stages.values())
    counts = {"stages_computed": computed, "stages_reused": reused}
    _metrics(record, counts, record.last, time)


def _table(record: RunRecord, event: Table) -> None:
    title = PurePosixPath(name(event.name)).name
    columns = list(dict.fromkeys(key for row in event.rows for key in row))
    data = [[row.get(column) for column in columns] for row in event.rows]
    record.texts[f"{title}.csv"] = _csv(columns, data)
    record.texts[f"{title}.json"] = json.dumps({"columns": columns, "data": data})
    record.tables.add(f"{title}.json")


def _study_finished(
    records: dict[str, RunRecord], event: events.StudyFinished, time: int
) -> set[str]:
    record = records.setdefault(STUDY, RunRecord(STUDY))
    for metric in ("computed", "reused", "failed", "seconds"):
        _metric(record, f"study_{metric}", 0, getattr(event, metric), time)
    ended: State = "failed" if event.failed else "finished"
    _end(record, "interrupted" if event.interrupted else ended, time)
    running = [cell for cell in records.values() if cell.state == "running"]
    for cell in running:
        _end(cell, next_state(cell.state, "StudyFinished"), time)
    return {STUDY, *(cell.run for cell in running)}


def _level_measured(records: dict[str, RunRecord], record: RunRecord, time: int) -> set[str]:
    """MLflow forgets no point of a curve, so what a level comes to later is a run of its own."""
    which = [record.params.get(key) for key in ("level", "dataset")]
    before = [
        other
        for other in records.values()
        if other.tags.get("kind") == LEVEL and other.run != record.run
        if [other.params.get(key) for key in ("level", "dataset")] == which
    ]
    for other in before:
        other.tags["kind"] = BEFORE
    record.tags["kind"], record.start = LEVEL, record.start or time
    _end(record, "finished", time)
    records[record.run] = record
    return {record.run, *(other.run for other in before)}


def _end(record: RunRecord, state: State, time: int) -> None:
    if record.state != state or record.end is None:
        record.state, record.end = state, time


def _tags(record: RunRecord, tags: Mapping[str, Any]) -> None:
    record.tags.update({name(key): cut(text(value), TAG_LENGTH) for key, value in tags.items()})


def _metrics(record: RunRecord, values: Mapping[str, float], step: int, time: int) -> None:
    for metric, value in values.items():
        _metric(record, metric, step, value, time)


def _metric(record: RunRecord, metric: str, step: int, value: float, time: int) -> None:
    key = (name(metric), step)
    if not math.isfinite(value):  # MLflow would store it as 1.8e308
        record.dropped.add(f"{key[0]} at {key[1]}")
        return
    if key not in record.metrics or record.metrics[key][0] != float(value):
        record.metrics[key] = (float(value), time)
    record.dropped.discard(f"{key[0]} at {key[1]}")


def _seconds(record: RunRecord, metric: str, step: int, seconds: float, time: int) -> None:
    """Time spent. A later look at a finished cell takes no time and must not overwrite it."""
    if seconds > record.metrics.get((metric, step), (0.0, 0))[0]:
        _metric(record, metric, step, seconds, time)


def name(raw: str) -> str:
    """A key that MLflow takes: letters, digits, ``_-. /``, no empty path part, 250 at most. One
    that is changed ends in a digest, so that no two become one."""
    clean = re.sub(r"[^\w\-. /]", "_", raw)
    parts = [part for part in clean.split("/") if part.strip() not in ("", ".", "..")]
    short = "/".join(parts)[:250].rstrip("/ ")
    if short == raw and raw:
        return raw
    return f"{short[:200].rstrip('/ ') or '_'}-{digest(raw)[:SHORT]}"


_JSON = json.JSONEncoder(ensure_ascii=False).encode  # made once: a cell has two hundred settings


def text(value: Any) -> str:
    """A setting as one readable word: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else _JSON(value)


def cut(value: str, length: int = PARAM_LENGTH) -> str:
    """``value``, or its beginning with an ellipsis."""
    return value if len(value) <= length else value[: length - 1] + "…"


def _csv(columns: Sequence[str], data: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = [[safe.cell(v) if isinstance(v, str) else v for v in row] for row in data]
    writer.writerows([[safe.cell(column) for column in columns], *rows])
    return out.getvalue()
