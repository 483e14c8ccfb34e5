"""Our numbers beside a paper's, in tables of the shape of the paper's, and what its text says."""

from __future__ import annotations

from collections.abc import Iterator

from coin_ray.report.document.blocks import Block, Notes, Section, Table, Value
from coin_ray.report.document.numbers import DASH, estimated, interval, signed
from coin_ray.report.values.published import MEANING, Verdict, verdict
from coin_ray.report.values.result_tables import ResultTable
from coin_ray.report.values.statements import Said, statements
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import metric_title
from coin_ray.study.resolved import Published

Row = tuple[Value, ...]
_WAYS = {True: "in the same direction", False: "not in the same direction", None: ""}


def published_section(results: Results) -> Section | None:
    """Our means beside a paper's; None where the study names no paper."""
    published = results.study.published
    if published is None:
        return None
    blocks: list[Block] = []
    for table in results.tables:
        blocks += published_blocks(results, table)
    if any(table.published and table.published.comparable for table in results.tables):
        blocks.append(Notes((MEANING.format(tolerance=published.tolerance),)))
    return Section("Against published numbers", tuple(blocks))


def published_blocks(results: Results, table: ResultTable) -> Iterator[Block]:
    """What a paper has for one data set, and what its text says."""
    published, numbers = results.study.published, table.published
    assert published is not None and numbers is not None
    claims = tuple(row for row, _ in _claims(published, table))
    columns = ("level", "metric", "ours", "published", "difference", "verdict")
    title = f"{table.dataset}: {published.source}"
    if claims:
        yield Table(title, columns, claims, 2, notes=(numbers.note,))
    else:
        yield Notes((numbers.note,))
    if said := statements(results, table.dataset):
        titles = ("statement", "metric", "ours", "published", "verdict")
        rows = tuple(_statement(one) for one in said)
        yield Table(f"{table.dataset}: what the text says", titles, rows, 2)


def verdicts(results: Results, table: ResultTable) -> list[Verdict]:
    """Of every number and statement that a paper has for a data set."""
    published = results.study.published
    assert published is not None
    found = [word for _, word in _claims(published, table)]
    return found + [said.verdict for said in statements(results, table.dataset)]


def _claims(published: Published, table: ResultTable) -> Iterator[tuple[Row, Verdict]]:
    assert table.published is not None
    for level, values in table.published.rows.items():
        for metric, value in values.items() if level in table.rows else ():
            own, unlike = table.at_end(level, metric), published.unlike.get(metric)  # type: ignore[call-overload]
            comparable = table.published.comparable and unlike is None
            word, inside = verdict(own, value, tolerance=published.tolerance, comparable=comparable)
            why = unlike or ("inside our interval" if word == "differs" and inside else "")
            shown = signed(own.mean - value) if own is not None and comparable else DASH
            row = (
                Value(level),
                Value(metric_title(metric)),
                estimated(own),
                Value(f"{value:.3f}"),
                Value(shown),
                Value(word, why),
            )
            yield row, word


def _statement(said: Said) -> Row:
    own = said.own
    ours = interval(own.mean, own.low, own.high, "+.3f") if own else Value(DASH)
    return (
        Value(said.statement.says),
        Value(metric_title(said.statement.metric)),
        ours,
        Value(signed(said.statement.value)),
        Value(said.verdict, _WAYS[said.same_way]),
    )
