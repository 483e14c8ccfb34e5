"""Kinds of events for the tracker alone: what a run is, and what is attached to it.

They are about a cell's run where ``cell`` names one, else about the study's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator

from coin_ray.events.events import Count, Event, Number

LONGEST = 500
"""Most characters of the path of an artifact."""


def inside(path: str) -> str:
    """The path of an artifact below its run: relative, and nowhere up; else ValueError."""
    parts = path.split("/")
    if len(path) > LONGEST or "\0" in path or not all(map(_is_name, parts)):
        raise ValueError(f"a path that leads elsewhere: {path!r:.80}")
    return path


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and len(part.encode()) <= 255


def _local(path: str) -> str:
    *folders, name = path.split("/")
    if len(path) >= 4000 or any(len(folder.encode()) > 255 for folder in folders):
        raise ValueError("longer than any path")
    inside(name)
    return path


def _apart(texts: Mapping[str, str]) -> Mapping[str, str]:
    if any(one.startswith(f"{other}/") for one in texts for other in texts):
        raise ValueError("a file cannot also be a folder")
    return texts


def _folder(path: str) -> str:
    return path if path in ("", ".") else inside(path)


Folder = Annotated[str, AfterValidator(_folder)]
Inside = Annotated[str, AfterValidator(inside)]
Texts = Annotated[Mapping[Inside, str], AfterValidator(_apart)]


@dataclass(frozen=True)
class Description(Event):
    """A run as it is to be shown; ``texts``: path of an artifact -> its text."""

    name: str
    tags: Mapping[str, Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    texts: Texts = field(default_factory=dict)


@dataclass(frozen=True)
class StudyDescribed(Description):
    """Of the study's own run."""


@dataclass(frozen=True)
class CellDescribed(Description):
    """Of a cell's run."""


@dataclass(frozen=True)
class Counted:
    """What a look at a cell came to at one stage: ``key`` is its artifact's, or a digest of them
    with their number."""

    key: str
    computed: Count
    reused: Count
    seconds: Number = 0.0


@dataclass(frozen=True)
class Stages(Event):
    """The stage events of a cell, counted when it ended: stage -> its counts."""

    stages: Mapping[str, Counted]


@dataclass(frozen=True)
class Metrics(Event):
    """Values of a run at a step."""

    metrics: Mapping[str, Number]
    step: Count = 0
    cell: str = ""


@dataclass(frozen=True)
class Table(Event):
    """Attached as CSV and as a table that MLflow opens."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    cell: str = ""


@dataclass(frozen=True)
class File(Event):
    """A file to attach, such as a picture, below ``folder``; ``digest`` of its content."""

    path: Annotated[str, AfterValidator(_local)]
    folder: Folder = ""
    digest: str = ""
    cell: str = ""


@dataclass(frozen=True)
class Text(Event):
    """A text to attach."""

    path: Inside
    text: str
    cell: str = ""


@dataclass(frozen=True)
class Tags(Event):
    """Tags of a run."""

    tags: Mapping[str, Any]
    cell: str = ""


@dataclass(frozen=True)
class LevelDescribed(Description):
    """Of a level's run, which stands beside those of its cells."""


@dataclass(frozen=True)
class LevelMeasured(Event):
    """The values of a level's run are all there; those of the same level and data set before it
    are of fewer cells, or of others."""

    cell: str


FOR_RUNS = frozenset(
    kind for kind, found in Event.KINDS.items() if found.__module__ == __name__
) - {"StudyDescribed"}
"""What says nothing about how far a study is: nearly all of a journal's bytes."""
