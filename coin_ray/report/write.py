"""A report as files: the page, Markdown, LaTeX, tables and figures."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from coin_ray import safe
from coin_ray.outputs import claim
from coin_ray.report.document import head, sections
from coin_ray.report.document.blocks import Document, Plot, Section
from coin_ray.report.document.provenance import provenance
from coin_ray.report.document.published import published_section
from coin_ray.report.document.searched import search_section
from coin_ray.report.document.verdicts import verdicts_page, verdicts_section
from coin_ray.report.figures.gallery import LEGEND, gallery
from coin_ray.report.figures.of_study import figures_section
from coin_ray.report.formats.html import page
from coin_ray.report.formats.latex import latex
from coin_ray.report.formats.markdown import markdown
from coin_ray.report.values.result_tables import summary
from coin_ray.report.values.study_results import Results

KEYS = ["dataset", "level", "metric"]
VERDICTS = ("verdicts.html", "verdicts.md")
TABLES = ("results.csv", "per_image.csv", "per_image.parquet")


def write_report(results: Results, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write ``report.html`` (one page that needs nothing else), ``report.md``, ``report.tex``,
    ``results.csv`` (means, and at the end of the chain the comparison with the baseline),
    ``per_image.csv`` and ``.parquet``, ``figures/<name>.svg`` and ``.pdf`` into ``folder``; of a
    study with claims ``verdicts.html`` and ``.md`` too.

    Returns the files, the page first. The same results give the same bytes; each file appears whole
    or not at all. Figures of an earlier report in ``folder`` that this one has not are removed.

    Raises:
        UserError: files of these names that are no report's, unless ``overwrite``.
    """
    figures = figures_section(results)
    drawn = {
        f"figures/{plot.name}.{suffix}": data
        for plot in figures.blocks
        if isinstance(plot, Plot)
        for suffix, data in (("svg", plot.svg), ("pdf", plot.pdf))
    }
    verdicts = verdicts_page(results)
    pages = VERDICTS if verdicts else ()
    names = ("report.html", "report.md", "report.tex", *pages, *TABLES, *drawn)
    document = report_document(results, figures, names)
    texts = {
        "report.html": page(document),
        "report.md": markdown(document),
        "report.tex": latex(document),
        "results.csv": results_csv(results),
    }
    if verdicts:
        texts |= dict(zip(VERDICTS, (page(verdicts), markdown(verdicts)), strict=True))
    output = claim(folder, names, overwrite=overwrite)
    output.drop("figures/", keep=drawn)
    contents = {**{name: text.encode() for name, text in texts.items()}, **drawn}
    for name in names:
        with output.file(name) as part:
            if name in contents:
                part.write_bytes(contents[name])
            elif name.endswith(".csv"):
                _plain(results.frame).write_csv(part)
            else:
                results.frame.write_parquet(part)
    return [folder / name for name in names]


def report_document(results: Results, figures: Section, files: tuple[str, ...]) -> Document:
    """The whole report as data; ``files`` are listed at its end."""
    study, photos = results.study, gallery(results)
    found = (
        head.in_short(results),
        verdicts_section(results),
        sections.results_section(results),
        sections.baseline_section(results),
        published_section(results),
        sections.label_free_section(results),
        search_section(results),
        figures,
        Section("Overlays", (LEGEND, *photos) if photos else ()),
        provenance(study, results.sweep, files),
    )
    kept = tuple(section for section in found if section is not None)
    return Document(study.title, study.question.strip(), head.facts(results), kept)


def results_csv(results: Results) -> str:
    """Means of every column with their intervals; rows at the end of the chain also hold the
    comparison with the baseline."""
    means = summary(results.tables)
    # The last row of a metric is its final one; see ``columns``.
    final = means.group_by(KEYS, maintain_order=True).agg(pl.col("step").last())
    shared = ("images", "seeds", "skipped", "low", "high", "t_low", "t_high")
    compared = results.compared.rename({"step": "ended_at", **{n: f"delta_{n}" for n in shared}})
    rows = compared.join(final, on=KEYS)
    return _plain(
        means.join(rows, on=[*KEYS, "step"], how="left", maintain_order="left")
    ).write_csv()


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """A table of which no spreadsheet computes anything."""
    for name in frame.select(pl.col(pl.String)).columns:
        texts = frame[name].unique().drop_nulls().to_list()
        changed = {text: safe.cell(text) for text in texts if safe.cell(text) != text}
        frame = frame.with_columns(pl.col(name).replace(changed)) if changed else frame
    return frame
