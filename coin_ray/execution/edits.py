"""A study that runs takes over what a second run of it, edited, hands in.

The second writes the study into the folder of results that both have, the first answers beside it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from coin_ray import bucket
from coin_ray.beside import beside
from coin_ray.errors import first_line
from coin_ray.files import SCRATCH, seen, write_text
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.snapshot import from_text, to_text

FOLDER, EDIT, ANSWER = "edits", ".json", ".answer"
LOOK = 0.5
"""Seconds between two looks for an edit."""
LOOK_IN_BUCKET = 5.0
Take = Callable[[ResolvedStudy, str], str]
"""``take(study, by)``: have an edited study run; what became of it, in a line."""


class Edited(Exception):
    """The study has been edited: what is left of it is another's now."""


@dataclass(frozen=True)
class Difference:
    """The cells (their labels) of an edited study beside those that it had: ``changed`` ones have
    other settings under the same level, data set and seed."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def words(self) -> str:
        """``1 cell added, 2 removed, 4 kept``."""
        counts = {name: len(found) for name, found in vars(self).items() if found}
        told = [f"{n} {name}" for name, n in counts.items()]
        number, _, rest = ", ".join(told).partition(" ")
        return f"{number} cell{'' if number == '1' else 's'} {rest}"


def difference(before: ResolvedStudy, after: ResolvedStudy) -> Difference:
    """What an edit has done to the cells of a study."""
    old = {cell.key_label: _who(cell) for cell in before.cells}
    new = {cell.key_label: _who(cell) for cell in after.cells}
    gone = {who for label, who in old.items() if label not in new}
    fresh = {label: who for label, who in new.items() if label not in old}
    return Difference(
        added=tuple(label for label, who in fresh.items() if who not in gone),
        changed=tuple(label for label, who in fresh.items() if who in gone),
        removed=tuple(label for label in old if label not in new),
        kept=tuple(label for label in new if label in old),
    )


def _who(cell: StudyCell) -> tuple[str, str, int]:
    return cell.level, cell.data.name, cell.seed


def hand_in(study: ResolvedStudy, runs: Path) -> Path:
    """Hand a study to the process that runs it; the file that it is answered beside."""
    name = f"{time.time_ns()}-{socket.gethostname()}-{os.getpid()}{EDIT}"
    write_text(runs / FOLDER / name, to_text(study))
    return runs / FOLDER / name


def answer(edit: Path) -> str | None:
    """What the process that runs the study said to an edit; None as long as it has not."""
    place = edit.with_suffix(ANSWER)
    return place.read_text(encoding="utf-8") if seen(place) else None


def take_back(edit: Path) -> None:
    """Remove an edit and its answer."""
    for path in (edit, edit.with_suffix(ANSWER)):
        bucket.remove(path)
        path.unlink(missing_ok=True)


def clear(runs: Path) -> None:
    """Remove what was handed to a run that has ended; who still waits hands it in again."""
    for edit in _waiting(runs):
        take_back(edit)
    with suppress(OSError):
        (runs / FOLDER).rmdir()


@contextmanager
def watched(runs: Path, take: Take) -> Iterator[None]:
    """Have every study that is handed in taken, and answered, from a thread while the body runs."""
    pause = LOOK if bucket.address(runs) is None else LOOK_IN_BUCKET

    def look(stop: threading.Event) -> None:
        while not stop.wait(pause):
            for edit in _waiting(runs):
                _answer(edit, take)

    with beside(look, "edits"):
        yield


def _waiting(runs: Path) -> list[Path]:
    """The edits without an answer, in the order in which they were handed in."""
    folder = runs / FOLDER
    names = {*(path.name for path in folder.glob(f"*{EDIT}")), *bucket.names(folder)}
    # One that is still being written has the suffix too.
    edits = sorted(n for n in names if n.endswith(EDIT) and not n.startswith(SCRATCH))
    return [folder / name for name in edits if answer(folder / name) is None]


def _answer(edit: Path, take: Take) -> None:
    host, _, pid = edit.stem.partition("-")[2].rpartition("-")
    if not seen(edit):
        return  # taken back in this moment
    try:
        said = take(from_text(edit.read_text(encoding="utf-8")), f"process {pid} on {host}")
    except (ValueError, FileNotFoundError) as error:
        said = f"the edit cannot be read: {first_line(error)}"
    write_text(edit.with_suffix(ANSWER), said)
