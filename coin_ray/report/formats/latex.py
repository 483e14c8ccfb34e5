"""A report's tables and figures as a LaTeX document (booktabs, graphicx), ready to be taken apart
into a paper."""

from __future__ import annotations

from collections.abc import Sequence

from coin_ray.report.document.blocks import Block, Document, Notes, Plot, Section, Table, Value
from coin_ray.safe import latex as escape

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
% Shrinks what is wider than the page and leaves the rest as it is.
\newsavebox{\tablebox}
\newenvironment{fitted}{\begin{lrbox}{\tablebox}}{\end{lrbox}%
  \ifdim\wd\tablebox>\textwidth\resizebox{\textwidth}{!}{\usebox{\tablebox}}%
  \else\usebox{\tablebox}\fi}
% A number, its interval below it.
\newcommand{\stacked}[2]{\begin{tabular}[t]{@{}r@{}}#1\\[-3pt]{\scriptsize #2}\end{tabular}}
"""


def latex(document: Document) -> str:
    """The document's tables, their notes and its figures (``figures/<name>.pdf``); how it was made
    stays with the other formats."""
    parts = [PREAMBLE, f"\\title{{{escape(document.title)}}}", "\\date{}", "\\begin{document}"]
    parts += ["\\maketitle", escape(document.question)]
    for section in document.sections:
        blocks = [text for block in section.blocks if (text := _block(section, block))]
        if blocks:
            parts += [f"\\section*{{{escape(section.title)}}}", *blocks]
    return "\n".join([*parts, "\\end{document}", ""])


def _block(section: Section, block: Block) -> str:
    match block:
        case Table() if len(block.columns) > block.words:  # a table of numbers
            return table(block)
        case Notes(lines) if lines:
            return _items(lines)
        case Plot(name, caption):
            graphic = f"\\includegraphics[scale=0.9]{{figures/{name}.pdf}}"
            return _floating("figure", graphic, caption, f"fig:{name}")
    return ""


def table(given: Table) -> str:
    """One table: words left, numbers right, groups apart, no vertical rule."""
    columns = "l" * given.words + "r" * (len(given.columns) - given.words)
    lines = [" & ".join(escape(title) for title in given.columns) + r" \\", r"\midrule"]
    for i, row in enumerate(given.rows):
        if i in given.starts:
            lines.append(r"\addlinespace")
        lines.append(" & ".join(_cell(value) for value in row) + r" \\")
    body = "\n".join([r"\toprule", *lines, r"\bottomrule"])
    drawn = f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}\n{body}\n\\end{{tabular}}"
    floating = _floating("table", f"\\begin{{fitted}}\n{drawn}\n\\end{{fitted}}", given.title)
    return "\n".join([floating, *([_items(given.notes)] if given.notes else [])])


def _items(lines: Sequence[str]) -> str:
    items = "\n".join(f"  \\item {escape(line)}" for line in lines)
    return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"


def _floating(kind: str, body: str, caption: str, label: str = "") -> str:
    told = f"\\caption{{{escape(caption)}}}" + (f"\\label{{{label}}}" if label else "")
    lines = [told, body] if kind == "table" else [body, told]
    return "\n".join([f"\\begin{{{kind}}}[htbp]", "\\centering", *lines, f"\\end{{{kind}}}"])


def _cell(value: Value) -> str:
    text = f"\\textbf{{{escape(value.text)}}}" if value.strong else escape(value.text)
    return f"\\stacked{{{text}}}{{{escape(value.detail)}}}" if value.detail else text
