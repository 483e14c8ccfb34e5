"""One page about all tables and figures of a paper: which were reproduced, and the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coin_ray.outputs import claim
from coin_ray.report.document.blocks import Block, Document, Notes, Plot, Section, Table, Value
from coin_ray.report.document.published import published_blocks, verdicts
from coin_ray.report.document.sections import results_section
from coin_ray.report.figures.of_study import figures_section
from coin_ray.report.formats.html import page
from coin_ray.report.formats.markdown import markdown
from coin_ray.report.values.published import MEANING, Verdict
from coin_ray.report.values.study_results import Results

FILES = ("paper.html", "paper.md")
WORST_FIRST: tuple[Verdict, ...] = ("missing", "differs", "within tolerance", "reproduced")


@dataclass(frozen=True)
class Part:
    """A table or figure on one of its data sets. ``results``: None where it has not run, and
    ``why`` not."""

    title: str
    dataset: str
    results: Results | None
    why: str = ""


def write_paper(parts: Sequence[Part], folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write ``paper.html`` (one page that needs nothing else), ``paper.md`` and its figures into
    ``folder``; figures of an earlier page there that this one has not are removed.

    Raises:
        UserError: files of these names that are no such page, unless ``overwrite``.
    """
    document = paper_document(parts)
    blocks = [block for section in document.sections for block in section.blocks]
    drawn = {f"figures/{one.name}.svg": one.svg for one in blocks if isinstance(one, Plot)}
    texts = zip(FILES, (page(document), markdown(document)), strict=True)
    contents = {**{name: text.encode() for name, text in texts}, **drawn}
    output = claim(folder, [*contents], overwrite=overwrite)
    output.drop("figures/", keep=drawn)
    for name, content in contents.items():
        with output.file(name) as file:
            file.write_bytes(content)
    return [folder / name for name in contents]


def paper_document(parts: Sequence[Part]) -> Document:
    """The page as data: every part with its verdict, then the tables of those that ran."""
    ran = [part for part in parts if part.results is not None]
    facts = (("tables and figures", f"{len(ran)} of {len(parts)} have run, by data set"),)
    sections = (overview(parts), *map(_section, ran))
    question = "Which tables, figures and statements of COIN (ICCV 2025) are reproduced?"
    return Document("COIN, table by table", question, facts, sections)


def overview(parts: Sequence[Part]) -> Section:
    """Every table and figure with its verdict, and why there is none."""
    rows = []
    for part in parts:
        word, why = summed_up(part)
        rows.append((Value(part.title), Value(part.dataset), Value(word), Value(why)))
    table = Table("", ("what", "data", "verdict", "detail"), tuple(rows), 4)
    notes = (
        MEANING.format(tolerance=0.01) + " A table is as its worst number; 0.01 unless it says "
        "otherwise below it.",
    )
    return Section("In short", (table, Notes(notes)))


def summed_up(part: Part) -> tuple[str, str]:
    """The verdict of a table as a whole: that of its worst number, with how many have which."""
    if part.results is None:
        return "not run", part.why
    (table,) = part.results.tables
    found, numbers = verdicts(part.results, table), table.published
    assert numbers is not None
    if not found:
        return "not comparable", "its numbers are not known"
    if not numbers.comparable:
        return "not comparable", numbers.note
    counted = Counter(found)
    told = ", ".join(f"{n} {word}" for word, n in counted.most_common())
    worst = next((word for word in WORST_FIRST if word in counted), "not comparable")
    return worst, f"{told}, of {len(found)}"


def _section(part: Part) -> Section:
    assert part.results is not None
    (table,) = part.results.tables
    blocks: list[Block] = [
        part.results.study.question.strip(),
        *results_section(part.results).blocks,
        *published_blocks(part.results, table),
    ]
    study = part.results.study.name
    drawn = figures_section(part.results, brief=not study.startswith("figure"))
    blocks += [  # several studies have figures of one name
        replace(plot, name=f"{study}-{plot.name}")
        for plot in drawn.blocks
        if isinstance(plot, Plot)
    ]
    return Section(f"{part.title}: {part.dataset}", tuple(blocks))
