"""A report as data: what it says, before it is written as HTML, Markdown or LaTeX, or printed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A table's cell: ``text``, and ``detail`` (an interval, a reason) set smaller beside it."""

    text: str
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """``words``: how many leading columns are words (the others are numbers); ``starts``: rows
    that begin a group and get a rule above them; ``notes``: short sentences to read it by."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    words: int = 1
    starts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A drawn figure; ``name`` is its file name without a suffix."""

    name: str
    caption: str
    svg: bytes
    pdf: bytes

    def _repr_svg_(self) -> str:
        """How a notebook shows it."""
        return self.svg.decode()


@dataclass(frozen=True)
class Photo:
    """A picture of an image as JPEG bytes; for the page alone."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Notes:
    """Short sentences, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Text that is typed or read as it is."""

    text: str


@dataclass(frozen=True)
class Fold:
    """A long list that a page shows on demand: ``title`` in sight, ``lines`` below it."""

    title: str
    lines: tuple[str, ...]


Block = str | Notes | Table | Plot | Photo | Code | Fold
"""A bare string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """``facts`` are the name and value pairs that stand below the title."""

    title: str
    question: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
