"""From a journal into MLflow: the same for a live study, a finished one and one that was killed."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coin_ray.errors import UserError, redacted
from coin_ray.identity import digest
from coin_ray.store.keys import SHORT
from coin_ray.tracking.backlog import write_backlog
from coin_ray.tracking.journal import journals
from coin_ray.tracking.lines import read_checked
from coin_ray.tracking.mlflow_store import is_server, unreachable
from coin_ray.tracking.mlflow_writer import MlflowWriter
from coin_ray.tracking.records import STUDY, RunRecord, fold
from coin_ray.workspace import Workspace

Late = Callable[[], bool]
AT_ONCE = 200
"""Lines of a journal in memory: one may be a table of many images."""


@dataclass
class Replay:
    """Reads on in a journal, and writes the runs that changed."""

    path: Path
    writer: MlflowWriter
    records: dict[str, RunRecord] = field(default_factory=dict)
    offset: int = 0
    number: int = 0
    dirty: set[str] = field(default_factory=set)
    bad: list[str] = field(default_factory=list)
    """Lines that were passed over, and why."""

    def run(self, late: Late = lambda: False) -> int:
        """How many runs were written until it was ``late``, or all. After one of ``unreachable()``
        the rest stays to do."""
        self.read()
        return self.write(late)

    def read(self) -> None:
        """Take in what the journal has since the last time. OSError if it cannot be read."""
        met = False
        while True:
            lines = read_checked(self.path, self.offset, self.number, most=AT_ONCE)
            if lines.offset == self.offset:
                break
            self.offset, self.number = lines.offset, lines.number
            self.bad += lines.bad
            met = met or bool(lines.good)
            for line in lines.good:
                self.dirty |= fold(self.records, line)
        if met:  # the parent must exist even if a crash took the line that describes it
            self.records.setdefault(STUDY, RunRecord(STUDY, name=self.writer.study))
            self.dirty.add(STUDY)

    def write(self, late: Late = lambda: False) -> int:
        """As ``run``, of what has been read."""

        def one(run: str) -> int:
            if late():
                return 0
            written = self.writer.write(self.records[run])
            self.dirty.discard(run)
            return written

        if not self.dirty:
            return 0
        self.writer.open()
        # The study's run first: it is the parent of the others.
        first = one(STUDY) if STUDY in self.dirty else 0
        with ThreadPoolExecutor(self.writer.threads) as pool:
            return first + sum(pool.map(one, sorted(self.dirty)))


@dataclass(frozen=True)
class Synced:
    """What ``sync_journals`` did for one study; ``bad``: what was passed over, and why."""

    study: str
    runs: int
    written: int
    missing: tuple[str, ...]
    bad: tuple[str, ...] = ()


def sync_journals(workspace: Path, *, uri: str = "", experiment: str = "") -> list[Synced]:
    """Replay every journal of a workspace into MLflow. UserError if there is none, or the tracker
    does not answer."""
    folder = Workspace(workspace).journal
    paths = journals(folder)
    if not paths:
        raise UserError(
            "no journal to replay",
            where=str(folder),
            do="name the workspace of the study with --workspace",
        )
    return [_sync(workspace, path, uri, experiment) for path in paths]


def _sync(workspace: Path, path: Path, uri: str, experiment: str) -> Synced:
    writer = MlflowWriter(workspace, path.stem, uri=uri, experiment=experiment)
    replay = Replay(path, writer)
    if not _STUDY.fullmatch(path.stem):
        return Synced(path.stem, 0, 0, (), ("not replayed: its name is none of ours",))
    try:
        replay.read()
    except OSError as error:
        return Synced(path.stem, 0, 0, (), (f"not replayed: {error.strerror}",))
    gc.freeze()  # what was read is no garbage, and is not to be searched for it again and again
    try:
        if is_server(writer.uri):
            written = replay.write()
        else:
            written = write_backlog(writer, [replay.records[run] for run in sorted(replay.dirty)])
    except unreachable() as error:
        raise UserError(
            "the tracker does not take the runs",
            where=redacted(writer.uri),
            found=reason(error),
            do="check MLFLOW_TRACKING_URI and that the server runs, then sync again",
        ) from error
    finally:
        gc.unfreeze()
    bad = [f"{line}; passed over" for line in replay.bad]
    bad += [f"not attached: {one}" for one in sorted(writer.refused)]
    missing = tuple(sorted(writer.missing))
    return Synced(path.stem, len(replay.records), written, missing, tuple(bad))


_STUDY = re.compile(r"[\w.\-]+", re.ASCII)


def study_identity(info: Mapping[str, Any]) -> str:
    """Name, profile and data digest of a study as one word, safe in a path and in a query; with a
    digest of all where the word says less than they do, or where settings were overridden."""
    parts = (info["study"], info["profile"], info["data_digest"][:12])
    words = [re.sub(r"[^a-z0-9_.]+", "_", part, flags=re.IGNORECASE | re.ASCII) for part in parts]
    word, changes = "-".join(words), info.get("overrides")
    if changes or tuple(words) != parts or word != word.lower():
        return f"{word[:100]}-{digest([*parts, changes or {}])[:SHORT]}"
    return word


def journal_path(workspace: Path, study: str) -> Path:
    """The journal of a study identity."""
    return Workspace(workspace).resolve().journal / f"{study}.jsonl"


def reason(error: Exception) -> str:
    """First line of what the tracker's error says, short and without passwords."""
    lines = redacted(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:199] + "…"
