"""Hostile names from beginning to end: in a study, in a folder, in a locale that is no UTF-8."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from PIL import Image

from coin_ray import safe
from coin_ray.cli.screen.output import console
from coin_ray.cli.verbs.report import show_tables
from coin_ray.data.write import write_label_map
from coin_ray.errors import UserError
from coin_ray.files import SCRATCH
from coin_ray.report.values.study_results import read_results
from coin_ray.report.write import write_report
from coin_ray.study.datasets import read_data
from tests.cli_calls import call, enter
from tests.hostile import html_text, markdown_text
from tests.report_study import HEAD, NUMBERS, finish, study

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
LEVELS = (
    r"$\bm{F}$", "[x=0,y=0]<script>alert(1)</script>", "=1+1 \x1b[31m", "_a|b\nc",
)  # fmt: skip
MORE = ("[/b]", "it's", "100 %", "# head", "two\nlines", ":smile:", "\u202eabc", "\x9b31m")
TILES = (
    "TCGA-18-5592-01Z-00-DX1 QuPath export, level 0 [x=0,y=0,w=128]",
    r"$\bm{F}$", "=1+1", "it's", "<b>", "\x1b[31mred", "100%41 #1?",
    "naïve 細胞",
)  # fmt: skip


def factors(levels: tuple[str, ...]) -> str:
    named = {level: {"ot.lambda": 0.1 + i / 10} for i, level in enumerate(levels)}
    weight = {"baseline": levels[0], "levels": named}
    return f"factors: {json.dumps({'weight': weight})}\n"


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_level_is_in_every_format_of_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = study(tmp_path, factors(LEVELS))
    finish(given, tmp_path / "runs", images=2)
    out = tmp_path / "report"
    results = read_results(given, tmp_path / "runs")
    write_report(results, out)
    show_tables(console(), results)
    shown = capsys.readouterr().out
    assert not UNSEEN.search(shown)
    page, tags = html_text((out / "report.html").read_text())
    assert "script" not in tags
    source = (out / "report.md").read_text()
    told, tags = markdown_text(source)
    assert not tags & {"script", "a", "em", "del"}
    rows = [line.split("</tr>")[0] for line in source.splitlines() if line.startswith("|")]
    tex = (out / "report.tex").read_text()
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    for level in LEVELS:
        assert safe.printable(level) in page, level
        assert all(part in shown for part in safe.printable(level).split("\n")), level
        assert words(safe.line(level)) in words(told), level
        assert any(row.startswith(f"| {safe.markdown(level)}") for row in rows), level
        assert safe.latex(level) in tex, level
    for name in ("results.csv", "per_image.csv"):
        levels = pl.read_csv(out / name, infer_schema_length=None)["level"].unique()
        assert set(levels) == {safe.cell(level) for level in LEVELS}
    assert set(pl.read_parquet(out / "per_image.parquet")["level"]) == set(LEVELS)
    for drawn in (out / "figures").glob("*.svg"):
        ElementTree.fromstring(drawn.read_bytes())
    assert not [f for f in out.rglob("*") if f.name.startswith(SCRATCH) or f.suffix == ".tmp"]


def test_levels_of_any_name_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (*LEVELS, *MORE)
    enter(tmp_path, monkeypatch)
    given = study(tmp_path, factors(names))
    given, _ = read_data(given, tmp_path / ".coin-ray")
    finish(given, tmp_path / ".coin-ray" / "runs" / given.run_name, images=2)
    for verb, spelled in (("status", safe.printable), ("plan", safe.line)):
        done = call(verb, "small.yaml", "--set", "rounds.count=2")
        assert done.exit_code == 0, done.output
        assert not UNSEEN.search(done.output)
        for level in names:
            assert all(part in done.output for part in spelled(level).split("\n")), (verb, level)


def masks(folder: Path, names: tuple[str, ...]) -> Path:
    """A label map of each name."""
    nucleus = np.zeros((64, 64), np.int32)
    nucleus[8:16, 8:16] = 1
    folder.mkdir(parents=True)
    for name in names:
        write_label_map(folder / f"{name}.tif", nucleus)
    return folder


def test_evaluate_shows_and_writes_every_name(tmp_path: Path) -> None:
    folder, out = masks(tmp_path / "p", TILES), tmp_path / "out" / "v.csv"
    done = call("evaluate", str(folder), str(folder), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert not UNSEEN.search(done.output)
    for name in (*TILES[1:], "w=128]"):
        assert safe.printable(name) in done.output
    assert set(pl.read_csv(out)["image"]) == {safe.cell(name) for name in TILES}


def in_another_locale(*args: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run ``coin-ray`` where everything but the files is ASCII."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        [sys.executable, "-m", "coin_ray.cli", *map(os.fsencode, args)],
        capture_output=True,
        cwd=folder,
        env={**os.environ, **locale, "PYTHONPATH": str(Path(__file__).parents[1])},
    )


def test_a_locale_that_is_no_utf8(tmp_path: Path) -> None:
    masks(tmp_path / "naïve", TILES)
    done = in_another_locale("evaluate", "naïve", "naïve", "--out", "é.csv", folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert set(pl.read_csv(tmp_path / "é.csv")["image"]) == {safe.cell(name) for name in TILES}


@pytest.mark.slow
def test_a_sweep_of_hostile_names_in_another_locale(tmp_path: Path) -> None:
    names = (TILES[0], r"$\bm{F}$ 100%41 #1?", "=1+1 it's <b> naïve", "\x1b[31mred")
    images(os.fsencode(tmp_path / "µ data" / "image"), [os.fsencode(name) for name in names])
    masks(tmp_path / "µ data" / "label", names)
    levels = json.dumps({name: {"ot.lambda": 0.1 + i} for i, name in enumerate(LEVELS[:2])})
    (tmp_path / "s.yaml").write_text(
        "study: s\nextends: mini\nreport: [aji]\nseeds: 1\ntitle: 'µ | <i>'\n"
        f"factors: {{weight: {{baseline: {json.dumps(LEVELS[0])}, levels: {levels}}}}}\n"
    )
    small = ("rounds.count=1", "student.iterations=2", "uss.family=none")
    options = [text for setting in small for text in ("--set", setting)]
    args = ("sweep", "s.yaml", "--data", "µ data", "--workspace", "wörk 100%41?", *options)
    done = in_another_locale(*args, folder=tmp_path)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert not UNSEEN.search(done.stdout.decode(errors="replace"))
    (runs,) = (tmp_path / "wörk 100%41?" / "runs").iterdir()
    written = {path.stem for path in runs.glob("*/predictions/*.tif")}
    assert written == set(names)
    assert set(pl.read_parquet(runs / "report" / "per_image.parquet")["image"]) == set(names)
    synced = call("track", "sync", "--workspace", str(tmp_path / "wörk 100%41?"))
    assert "5 runs, 0 written" in synced.output, synced.output
    line = done.stdout.decode().splitlines()[-1].removeprefix("compare the runs: coin-ray ui ")
    assert shlex.split(line) == ["--workspace", str(tmp_path / "wörk 100%41?")]


def images(folder: bytes, names: list[bytes]) -> None:
    os.makedirs(folder)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name in names:
        with open(os.path.join(folder, name + b".png"), "wb") as file:
            Image.fromarray(noise).save(file, "PNG")


@pytest.mark.parametrize("verb", ["sweep", "plan", "status"])
def test_a_file_name_that_is_no_utf8_is_said_before_anything_runs(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(os.fsencode(tmp_path / "tiles"), [b"fine", b"caf\xe9"])
    enter(tmp_path, monkeypatch, HEAD + NUMBERS)
    (tmp_path / ".coin-ray").mkdir()
    done = call(verb, "s.yaml", "--data", "tiles")
    assert done.exit_code == 2
    assert "caf\\udce9.png: a name that is no UTF-8" in done.output
    assert "rename it" in done.output and "Traceback" not in done.output
    assert not list(tmp_path.glob(".coin-ray/runs/*"))


def test_a_folder_that_is_no_utf8_is_said_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    images(folder, [b"fine"])
    enter(tmp_path, monkeypatch, HEAD + NUMBERS)
    named = call("plan", "s.yaml", "--data", os.fsdecode(folder))
    monkeypatch.chdir(os.fsdecode(folder))
    below = call(
        "plan", str(tmp_path / "s.yaml"), "--data", ".", "--workspace", str(tmp_path / "w")
    )
    inside = call("status", str(tmp_path / "s.yaml"))
    for done in (named, below, inside):
        assert done.exit_code == 2 and "a name that is no UTF-8" in done.output, done.output


def test_half_a_character_in_a_study_is_said_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small.yaml:\d+:\d+  U\+D800 is no character of a text"):
        study(tmp_path, 'factors: {weight: {baseline: a, levels: {a: {}, "\\ud800": {}}}}')


def test_a_control_character_in_a_study_is_said_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small.yaml:\d+:5  U\+001B \(a control character\)"):
        study(tmp_path, "a: 1\nab: \x1b[31m")
