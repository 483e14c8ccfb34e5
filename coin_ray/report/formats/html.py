"""A report as one self-contained HTML page: nothing is loaded, nothing is executed."""

from __future__ import annotations

import base64
import re

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

STYLE = """
:root { --ink: #1f2328; --soft: #5b6472; --line: #dfe3e8; --tint: #f5f7f9; --mark: #0b5cad; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    "Liberation Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -.01em; }
h2 { font-size: 21px; line-height: 1.3; margin: 48px 0 12px; padding-top: 20px;
  border-top: 1px solid var(--line); }
p, li, figcaption { max-width: 78ch; }
.question { font-size: 18px; color: var(--soft); margin: 0 0 20px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0 0 20px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 15px; }
a { color: var(--mark); text-decoration: none; }
a:hover { text-decoration: underline; }
ul { padding-left: 20px; margin: 10px 0 0; }
ul.notes { color: var(--soft); font-size: 14px; }
#in-short { border: 0; margin-top: 28px; padding: 18px 22px; background: var(--tint);
  border-radius: 8px; }
#in-short h2 { border: 0; margin: 0; padding: 0; font-size: 17px; }
#in-short ul { color: var(--ink); font-size: 16px; }
#in-short li { max-width: none; }
.scroll { overflow-x: auto; margin: 8px 0 6px; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
th.wrap { white-space: normal; min-width: 5.2em; }
td { border-bottom: 1px solid var(--line); }
.word { text-align: left; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16em; max-width: 60em; }
th:first-child, td:first-child { padding-left: 0; position: sticky; left: 0; background: #fff; }
tr.start td { border-top: 2px solid var(--line); }
td small { display: block; color: var(--soft); font-size: 12px; line-height: 1.3; }
figure { margin: 26px 0 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 14px; margin-top: 8px; }
figure.table { margin-top: 18px; }
figcaption { overflow-wrap: anywhere; }
pre { background: var(--tint); border-radius: 6px; padding: 12px 16px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--mark); }
@media (max-width: 640px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 25px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 6px; }
  th, td { padding: 6px 9px; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  figure.table { break-inside: auto; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  td small { font-size: 6.5pt; }
  th, td { padding: 3px 5px; }
}
"""
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
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(document.title)}</title>
<style>{STYLE}</style>
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
            return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'
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
    """One table in a box that scrolls when the window is narrower."""
    head = "".join(
        f'<th scope="col"{_class(("word", i < given.labels), ("wrap", i >= given.labels))}>'
        f"{_broken(escape(title))}</th>"
        for i, title in enumerate(given.header)
    )
    rows = []
    for i, row in enumerate(given.rows):
        cells = "".join(_cell(value, j < given.labels) for j, value in enumerate(row))
        rows.append(f"<tr{_class(('start', i in given.starts))}>{cells}</tr>")
    return (
        f'<figure class="table"><figcaption>{escape(given.caption)}</figcaption>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


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
