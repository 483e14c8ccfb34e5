"""A report's files: the page needs nothing else, every format has every level, labels are text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from coin_ray.outputs import claim
from coin_ray.report.document.blocks import Notes, Table, Value
from coin_ray.report.document.head import in_short
from coin_ray.report.figures import style
from coin_ray.report.formats.html import table as page_table
from coin_ray.report.formats.latex import escape
from coin_ray.report.formats.latex import table as latex_table
from coin_ray.report.formats.markdown import table as markdown_table
from coin_ray.report.values.study_results import Results, keep_sweep, read_results
from coin_ray.report.write import write_report
from coin_ray.study.command_line import Request
from coin_ray.study.resolved import StudyCell
from coin_ray.study.study import resolve
from tests.report_study import HEAD, NUMBERS, finish, finished, study

NASTY = """
factors:
  weight:
    baseline: a & b
    levels:
      a & b: {ot.lambda: 0.1}
      <i>50 %</i>: {ot.lambda: 1.0}
      x_1 | λ: {ot.lambda: 3.0}
"""
LEVELS = ("a & b", "<i>50 %</i>", "x_1 | λ")
VOID = {"meta", "img", "br", "hr", "link", "input"}


@pytest.fixture(autouse=True)
def drawn_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures have tests of their own."""
    monkeypatch.setattr(style, "render", lambda draw: (b"<svg/>", b"%PDF"))


class Reader(HTMLParser):
    """Checks that elements nest, and keeps the text, the addresses and the identifiers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags = "", set[str]()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def written(folder: Path) -> tuple[Results, Path]:
    results = finished(folder, NASTY)
    write_report(results, folder / "out")
    return results, folder / "out"


def test_the_page_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    _, out = written(tmp_path)
    text = (out / "report.html").read_text()
    page = Reader(text)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "url(" not in text and "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert sum(a.startswith("data:image/jpeg") for a in page.addresses) == 3  # images
    for level in (*LEVELS, "Small & <simple> study", "Does 50 % of it_matter?"):
        assert level in page.text
    assert "i" not in page.tags and "simple" not in page.tags


def test_every_level_and_number_is_in_every_format(tmp_path: Path) -> None:
    results, out = written(tmp_path)
    (table,) = results.tables
    texts = {name: (out / f"report.{name}").read_text() for name in ("html", "md", "tex")}
    for level in LEVELS:
        found = table.at_end(level, "aji")
        assert found is not None
        for text in texts.values():
            assert f"{found.mean:.3f}" in text
    assert "x\\_1 \\| λ" in texts["md"] and "x\\_1 \\textbar{} $\\lambda$" in texts["tex"]
    means = pl.read_csv(out / "results.csv")
    assert means["level"].unique(maintain_order=True).to_list() == list(LEVELS)
    final = means.filter((pl.col("metric") == "pq") & (pl.col("level") == LEVELS[1]))
    assert final["delta"][0] == pytest.approx(final["mean"][0] - table.at_end(LEVELS[0], "pq").mean)  # type: ignore[union-attr]
    # The comparison is of the end of the chain: the coarse mask has none.
    assert means.filter(pl.col("step") == "ucis")["delta"].null_count() == 3
    assert pl.read_parquet(out / "per_image.parquet").equals(results.frame)
    assert len(pl.read_csv(out / "per_image.csv")) == len(results.frame)


def test_figures_are_files_that_the_texts_name(tmp_path: Path) -> None:
    _, out = written(tmp_path)
    (out / "figures" / "gone.svg").write_text("of an earlier report")
    claim(out, []).note("figures/gone.svg")
    (out / "figures" / "notes.svg").write_text("the user's")
    results = read_results(study(tmp_path, NASTY), tmp_path / "runs")
    files = write_report(results, out)
    named = re.findall(r"\]\((figures/[^)]*)\)", (out / "report.md").read_text())
    drawn = re.findall(r"includegraphics.*\{(.*)\}", (out / "report.tex").read_text())
    assert named and {out / name for name in (*named, *drawn)} <= set(files)
    assert files[0].name == "report.html" and all(path.is_file() for path in files)
    (out / "figures" / "notes.svg").unlink()  # FileNotFoundError if the report took it away
    assert sorted((out / "figures").iterdir()) == sorted(f for f in files if f.parent != out)


def test_what_is_missing_is_shown_with_its_cause(tmp_path: Path) -> None:
    given = study(tmp_path, NASTY)
    lost = [cell.key_label for cell in given.cells if cell.level == LEVELS[2]]
    alone = next(c.key_label for c in given.cells if c.level == LEVELS[1] and c.seed == 1)
    finish(given, tmp_path / "runs", without=[*lost, alone])
    keep_sweep(tmp_path / "runs", sweep({lost[0]: "ValueError: out of <memory>"}))
    write_report(read_results(given, tmp_path / "runs"), tmp_path / "out")
    page = Reader((tmp_path / "out" / "report.html").read_text()).text
    assert "Missing: x_1 | λ, random seed 0 (ValueError: out of <memory>)." in page
    assert "Missing: x_1 | λ, random seed 1." in page
    assert "Missing: <i>50 %</i>, random seed 1." in page
    assert "3 of 6 finished" in page and "Not compared, a value is missing: x_1 | λ." in page


def sweep(missing: dict[str, str]) -> dict[str, object]:
    return {
        "command": "coin-ray sweep 's & t.yaml'",
        "git_commit": "abc123",
        "git_changed": True,
        "environment": {
            "python": "3.11",
            "platform": "Linux",
            "cores": 2,
            "device": "cpu",
            "packages": {"torch": "2.9"},
        },
        "data": {
            "generated": {
                "digest": "d" * 64,
                "train": {"t": "1" * 64},
                "evaluated": {"tile_0": "2" * 64},
                "labelled": 1,
            }
        },
        "missing": missing,
    }


def test_how_it_was_made_is_told(tmp_path: Path) -> None:
    given = study(tmp_path, NASTY, "ot.prior=0.5")
    finish(given, tmp_path / "runs")
    keep_sweep(tmp_path / "runs", sweep({}))
    write_report(read_results(given, tmp_path / "runs"), tmp_path / "out")
    page = Reader((tmp_path / "out" / "report.html").read_text()).text
    for part in (
        "coin-ray sweep 's & t.yaml'",
        "abc123, with uncommitted changes",
        "torch 2.9",
        "1 other images",
        "tile_0  222222222222",
        "# --set ot.prior = 0.5",
        "ot.lambda = 3.0",
        "figures/levels-generated.pdf",
    ):
        assert part in page


def test_a_data_set_without_labels_takes_no_table_from_the_others(tmp_path: Path) -> None:
    def page(*bare: str) -> str:
        """Of data sets of which those of ``bare`` have no labels."""
        specs = ", ".join(f"{n}: {{train: 0, test: 4, size: 64, seed: {ord(n)}}}" for n in "abc")
        path = tmp_path / "three.yaml"
        path.write_text(HEAD.replace("generated: {train: 0, test: 4, size: 64}", specs) + NUMBERS)
        given, runs = (
            resolve(str(path), Request(settings=("rounds.count=2",))),
            tmp_path / "".join(bare),
        )
        for images, named in ((3, set("abc") - set(bare)), (0, set(bare))):
            others = [c.key_label for c in given.cells if c.data.name not in named]
            finish(given, runs, images=images, without=others)
        write_report(read_results(given, runs), runs / "report")
        return (runs / "report" / "report.md").read_text()

    one = page("b")
    assert "2 data sets together, each with the same weight; without b" in one
    assert "a, against the baseline" in one and "b, against the baseline" not in one
    assert "b: no labels, transductive" in one and "data b · transductive" in one
    assert "0 random seeds" not in one and "0 labelled images" not in one
    assert "data sets together" not in page("b", "c")


def test_no_labels_no_numbers_and_still_a_page(tmp_path: Path) -> None:
    results = finished(tmp_path, NASTY, images=0)
    write_report(results, tmp_path / "out")
    page = Reader((tmp_path / "out" / "report.html").read_text()).text
    assert "nothing to measure" in page and "Without labels" in page
    assert "Against the baseline" not in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50 % #1 $x$ {y}", r"a\_b \& 50 \% \#1 \$x\$ \{y\}"),
        ("a\\b~^", r"a\textbackslash{}b\textasciitilde{}\textasciicircum{}"),
        ("<>", r"\textless{}\textgreater{}"),
        ("4×2 – ±0.01 −1", r"4$\times$2 -- $\pm$0.01 $-$1"),
        ("λ Δ Σ", r"$\lambda$ $\Delta$ $\Sigma$"),
        ("plain", "plain"),
    ],
)  # fmt: skip
def test_latex_escapes(text: str, expected: str) -> None:
    assert escape(text) == expected


TABLE = Table(
    "What | who",
    ("level", "n", "AJI round 1"),
    (
        (Value("a_1"), Value("8"), Value("0.600", "0.5–0.7", strong=True)),
        (Value("b|c"), Value("8"), Value("missing")),
    ),
    starts=(1,),
    notes=("<few>",),
)


def test_a_table_in_latex_by_hand() -> None:
    text = latex_table(TABLE)
    assert (
        r"""\begin{tabular}{@{}lrr@{}}
\toprule
level & n & AJI round 1 \\
\midrule
a\_1 & 8 & \stacked{\textbf{0.600}}{0.5--0.7} \\
\addlinespace
b\textbar{}c & 8 & missing \\
\bottomrule
\end{tabular}"""
        in text
    )
    assert r"\caption{What \textbar{} who}" in text
    assert text.endswith("\\item \\textless{}few\\textgreater{}\n\\end{itemize}")


def test_a_table_in_markdown_by_hand() -> None:
    assert markdown_table(TABLE).splitlines() == [
        "What \\| who",
        "",
        "| level | n | AJI round 1 |",
        "|---|---:|---:|",
        "| a\\_1 | 8 | **0.600** (0.5–0.7) |",
        "| b\\|c | 8 | missing |",
        "",
        "- \\<few\\>",
    ]


def test_a_table_of_the_page() -> None:
    text = page_table(TABLE)
    page = Reader(text)
    assert "a_1" in page.text and "b|c" in page.text
    assert text.count("<strong>") == 1 and "<small>0.5–0.7</small>" in text
    assert text.endswith('<ul class="notes"><li>&lt;few&gt;</li></ul>')
    assert text.count("<tr") == 3 and text.count('<tr class="start">') == 1


def test_environments_of_the_latex_document_are_closed(tmp_path: Path) -> None:
    _, out = written(tmp_path)
    text = (out / "report.tex").read_text()
    begun = re.findall(r"\\begin\{(\w+)\}", text.split("\\begin{document}")[1])
    ended = re.findall(r"\\end\{(\w+)\}", text.split("\\begin{document}")[1])
    assert sorted([*begun, "document"]) == sorted(ended)
    # A special character that is not escaped stops the compiler or is lost.
    body = re.sub(r"\\[%&#_{}$]", "", text.split("\\maketitle")[1])
    assert "%" not in body and "_" not in re.sub(r"\{figures/[^}]*\}|\{fig:[^}]*\}", "", body)
    for drawn in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", body, re.DOTALL):
        rows = [line for line in drawn.splitlines() if line.endswith("\\\\")]
        assert len({line.count(" & ") for line in rows}) == 1 and len(rows) > 1


def short(results: Results) -> tuple[str, ...]:
    (notes,) = in_short(results).blocks
    assert isinstance(notes, Notes)
    return notes.lines


def test_in_short_by_hand(tmp_path: Path) -> None:
    def value(cell: StudyCell, step: int, image: int) -> float:
        # Every image and seed agrees: 0.1 better, 0.1 worse; eight of them reach p = 0.008.
        return 0.4 + 0.02 * image + {LEVELS[0]: 0.0, LEVELS[1]: 0.1, LEVELS[2]: -0.1}[cell.level]

    first, *others = short(finished(tmp_path, NASTY, value=value, images=8))
    assert first.startswith("generated: AJI of the baseline a & b is 0.470 (0.4")
    assert first.endswith("), over 8 images and 2 random seeds.")
    assert others == [
        "Better than the baseline: <i>50 %</i> (+0.100).",
        "Worse than the baseline: x_1 | λ (−0.100).",
        "8 images, fewer than 50: intervals are approximate.",
        "2 random seeds: p by seed cannot go below 0.5.",
    ]


def test_in_short_claims_nothing_that_is_open(tmp_path: Path) -> None:
    results = finished(tmp_path, NASTY, value=lambda cell, step, image: 0.4 + 0.1 * image)
    assert (
        short(results)[1] == "No difference worth having: <i>50 %</i> (+0.000); x_1 | λ (+0.000)."
    )
    (tmp_path / "few").mkdir()
    few = finished(tmp_path / "few", NASTY, images=2)
    assert any(line.startswith("Open, the data do not decide: ") for line in short(few))
