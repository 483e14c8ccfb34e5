"""A report as Markdown, with its figures as files beside it."""

from __future__ import annotations

from collections.abc import Iterable

from coin_ray import safe
from coin_ray.report.document.blocks import (
    Block,
    Code,
    Document,
    Fold,
    Notes,
    Photo,
    Plot,
    Table,
    Value,
)


def markdown(document: Document) -> str:
    """The document; figures are links to ``figures/<name>.svg``, overlays are left out."""
    parts = [f"# {safe.markdown(document.title)}"]
    if document.question:
        parts.append(safe.markdown_block(document.question))
    parts.append(_items([f"{name}: {value}" for name, value in document.facts]))
    for section in document.sections:
        blocks = [text for block in section.blocks if (text := _block(block))]
        if blocks:
            parts += [f"## {safe.markdown(section.title)}", *blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case str():
            return safe.markdown_block(block)
        case Notes(lines) | Fold(_, lines) if not lines:
            return ""
        case Notes(lines):
            return _items(lines)
        case Code(text):
            return safe.fenced(text)
        case Fold(title, lines):
            return f"{safe.markdown_block(title)}:\n\n{safe.fenced(chr(10).join(lines))}"
        case Plot(name, caption):
            return (
                f"![{safe.markdown(caption)}](figures/{name}.svg)\n\n{safe.markdown_block(caption)}"
            )
        case Photo():
            return ""
        case Table():
            return table(block)


def table(given: Table) -> str:
    """One table, its title above and its notes below it."""
    rule = "|" + "---|" * given.words + "---:|" * (len(given.columns) - given.words)
    rows = [_row([_cell(value) for value in row]) for row in given.rows]
    lines = [_row([safe.markdown(title) for title in given.columns]), rule, *rows]
    notes = ["", _items(given.notes)] if given.notes else []
    return "\n".join([safe.markdown_block(given.title), "", *lines, *notes])


def _cell(value: Value) -> str:
    text = safe.markdown(value.text)
    text = f"**{text}**" if value.strong else text
    return f"{text} ({safe.markdown(value.detail)})" if value.detail else text


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {safe.markdown_block(line.replace(chr(10), ' '))}" for line in lines)
