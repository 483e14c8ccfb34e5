"""``coin-ray paper``: what is asked for, where its data lie, and one page of verdicts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.report.verdict_page import Part, paper_document, summed_up, write_paper
from coin_ray.study.command_line import Request
from coin_ray.study.paper_tables import tables_asked
from coin_ray.study.study import resolve
from tests.cli_calls import call
from tests.report_study import NUMBERS, finished

QUICK = (
    *("ucis.ssa.iterations=2", "ucis.ssa.width=4", "ucis.ssa.encoder_width=8", "ucis.ssa.crop=32"),
    *("ucis.ssa.batch=3", "crf.enabled=false", "uss.zoom=1.0", "uss.window=64"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def test_data_sets_lie_where_they_are_said_to_and_in_the_layout_of_coin(folder: Path) -> None:
    for split in ("TNBC/test", "TNBC/train", "MoNuSeg/test"):
        (folder / "root" / split).mkdir(parents=True)
    request = Request(profile="coin", data=("MoNuSeg-train=elsewhere",))
    found = {one.dataset: one for one in tables_asked(["table_12"], request, folder / "root")}
    tnbc, monuseg = found["TNBC-test"].request, found["MoNuSeg-test"].request
    assert tnbc is not None and monuseg is not None
    assert tnbc.data == (f"TNBC-test={folder / 'root/TNBC/test'}",)
    assert tnbc.train == (str(folder / "root/TNBC/train"),)
    assert monuseg.train == ("elsewhere",) and monuseg.profile == "coin"
    for fold in ("Fold1", "Fold2", "Fold3"):
        (folder / "root/PanNuke" / fold).mkdir(parents=True)
    six = tables_asked(["main_comparison"], Request(), folder / "root")
    pannuke = next(one.request for one in six if one.dataset == "PanNuke-test")
    assert pannuke is not None and len(six) == 6
    assert pannuke.data == (f"PanNuke-test={folder / 'root/PanNuke/Fold3'}",)
    assert [Path(path).name for path in pannuke.train] == ["Fold1", "Fold2"]
    nowhere = tables_asked(["table_12"], Request())
    assert [one.request for one in nowhere] == [None, None]
    assert "--data TNBC-test=PATH" in nowhere[0].why
    assert len(tables_asked([], Request())) > 15


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean table_11"):
        tables_asked(["tabel_11"], Request())
    with pytest.raises(UserError, match="MoNuSeg-train=PATH"):
        tables_asked(["table_11"], Request(data=("MoNuSeg=there",)))
    with pytest.raises(UserError, match="MoNuSeg/train"):
        tables_asked(["table_11"], Request(), Path("nowhere"))


@pytest.mark.parametrize(
    ("own", "word", "detail"),
    [
        (0.5, "reproduced", "2 reproduced, of 2"),
        (0.6, "differs", "2 differs, of 2"),
        (None, "missing", "2 missing, of 2"),
    ],
)
def test_a_table_is_as_its_worst_number(
    own: float | None, word: str, detail: str, tmp_path: Path
) -> None:
    paper = """
published:
  source: A paper
  comparable: [mini]
  rows: {"0.1": {generated: {aji: 0.5, pq: 0.51}}}
"""
    without = ["0.1"] if own is None else []
    results = finished(
        tmp_path,
        NUMBERS + paper,
        value=lambda cell, step, image: (own or 0.5) + 0.1 * (image - 1),
        without=without,
    )
    part = Part("Table 1", "generated", results)
    assert summed_up(part) == (word, detail)
    # Beside another profile nothing is claimed, and the page says why.
    other = replace(results.study, profile="other")
    from coin_ray.report.values.result_tables import result_tables

    changed = replace(results, study=other, tables=result_tables(other, results.frame))
    word, why = summed_up(replace(part, results=changed))
    assert word == "not comparable" and "profile mini" in why
    document = paper_document([part, Part("Figure 2", "x-test", None, "no data")])
    (table, _) = document.sections[0].blocks
    assert [[v.text for v in row] for row in table.rows][1] == [  # type: ignore[union-attr]
        "Figure 2", "x-test", "not run", "no data",
    ]  # fmt: skip
    figure = replace(part, results=replace(results, study=replace(results.study, name="figure_2")))
    page, text, *drawn = write_paper([part, figure], tmp_path / "out")
    assert "Table 1: generated" in page.read_text() and "published" in text.read_text()
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text.read_text())
    assert sorted(linked) == sorted(str(path.relative_to(tmp_path / "out")) for path in drawn)
    assert all(path.read_bytes().startswith(b"<?xml") for path in drawn)
    names = [path.name for path in drawn]
    assert names[0] == f"{results.study.name}-levels-generated.svg"  # of a table this one alone
    assert len(names) > 2 and all(name.startswith("figure_2-") for name in names[1:])
    write_paper([part], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "figures").iterdir()] == names[:1]


def test_the_verb_runs_what_is_missing_and_then_only_reports(folder: Path) -> None:
    generated_samples(folder / "tiles", 2, size=64, seed=1)
    sets = [word for text in QUICK for word in ("--set", text)]
    told = ["paper", "table_11", "--data", "MoNuSeg-train=tiles", "--mpp", "0.25", *sets]
    early = call(*told, "--report")
    assert early.exit_code == 0 and "not run" in early.output
    done = call(*told, "--local", "--no-tracking")
    assert done.exit_code == 0, done.output
    text = (folder / ".coin-ray" / "paper" / "paper.md").read_text()
    for level in resolve("table_11").levels:
        assert text.count(f"| {level} ") + text.count(f"| {level.replace('+', chr(92) + '+')} ") > 1
    assert "not comparable with profile mini" in text and "USS lowers FN" in text
    again = call(*told, "--report", "--out", "page")
    assert again.exit_code == 0 and (folder / "page" / "paper.html").is_file()
