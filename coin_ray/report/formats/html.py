"""A report as one self-contained HTML page: nothing is loaded, nothing is executed."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from importlib import resources

from coin_ray.report.document.blocks import (
    Block,
    Code,
    Document,
    Fold,
    Notes,
    Photo,
    Plot,
    Section,
    Table,
    Value,
)
from coin_ray.safe import html as escape

NBSP = "\u00a0"
LONG = 60
"""Characters from which on a cell of words may break."""


def page(document: Document) -> str:
    """The document as HTML, with its figures and overlays inside."""
    shown = [section for section in document.sections if section.blocks]
    links = "".join(f'<a href="#{_anchor(s)}">{escape(s.title)}</a>' for s in shown[1:])
    facts = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in document.facts)
    question = f'<p class="question">{escape(document.question)}</p>' if document.question else ""
    body = "\n".join(_section(section) for section in shown)
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(document.title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{escape(document.title)}</h1>
{question}
<dl>{facts}</dl>
<nav>{links}</nav>
</header>
{body}
</main>
</body>
</html>
"""


def _anchor(section: Section) -> str:
    return re.sub(r"[^a-z]+", "-", section.title.lower()).strip("-")


def _section(section: Section) -> str:
    inside = "\n".join(_block(block) for block in section.blocks)
    return (
        f'<section id="{_anchor(section)}">\n<h2>{escape(section.title)}</h2>\n{inside}\n</section>'
    )


def _block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>"
        case Notes(lines):
            return _notes(lines)
        case Code(text):
            return f'<pre class="command">{escape(text)}</pre>'
        case Fold(title, lines):
            text = escape("\n".join(lines))
            return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"
        case Plot(_, caption, svg):
            return _figure("image/svg+xml", svg, caption)
        case Photo(caption, jpeg):
            return _figure("image/jpeg", jpeg, caption)
        case Table():
            return table(block)


def table(given: Table) -> str:
    """One table in a box that scrolls when the window is narrower, its notes below it."""
    head = "".join(
        f'<th scope="col"{_class(("word", i < given.words), ("wrap", i >= given.words))}>'
        f"{_broken(escape(title))}</th>"
        for i, title in enumerate(given.columns)
    )
    rows = []
    for i, row in enumerate(given.rows):
        cells = "".join(_cell(value, j < given.words) for j, value in enumerate(row))
        rows.append(f"<tr{_class(('start', i in given.starts))}>{cells}</tr>")
    drawn = (
        f'<figure class="table"><figcaption>{escape(given.title)}</figcaption>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></figure>"
    )
    return "\n".join([drawn, *([_notes(given.notes)] if given.notes else [])])


def _notes(lines: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def _broken(title: str) -> str:
    """A header of several words in two lines, the first word above the others."""
    first, _, rest = title.partition(" ")
    return f"{first} {rest.replace(' ', NBSP)}" if rest else first


def _cell(value: Value, word: bool) -> str:
    text = f"<strong>{escape(value.text)}</strong>" if value.strong else escape(value.text)
    detail = f"<small>{escape(value.detail)}</small>" if value.detail else ""
    return f"<td{_class(('word', word), ('long', len(value.text) > LONG))}>{text}{detail}</td>"


def _class(*names: tuple[str, bool]) -> str:
    held = " ".join(name for name, wanted in names if wanted)
    return f' class="{held}"' if held else ""


def _figure(kind: str, data: bytes, caption: str) -> str:
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    said = escape(caption)
    return f'<figure><img alt="{said}" src="{source}"><figcaption>{said}</figcaption></figure>'
