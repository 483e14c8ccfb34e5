"""A user's text comes back from every output as it went in."""

from __future__ import annotations

import ast
import fnmatch
import io
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray import safe
from tests.hostile import NAMES, html_text, markdown_text

TEXTS = st.one_of(
    st.sampled_from(NAMES),
    st.text(
        st.sampled_from("ab -=+.1#*_`~[]()<>&|$\\{}^%'\"!@:;,/\n\t\x1b\x9b\u202eλ細😀"), max_size=12
    ),
    st.text(max_size=8),
)
UNTIMED = settings(deadline=None, max_examples=150)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
PACKAGE = Path(safe.__file__).parent


@UNTIMED
@given(TEXTS)
def test_nothing_that_acts_on_a_terminal_is_printable(text: str) -> None:
    shown = safe.printable(text)
    assert not UNSEEN.search(shown)
    assert "\n" not in safe.line(text)
    shown.encode()
    if text.isprintable():
        assert shown == safe.line(text) == text


@UNTIMED
@given(TEXTS)
def test_text_in_html(text: str) -> None:
    found, tags = html_text(f'<p title="{safe.html(text)}">{safe.html(text)}</p>')
    assert (found, tags) == (safe.printable(text), {"p"})


def squeezed(text: str) -> str:
    """White space as a page shows it."""
    return " ".join(text.split())


@UNTIMED
@given(TEXTS)
def test_text_in_markdown(text: str) -> None:
    line, inline = safe.line(text), safe.markdown(text)
    for source, tags in (
        (f"# {inline}\n", {"h1"}),
        (f"| level | n |\n|---|---:|\n| {inline} | 1 |\n", None),
        (f"- {safe.markdown_block(line)}\n", {"ul", "li"}),
        (f"**{inline}.**\n", None),
    ):
        found, own = markdown_text(source)
        assert squeezed(line) in squeezed(found), source
        assert tags is None or own <= tags, source
        assert not own & {"script", "a", "img", "em", "del", "code", "ol"}, source


@UNTIMED
@given(TEXTS)
def test_a_paragraph_in_markdown_keeps_its_lines(text: str) -> None:
    found, tags = markdown_text(safe.markdown_block(text))
    assert squeezed(found) == squeezed(safe.printable(text))
    assert tags <= {"p", "br"}


@UNTIMED
@given(TEXTS)
def test_code_in_markdown(text: str) -> None:
    found, tags = markdown_text(safe.fenced(text))
    assert found.rstrip("\n") == safe.printable(text).rstrip("\n")
    assert tags == {"pre", "code"}


@UNTIMED
@given(TEXTS)
def test_text_in_latex(text: str) -> None:
    source = safe.latex(text)
    like_latin = str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΧοµ", "ABEZHIKMNOPTXoμ")
    assert _of_latex(source) == re.sub(r"\s", " ", safe.printable(text)).translate(like_latin)
    assert not source.startswith(("[", "*"))  # an argument of the row or the item before it


def _of_latex(source: str) -> str:
    """What LaTeX prints of what ``safe.latex`` writes, two signs that it joins as the one."""
    back = {code: char for char, code in safe._LATEX.items()} | {"{}": "", ",,": "„"}
    greek = (chr(code) for code in range(0x391, 0x3CA) if code != 0x3C2)  # the final sigma is one
    back |= {safe.latex(char): char for char in greek if safe.latex(char).startswith("$")}
    tokens = re.compile(r"\\[a-z]+\{\}|\$[^$]+\$|\\.|\{.?\}|---?|,,|.", re.DOTALL)
    return "".join(back.get(token, token) for token in tokens.findall(source))


@UNTIMED
@given(TEXTS, TEXTS)
def test_text_in_a_csv_file(text: str, other: str) -> None:
    from coin_ray.report.write import _plain

    written = _plain(pl.DataFrame({"level": [text, "x"]})).write_csv()
    back = pl.read_csv(io.StringIO(written), infer_schema=False)
    cell = back["level"][0] or ""
    assert cell in (text, f"'{text}")
    assert safe._NUMBER.fullmatch(cell) or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (safe.cell(text) == safe.cell(other)) == (text == other)


def test_words_of_a_shell() -> None:
    names = [*NAMES, "caf\udce9", "", "~/x", "a b"]
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {safe.shell(*names)}"], capture_output=True, check=True
    )
    assert done.stdout.split(b"\0")[:-1] == [n.encode(errors="surrogateescape") for n in names]
    assert not UNSEEN.search(safe.shell(*names))


@UNTIMED
@given(TEXTS, TEXTS)
def test_a_pattern_matches_its_text_alone(text: str, other: str) -> None:
    assert fnmatch.fnmatchcase(text, safe.pattern(text))
    assert fnmatch.fnmatchcase(other, safe.pattern(text)) == (text == other)


@pytest.mark.parametrize("text", NAMES)
def test_text_in_a_table_of_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from coin_ray.cli.screen.output import console, say

    table = Table("level")
    table.add_row(text)
    table.add_row(safe.styled(text, "red"))
    console().print(table)
    say(text)
    out = capsys.readouterr().out
    assert not UNSEEN.search(out)
    words = squeezed(safe.printable(text))
    assert re.sub(r"[│┃\s]+", " ", out).count(words) >= 3 or "\n" in text or "\t" in text


def test_text_in_a_figure() -> None:
    from coin_ray.report.figures import levels
    from coin_ray.report.figures.style import render, strokes

    names = [name for name in NAMES if re.search(r"[$\\<&\x1b\n]", name)][::2]
    rows = [levels.Row(name, ((0.5, 0.4, 0.6),)) for name in names]
    curves = {name: ([0.0, 0.5, 1.0], [1.0, 0.5, 0.0]) for name in (names[0], "_under_", "a$b")}
    drawn = [
        lambda: levels.draw_dots(["AJI"], rows, reference=names[0]),
        lambda: levels.draw_profiles(curves, strokes(list(curves), names[0], None), metric="AJI"),
    ]
    for draw, wanted in zip(drawn, (names, list(curves)), strict=True):
        svg, _ = render(draw)
        ElementTree.fromstring(svg)
        written = [c.strip() for c in re.findall(r"<!-- (.*?) -->", svg.decode(), re.DOTALL)]
        for name in wanted:
            # A comment cannot hold two hyphens, and XML writes < and & otherwise.
            shown = re.sub("-(?=-)", "- ", safe.figure(name)).strip()
            found = [html_text(text)[0] for text in written] + written
            assert shown in found or html_text(shown)[0] in found, name


def test_what_a_figure_shows_is_not_mathematics() -> None:
    from coin_ray.report.figures.style import panels, render

    def draw() -> object:
        figure, (axis,) = panels(1, 1, 2.0)
        axis.set_title(r"$\bm{F}$ and $x^2$")
        return figure

    svg, _ = render(draw)  # type: ignore[arg-type]
    assert rb"<!-- $\bm{F}$ and $x^2$ -->" in svg


def test_one_place_prints() -> None:
    """What a verb prints goes through ``cli.output``, which knows what a terminal acts on."""
    found = []
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and path.name != "output.py":
                called = ast.unparse(node.func)
                if called in ("print", "Console", "Text") or called.endswith((".echo", ".secho")):
                    found.append(f"{path.name}:{node.lineno} {called}")
    assert found == []


def test_text_files_say_that_they_are_utf8() -> None:
    """Where the linter cannot tell a path from another object."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not re.search("read_text|write_text|subprocess", source):
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call):
                continue
            called, named = ast.unparse(node.func), {word.arg for word in node.keywords}
            text = called.endswith((".read_text", ".write_text")) and "files." not in called
            text |= bool({"text", "universal_newlines"} & named) and "subprocess" in called
            if text and "encoding" not in named:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {called}")
    assert found == []
