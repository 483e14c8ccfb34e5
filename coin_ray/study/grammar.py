"""YAML with places: every key and value remembers its file, line and column.

The text is composed, never constructed, so no tag can make an object. Scalars follow the YAML 1.2
core rules; what YAML 1.1 readers (most tools) would take for something else is refused by name
instead of being guessed: ``off`` as a label, ``1e-3``, tabs, duplicate keys, anchors.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from coin_ray.errors import UserError, first_line
from coin_ray.study.errors import Place, Problems, shown_path, suggestion

Kind = Literal["map", "list", "scalar"]
_INT = re.compile(r"[-+]?[0-9]+$")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$")
_BARE_EXPONENT = re.compile(r"[-+]?(([0-9]+)[eE][-+]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)[eE][0-9]+)$")
_SPACES = "\u00a0\u1680\u2000-\u200f\u202f\u205f\u2060\u3000\ufeff"
_AT_AN_END = re.compile(f"^[{_SPACES}]+|[{_SPACES}]+$")
_IN_ITS_PLACE = re.compile(rf"^ *([{_SPACES}])|[:,-] *([{_SPACES}])")
"""What looks like a space and is a letter to YAML, where a space belongs."""
MOST_BYTES = 1_000_000
DEEPEST = 50
LONGEST_NUMBER = 400
"""Digits of a whole number; beyond, it is no setting of anything."""
_KEYWORDS = {"true": True, "false": False, "on": True, "yes": True, "off": False, "no": False}
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{t}"
    for t in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp")
}


@dataclass(frozen=True)
class Node:
    """A value with its place, and where to note what is wrong with it.

    ``value`` is a dict of Nodes, a list of Nodes or a plain scalar; ``text`` a scalar as it was
    written, ``keys`` the places of a map's keys. ``keyword`` marks an unquoted word that YAML reads
    as a boolean or as nothing.
    """

    kind: Kind
    value: Any
    place: Place
    problems: Problems = field(repr=False)
    text: str = ""
    keys: dict[str, Place] = field(default_factory=dict)
    keyword: bool = False

    def plain(self) -> Any:
        """The value without places."""
        if self.kind == "map":
            return {key: node.plain() for key, node in self.value.items()}
        if self.kind == "list":
            return [node.plain() for node in self.value]
        return self.value

    def note(self, message: str, hint: str = "") -> None:
        """A problem with this value."""
        self.problems.add(self.place, message, hint)

    def note_key(self, key: str, message: str, hint: str = "") -> None:
        """A problem with a key of this map."""
        self.problems.add(self.keys[key], message, hint)

    def each(self) -> list[Node]:
        """A list's items; a single value stands for a list of one."""
        return self.value if self.kind == "list" else [self]

    def entries(self, message: str, hint: str = "") -> Mapping[str, Node]:
        """A map's values by key; the problem is noted where it is none."""
        if self.kind == "map":
            return dict(self.value)
        self.note(message, hint)
        return {}

    def known(self, keys: Sequence[str], what: str) -> Mapping[str, Node]:
        """The values of a map whose ``keys`` are known; those that are not are noted."""
        found = self.entries(f"{what} has to be a map", f"(keys: {', '.join(keys)})")
        for key in found:
            if key not in keys:
                self.unknown(key, keys, "key", f"keys of {what}")
        return found

    def unknown(self, key: str, known: Sequence[str], what: str, listed: str) -> None:
        """Note that a key of this map is none of those that are known."""
        self.note_key(key, f"unknown {what} '{key}'", suggestion(key, known, listed))

    def label(self) -> str:
        """A scalar as a label: the text as written, so ``0.1`` and ``"0.1"`` are the same one."""
        if self.kind != "scalar":
            self.note("expected a label (one piece of text)")
        elif self.keyword:
            self.note(*_no_name(self.text))
        return self.text

    def one_of(self, known: Sequence[str], what: str, listed: str) -> str:
        """A label that has to be one of the ``known`` ones, which is noted if it is not."""
        word = self.label()
        if word not in known:
            self.note(f"unknown {what} '{word}'", suggestion(word, known, listed))
        return word


def _no_name(word: str) -> tuple[str, str]:
    return (
        f"'{word}' without quotes is a YAML keyword, not a name",
        f'write it in quotes: "{word}"',
    )


class _Loader(yaml.SafeLoader):
    """A composer that notes anchors and aliases: with them an edit reaches more than its line."""

    anchors_at: list[yaml.Mark]
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            self.anchors_at.append(event.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            message = f"nested more than {DEEPEST} deep"
            raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        found = super().compose_node(parent, index)
        self.depth -= 1
        return found


def load(path: Path, problems: Problems) -> Node | None:
    """The map in a YAML file, or None when it holds none; what is wrong goes to ``problems``.

    Raises UserError for a file that is missing, is not text or is too large to be a study.
    """
    name = shown_path(path)
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(
                "too large to be a study or a search space",
                where=name,
                expected=f"at most {MOST_BYTES:,} bytes",
                found=f"{size:,}",
                do="check the path",
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError("cannot read this file", where=name, found=str(reason)) from error
    problems.folders[name] = path.parent.absolute()
    return loads(text, name, problems)


def loads(text: str, name: str, problems: Problems) -> Node | None:
    """As :func:`load`, from text; ``name`` stands for the file in messages."""
    problems.sources[name] = text.splitlines()
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        place = _place(text, error.position, name)
        problems.add(place, f"{_named(text[error.position])} cannot stand in YAML", "delete it")
        return None
    loader.anchors_at = []
    try:
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        _syntax(error, name, problems)
        return None
    except (ValueError, OverflowError):  # what the scanner makes of \UFFFFFFFF
        problems.add(_at(loader.get_mark(), name), "an escape that stands for no character")
        return None
    finally:
        loader.dispose()
    for mark in loader.anchors_at:
        problems.add(
            _at(mark, name), "anchors and aliases (& and *) hide edits", "write the value out"
        )
    if root is None or not isinstance(root, yaml.MappingNode):
        if not _note_space(name, problems):
            problems.add(Place(name, 1, 1), "expected `key: value` lines", "the file holds none")
        return None
    if loader.anchors_at:
        return None  # An alias may contain itself; there is nothing safe to walk.
    return _node(root, name, problems)


def _syntax(error: yaml.YAMLError, name: str, problems: Problems) -> None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = _at(mark, name) if mark else Place(name)
    message = getattr(error, "problem", None) or first_line(error)
    lines = problems.sources[name]
    tabbed = [i for i, line in enumerate(lines) if re.match(r"[ ]*\t", line)]
    if tabbed and (place.line == 0 or tabbed[0] < place.line):
        column = lines[tabbed[0]].index("\t") + 1
        problems.add(Place(name, tabbed[0] + 1, column), "a tab in the indentation", "use spaces")
    elif not _note_space(name, problems, place.line):
        problems.add(place, f"not valid YAML: {message}")


def _note_space(name: str, problems: Problems, last: int | None = None) -> bool:
    """Note the first place up to line ``last`` where what is no space stands for one."""
    for number, line in enumerate(problems.sources[name][:last], 1):
        if found := _IN_ITS_PLACE.search(line):
            column = max(found.start(1), found.start(2)) + 1
            _not_a_space(Place(name, number, column), line[column - 1], problems)
            return True
    return False


def _not_a_space(place: Place, character: str, problems: Problems) -> None:
    problems.add(place, f"{_named(character)} is no space to YAML", "type a plain space, or none")


def _named(character: str) -> str:
    """``U+00A0 (no-break space)``."""
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "a control character").lower()
    return f"{code} ({name})"


def _place(text: str, position: int, name: str) -> Place:
    line = text.count("\n", 0, position)
    return Place(name, line + 1, position - text.rfind("\n", 0, position))


def _at(mark: yaml.Mark, name: str, end: yaml.Mark | None = None) -> Place:
    same_line = end is not None and end.line == mark.line
    width = end.column - mark.column if end is not None and same_line else 1
    return Place(name, mark.line + 1, mark.column + 1, max(1, width))


def _node(node: yaml.Node, name: str, problems: Problems) -> Node:
    place = _at(node.start_mark, name, node.end_mark)
    if node.tag not in _PLAIN_TAGS:
        problems.add(place, f"the YAML tag {node.tag} is not allowed", "plain values only")
    if isinstance(node, yaml.MappingNode):
        return _map(node, place, name, problems)
    if isinstance(node, yaml.SequenceNode):
        return Node("list", [_node(item, name, problems) for item in node.value], place, problems)
    assert isinstance(node, yaml.ScalarNode)
    text = _text(node, place, problems)
    value, keyword = _scalar(text, quoted=node.style is not None)
    if isinstance(value, float) and math.isinf(value):
        problems.add(place, "no computer holds a number of this size")
    return Node("scalar", value, place, problems, text, keyword=keyword)


def _text(node: yaml.ScalarNode, place: Place, problems: Problems) -> str:
    """A scalar without what cannot be in it, which is noted."""
    text: str = node.value
    bad = next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        problems.add(place, f"U+{ord(bad):04X} is no character of a text", "delete it")
        return ""
    if node.style is not None:
        return text
    if found := _AT_AN_END.search(text):
        shift = found.start() if node.end_mark.line == node.start_mark.line else 0
        at = Place(place.path, place.line, place.column + shift, len(found[0]))
        _not_a_space(at, found[0][0], problems)
    return _AT_AN_END.sub("", text)


def _map(node: yaml.MappingNode, place: Place, name: str, problems: Problems) -> Node:
    values: dict[str, Node] = {}
    keys: dict[str, Place] = {}
    for key_node, value_node in node.value:
        at = _at(key_node.start_mark, name, key_node.end_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.add(at, "a key has to be one word or quoted text")
            continue
        key = _text(key_node, at, problems)
        if key == "<<":
            problems.add(at, "merge keys (<<) hide edits", "write the keys out")
            continue
        _, keyword = _scalar(key, quoted=key_node.style is not None)
        if keyword:
            problems.add(at, *_no_name(key))
        if key in keys:
            problems.add(
                at, f"duplicate key '{key}'", f"it is already set in line {keys[key].line}"
            )
            continue
        keys[key] = at
        values[key] = _node(value_node, name, problems)
    return Node("map", values, place, problems, keys=keys)


def _scalar(text: str, *, quoted: bool) -> tuple[Any, bool]:
    """The value of a scalar, and whether it is a keyword."""
    lower = text.lower()
    if quoted:
        return text, False
    if lower in ("", "~", "null"):
        return None, bool(text)
    if lower in _KEYWORDS:
        return _KEYWORDS[lower], True
    if _INT.match(text):
        return int(text) if len(text) <= LONGEST_NUMBER else math.inf, False
    return (float(text) if _FLOAT.match(text) else text), False


def looks_like_number(text: str) -> bool:
    """True for ``1e-3`` and its like: a number to people, text to YAML 1.1 readers."""
    return bool(_BARE_EXPONENT.match(text))


def with_point(text: str) -> str:
    """``1e-3`` as every YAML reader takes it for a number: ``1.0e-3``."""
    mantissa, _, exponent = text.lower().partition("e")
    mantissa += "" if "." in mantissa else ".0"
    return f"{mantissa}e{exponent if exponent[:1] in '+-' else '+' + exponent}"
