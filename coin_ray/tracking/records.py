"""Journal events folded into what each run in the tracker has to be.

Writing the same journal twice, or a longer one after a shorter one, folds to records that agree on
all they share: that is what makes the tracker's copy repeatable.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from coin_ray import safe
from coin_ray.events.state import State, next_state
from coin_ray.store.keys import SHORT, digest

STUDY = ""
"""Key of the study's own run among the records; the others are cell digests."""

STATUS: Mapping[State, str] = {
    "queued": "SCHEDULED",
    "running": "RUNNING",
    "interrupted": "KILLED",
    "finished": "FINISHED",
    "failed": "FAILED",
}
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
    described: Mapping[str, Any] | None = None
    """A description that came after the cell was finished: taken up if anything is recomputed."""
    start: int | None = None
    end: int | None = None

    @property
    def status(self) -> str:
        """MLflow's word for the state."""
        return STATUS[self.state]

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


def fold(records: dict[str, RunRecord], event: Mapping[str, Any]) -> set[str]:
    """Apply one journal line to ``records`` in place; returns the runs it touched.

    Kinds that say nothing about a run (notes, or kinds of a later version) touch none.
    """
    handler = _HANDLERS.get(event["event"])
    if handler is None:
        return set()
    if event["event"] == "StudyFinished":
        return _study_finished(records, event)
    run = event.get("run", STUDY)
    record = records.setdefault(run, RunRecord(run))
    handler(record, event)
    return {run}


def _described(record: RunRecord, event: Mapping[str, Any]) -> None:
    record.name = event["name"]
    if record.state == "finished" and record.run != STUDY:
        # Its results are older than this driver, and so are its commit and environment.
        names = {tag: event["tags"][tag] for tag in ("level", "cell") if tag in event["tags"]}
        record.tags.update({tag: cut(text(value), TAG_LENGTH) for tag, value in names.items()})
        record.described = event
        return
    _describe(record, event)


def _describe(record: RunRecord, event: Mapping[str, Any]) -> None:
    record.params.update({name(k): cut(text(v)) for k, v in event.get("params", {}).items()})
    _tags(record, event)
    record.texts.update(event.get("texts", {}))


def _started(record: RunRecord, event: Mapping[str, Any]) -> None:
    record.start = record.start or event["time"]
    # The study's own run is running again; a finished cell is served from the store.
    record.state = "running" if record.run == STUDY else next_state(record.state, event["event"])
    if record.state == "running":
        record.end = None
    if "cells" in event:
        _metric(record, "cells", 0, event["cells"], event["time"])


def _round(record: RunRecord, event: Mapping[str, Any]) -> None:
    for metric, value in event.get("metrics", {}).items():
        _metric(record, metric, event["round"], value, event["time"])
    _seconds(record, "round_seconds", event["round"], event)


def _finished(record: RunRecord, event: Mapping[str, Any]) -> None:
    # Final values belong to the last round, so that a curve over rounds ends in them.
    last = max((step for _, step in record.metrics), default=0)
    for metric, value in event.get("metrics", {}).items():
        _metric(record, metric, last, value, event["time"])
    _seconds(record, "cell_seconds", last, event)
    _end(record, next_state(record.state, event["event"]), event)
    for tag in ("failure", "ended_after_rounds"):
        record.tags.pop(tag, None)
    if event.get("rounds") is not None:
        record.tags["ended_after_rounds"] = str(event["rounds"])


def _failed(record: RunRecord, event: Mapping[str, Any]) -> None:
    record.tags["failure"] = cut(event["cause"], TAG_LENGTH)
    if event.get("trace"):
        record.texts["failure.txt"] = event["trace"]
    _end(record, next_state(record.state, event["event"]), event)


def _stages(record: RunRecord, event: Mapping[str, Any]) -> None:
    if record.state == "finished":
        if not any(found["computed"] for found in event["stages"].values()):
            return  # served from the store: how it came about is already told
        if record.described is not None:
            _describe(record, record.described)
    for stage, found in event["stages"].items():
        record.tags[f"stage.{stage}"] = found["key"]
    last = max((step for _, step in record.metrics), default=0)
    for metric in ("computed", "reused"):
        total = sum(found[metric] for found in event["stages"].values())
        _metric(record, f"stages_{metric}", last, total, event["time"])


def _table(record: RunRecord, event: Mapping[str, Any]) -> None:
    title = PurePosixPath(name(event["name"])).name
    columns = list(dict.fromkeys(key for row in event["rows"] for key in row))
    data = [[row.get(column) for column in columns] for row in event["rows"]]
    record.texts[f"{title}.csv"] = _csv(columns, data)
    record.texts[f"{title}.json"] = json.dumps({"columns": columns, "data": data})
    record.tables.add(f"{title}.json")


def _file(record: RunRecord, event: Mapping[str, Any]) -> None:
    target = PurePosixPath(event.get("folder", ""), PurePosixPath(event["path"]).name)
    record.files[str(target)] = {"path": event["path"], "digest": event.get("digest", "")}


def _text(record: RunRecord, event: Mapping[str, Any]) -> None:
    record.texts[event["path"]] = event["text"]


def _tags(record: RunRecord, event: Mapping[str, Any]) -> None:
    tags = event.get("tags", {})
    record.tags.update({name(k): cut(text(v), TAG_LENGTH) for k, v in tags.items()})


def _metrics(record: RunRecord, event: Mapping[str, Any]) -> None:
    for metric, value in event["metrics"].items():
        _metric(record, metric, event.get("step", 0), value, event["time"])


def _study_finished(records: dict[str, RunRecord], event: Mapping[str, Any]) -> set[str]:
    record = records.setdefault(STUDY, RunRecord(STUDY))
    for metric in ("computed", "reused", "failed", "seconds"):
        if metric in event:
            _metric(record, f"study_{metric}", 0, event[metric], event["time"])
    interrupted, failed = event.get("interrupted"), event.get("failed")
    _end(record, "interrupted" if interrupted else "failed" if failed else "finished", event)
    ended = [record, *(cell for cell in records.values() if cell.state == "running")]
    for cell in ended[1:]:
        _end(cell, next_state(cell.state, event["event"]), event)
    return {cell.run for cell in ended}


def _end(record: RunRecord, state: State, event: Mapping[str, Any]) -> None:
    if record.state != state or record.end is None:
        record.state, record.end = state, event["time"]


def _metric(record: RunRecord, metric: str, step: int, value: Any, time: int) -> None:
    key = (name(metric), int(step))
    if value is None:  # the journal's spelling of NaN and infinity, which MLflow stores as 1.8e308
        record.dropped.add(f"{key[0]} at {key[1]}")
        return
    if key not in record.metrics or record.metrics[key][0] != float(value):
        record.metrics[key] = (float(value), time)
    record.dropped.discard(f"{key[0]} at {key[1]}")


def _seconds(record: RunRecord, metric: str, step: int, event: Mapping[str, Any]) -> None:
    """Time spent. A later look at a finished cell takes no time and must not overwrite it."""
    before = record.metrics.get((metric, step), (0.0, 0))[0]
    if event.get("seconds") and event["seconds"] > before:
        _metric(record, metric, step, event["seconds"], event["time"])


def name(raw: str) -> str:
    """A key that MLflow takes: letters, digits, ``_-. /``, no empty path part, 250 at most. One
    that is changed ends in a digest, so that no two become one."""
    clean = re.sub(r"[^\w\-. /]", "_", raw)
    parts = [part for part in clean.split("/") if part.strip() not in ("", ".", "..")]
    short = "/".join(parts)[:250].rstrip("/ ")
    if short == raw and raw:
        return raw
    return f"{short[:200].rstrip('/ ') or '_'}-{digest(raw)[:SHORT]}"


def text(value: Any) -> str:
    """A setting as one readable word: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cut(value: str, length: int = PARAM_LENGTH) -> str:
    """``value``, or its beginning with an ellipsis."""
    return value if len(value) <= length else value[: length - 1] + "…"


def _csv(columns: Sequence[str], data: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = [[safe.cell(v) if isinstance(v, str) else v for v in row] for row in data]
    writer.writerows([[safe.cell(column) for column in columns], *rows])
    return out.getvalue()


_HANDLERS = {
    "StudyDescribed": _described,
    "CellDescribed": _described,
    "StudyStarted": _started,
    "CellStarted": _started,
    "RoundFinished": _round,
    "CellFinished": _finished,
    "CellFailed": _failed,
    "StudyFinished": _finished,  # never called: it touches several runs, see fold
    "Stages": _stages,
    "Metrics": _metrics,
    "Table": _table,
    "File": _file,
    "Text": _text,
    "Tags": _tags,
}
