"""A report as Markdown, with its figures as files beside it."""

from __future__ import annotations

from coin_ray.report.blocks import Block, Code, Document, Fold, Notes, Photo, Plot, Table, Value


def markdown(document: Document) -> str:
    """The document; figures are links to ``figures/<name>.svg``, overlays are left out."""
    parts = [f"# {document.title}"]
    if document.question:
        parts.append(document.question)
    parts.append("\n".join(f"- {name}: {value}" for name, value in document.facts))
    for section in document.sections:
        blocks = [text for block in section.blocks if (text := _block(block))]
        if blocks:
            parts += [f"## {section.title}", *blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case str():
            return block
        case Notes(lines) | Fold(_, lines) if not lines:
            return ""
        case Notes(lines):
            return "\n".join(f"- {line}" for line in lines)
        case Code(text):
            return f"```\n{text}\n```"
        case Fold(title, lines):
            return "\n".join([f"{title}:", "", "```", *lines, "```"])
        case Plot(name, caption):
            return f"![{caption.replace(']', ')')}](figures/{name}.svg)\n\n{caption}"
        case Photo():
            return ""
        case Table():
            return table(block)


def table(given: Table) -> str:
    """One table, its caption above it."""
    rule = "|" + "---|" * given.labels + "---:|" * (len(given.header) - given.labels)
    rows = [_row([_cell(value) for value in row]) for row in given.rows]
    lines = [_row(given.header), rule, *rows]
    return "\n".join([given.caption, "", *lines])


def _cell(value: Value) -> str:
    text = f"**{value.text}**" if value.strong else value.text
    return f"{text} ({value.detail})" if value.detail else text


def _row(texts: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
