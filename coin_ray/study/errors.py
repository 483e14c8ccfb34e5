"""Located problems of a study, collected and shown all at once before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from coin_ray.errors import UserError

MOST = 100
"""Problems that are shown at once; a file with more is something else than a study."""


@dataclass(frozen=True)
class Place:
    """A stretch of text: ``line`` and ``column`` count from 1, ``width`` is in characters.

    ``line`` 0 stands for a whole file, or for the command line (``path`` is then the option).
    """

    path: str
    line: int = 0
    column: int = 0
    width: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}" if self.line else self.path


@dataclass(frozen=True)
class Problem:
    """``message`` says what is wrong, ``hint`` what would be right."""

    place: Place
    message: str
    hint: str = ""


@dataclass
class Problems:
    """Collects problems while a study is read, so that one run shows every one of them."""

    found: list[Problem] = field(default_factory=list)
    sources: dict[str, list[str]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    """Of the files among the sources, where a path in them starts."""

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, place: Place, message: str, hint: str = "") -> None:
        """Note a problem; the same words at the same place count once. Raises them all at once when
        there are as many as anybody reads."""
        problem = Problem(place, message, hint)
        if problem not in self.found:
            self.found.append(problem)
        if len(self.found) >= MOST:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raise one ``UserError`` that shows every problem with its line and a caret."""
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda p: (p.place.path, p.place.line, p.place.column))
        blocks = [self._render(problem) for problem in ordered]
        count = "1 problem" if len(blocks) == 1 else f"{len(blocks)} problems"
        if len(blocks) >= MOST:
            count += ", and the rest was not read"
        raise UserError("\n\n".join([*blocks, f"{count}. Nothing was started."]))

    def _render(self, problem: Problem) -> str:
        place = problem.place
        head = f"{place}  {_cut(problem.message)}"
        lines = self.sources.get(place.path, [])
        if not 0 < place.line <= len(lines):
            return f"{head}\n      {problem.hint}" if problem.hint else head
        text, start = _window(lines[place.line - 1], place.column - 1)
        width = max(1, min(place.width, len(text) - start))
        caret = " " * start + "^" * width
        shown = f"{head}\n{place.line:5d} | {text}\n      | {caret}"
        return f"{shown}  {problem.hint}" if problem.hint else shown


def _cut(text: str, most: int = 400) -> str:
    """A text of which nobody reads the end."""
    return text if len(text) <= most else text[: most // 2] + " … " + text[-most // 4 :]


def _window(line: str, start: int, width: int = 96) -> tuple[str, int]:
    """A line cut to ``width`` characters around ``start``, and where ``start`` is in it."""
    line = line.replace("\t", "→")
    if len(line) <= width:
        return line, start
    left = max(0, min(start - width // 3, len(line) - width))
    cut = line[left : left + width]
    return ("…" + cut[1:] if left else cut), start - left


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that ``word`` was probably meant to be, or an empty string."""
    known = list(known)
    by_lower: Mapping[str, str] = {k.lower(): k for k in known}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return by_lower[close[0]]
    # A bare `family` for `uss.family`: right name, section forgotten.
    tails = [k for k in known if k.rpartition(".")[2].lower() == word.lower()]
    return tails[0] if len(tails) == 1 else ""


def suggestion(word: str, known: Sequence[str], what: str) -> str:
    """``did you mean 'x'?  (what: a, b, c)`` with at most a line of names."""
    guess = nearest(word, known)
    listed = f"({what}: {shortened(', '.join(known))})" if known else ""
    return f"did you mean '{guess}'?  {listed}".rstrip() if guess else listed


def shortened(text: str, most: int = 160) -> str:
    """At most a line of a comma-separated list."""
    return text if len(text) <= most else text[: text.rfind(", ", 0, most)] + ", …"


def shown_path(path: Path) -> str:
    """A path as a person would type it: relative to the working folder where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
