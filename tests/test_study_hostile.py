"""Studies that are wrong in ways nobody means: each is one message, soon, and nothing is made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from coin_ray.errors import UserError
from coin_ray.study import blocks, data_block, resolved
from coin_ray.study.command_line import Request
from coin_ray.study.errors import MOST, Problems
from coin_ray.study.grammar import DEEPEST, MOST_BYTES, loads
from coin_ray.study.patches import fields
from coin_ray.study.study import MOST_CELLS, resolve

HEAD = "study: s\nextends: tiny.yaml\n"
SPACE = "profile: tiny\ndata: generated\nbaseline: {uss.size: mini}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    return tmp_path


def refused(content: str | bytes, request: Request | None = None) -> str:
    """The message for a study with these lines below its head; it comes within seconds."""
    raw = content if isinstance(content, bytes) else content.encode()
    Path("s.yaml").write_bytes(HEAD.encode() + raw)
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        resolve("s.yaml", request)
    assert time.monotonic() - begin < 20
    message = str(caught.value)
    message.encode()  # can be printed
    assert "Traceback" not in message
    return message


SWITCH = "  f{}: {{baseline: a, levels: {{a: {{}}, b: {{ot.prior: 1.0}}}}}}\n"
CASES: dict[str, tuple[str | bytes, str]] = {
    "control character": ("title: a\x07b\n", "s.yaml:3:9  U+0007 (a control character) cannot"),
    "null bytes": (b"\0" * 100, "s.yaml:3:1  U+0000 (a control character) cannot stand in YAML"),
    "not UTF-8": (b"title: caf\xe9\n", "it is not UTF-8 text"),
    "null byte by an escape": (
        'data: {a: {path: "x\\0"}}\n',
        "s.yaml:3:18  U+0000 is no character",
    ),
    "half a character": ('title: "\\uD800"\n', "s.yaml:3:8  U+D800 is no character of a text"),
    "half a character as a key": ('baseline: {"\\uDFFF": 1}\n', "s.yaml:3:12  U+DFFF is no"),
    "escape of no character": ('title: "\\UFFFFFFFF"\n', "an escape that stands for no character"),
    "long number": (f"seeds: {'9' * 5000}\n", "s.yaml:3:8  no computer holds a number of this"),
    "long number as a key": (f"baseline: {{{'9' * 1000}: 1}}\n", "s.yaml:3:12  unknown key '999"),
    "long number as a setting": (
        f"baseline: {{student.iterations: {'9' * 5000}}}\n",
        "no computer",
    ),
    "float without end": ("baseline: {student.lr: 1.0e999}\n", "s.yaml:3:24  no computer holds"),
    "float without end, negative": ("baseline: {student.lr: -1.0e999}\n", "no computer holds"),
    "nested lists": (f"title: {'[' * 5000}{']' * 5000}\n", f"nested more than {DEEPEST} deep"),
    "nested maps": ("".join(" " * n + "a:\n" for n in range(500)), f"more than {DEEPEST} deep"),
    "large file": (b"#" * (MOST_BYTES + 1), "s.yaml: too large to be a study"),
    "list as a title": ("title: [a]\n", "s.yaml:3:8  title has to be text"),
    "path too long": (f"data: {{a: {{path: {'a' * 5000}}}}}\n", "there is no such folder or image"),
    "name too long": (f"data: [{'a' * 300}]\n", "where is the data 'aaa"),
    "no home": ("data: {a: {path: ~nobody_here/x}}\n", "no home folder for ~nobody_here"),
    "space before a key": ("\u00a0seeds: 3\n", "s.yaml:3:1  U+00A0 (no-break space) is no space"),
    "space after a key": ("seeds\u00a0: 3\n", "s.yaml:3:6  U+00A0 (no-break space) is no space"),
    "space after a colon": ("seeds:\u00a03\nreport: aji\n", "s.yaml:3:7  U+00A0 (no-break space)"),
    "space after a number": ("baseline: {ot.lambda: 0.1\u00a0}\n", "s.yaml:3:26  U+00A0 (no-break"),
    "space of no width": ("design: \u200bgrid\n", "s.yaml:3:9  U+200B (zero width space) is no"),
    "space in the indentation": ("baseline:\n\u00a0 uss.size: mini\n", "s.yaml:4:1  U+00A0"),
    "no scales": ("baseline: {infer.scales: []}\n", "infer.scales cannot be []"),
    "crop": ("baseline: {student.crop: 100000000}\n", "expected a whole number >= 32 and <= 8,192"),
    "iterations": (f"baseline: {{student.iterations: 1{'0' * 40}}}\n", "and <= 100,000,000"),
    "tiles": ("data: {generated: {size: 10000000}}\n", "s.yaml:3:26  size cannot be 10000000"),
    "trials": (
        "design: search\ntrials: 1000000000000000000\nspace: {ot.prior: {lin: [0.0, 3.0]}}\n",
        "s.yaml:4:9  trials cannot be 1000000000000000000",
    ),
    "grid of a search": (
        f"design: search\nsampler: grid\nspace: {{rounds.count: {{int: [1, 1{'0' * 40}]}}}}\n",
        "rounds.count cannot be 1000",
    ),
    "cells of a grid of a search": (
        "design: search\nsampler: grid\nspace: {student.iterations: {int: [1, 90000000]}}\n",
        "this study has 90,000,001 cells",
    ),
    "seeds": ("seeds: 1000000000\n", "s.yaml:3:8  at most 10,000 seeds can be asked for"),
    "seeds one by one": ("seeds: {first: 2, max: 1000000000}\n", "max cannot be 1000000000"),
    "large seed": ("seeds: [99999999999]\n", "s.yaml:3:9  a seed is at most 4,294,967,295"),
    "many keys": ("".join(f"key{n}: 1\n" for n in range(300)), f"{MOST} problems, and the rest"),
    "many settings": (
        "baseline:\n" + "".join(f"  student.key{n}: 1\n" for n in range(300)),
        f"{MOST} problems, and the rest was not read. Nothing was started.",
    ),
    "long key": (f"baseline: {{{'a' * 1000}: 1}}\n", "unknown key 'aaa"),
    "many switches": (
        "design: factorial\nfactors:\n" + "".join(SWITCH.format(n) for n in range(17)),
        "s.yaml:5:3  this factorial has too many combinations",
    ),
}
LARGE: dict[str, tuple[str, str]] = {
    "30,000 keys": ("".join(f"key{n}: 1\n" for n in range(30_000)), "and the rest was not read"),
    "3,000 factors": (
        "factors:\n" + "".join(SWITCH.format(n) for n in range(3000)),
        "this one_at_a_time has too many combinations",
    ),
    "3,000 factors, a fraction": (
        "design: factorial\nfraction: resolution_iv\nfactors:\n"
        + "".join(SWITCH.format(n) for n in range(3000)),
        "this factorial has too many combinations",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LARGE))
def test_large_studies(name: str) -> None:
    content, part = LARGE[name]
    assert part in refused(content)


@pytest.mark.parametrize("name", list(CASES))
def test_hostile_studies(name: str) -> None:
    content, part = CASES[name]
    message = refused(content)
    assert part in message and len(message) < 60_000


def test_a_space_inside_a_text_is_the_users() -> None:
    Path("s.yaml").write_text(HEAD + "title: pas mal\u00a0?\nquestion: '\u00a0'\n")
    assert resolve("s.yaml").title == "pas mal\u00a0?"


def test_a_byte_order_mark_is_no_problem() -> None:
    Path("s.yaml").write_text("\ufeff" + HEAD)
    assert resolve("s.yaml").name == "s"


def test_cells_are_counted_before_they_are_made() -> None:
    levels = "".join(f"      l{n}: {{ot.prior: 0.{n + 1}}}\n" for n in range(150))
    factor = f"factors:\n  f:\n    baseline: l0\n    levels:\n{levels}"
    message = refused(factor + "seeds: 10000\n")
    assert "this study has 1,500,000 cells (150 levels, 1 data, 10,000 seeds)" in message
    assert f"at most {MOST_CELLS:,}" in message


@pytest.mark.parametrize("seeds", ["²", "1000000000", "9" * 5000, "1,²", "-1", "", "0", "1.5", "١"])
def test_seeds_of_the_command_line(seeds: str) -> None:
    assert "--seeds " in refused("", Request(seeds=seeds))


@pytest.mark.parametrize(
    "text", ["student.lr=1e999", "student.lr=nan", "ot.lambda=inf", "uss.zoom=[1.0e999]",
             "infer.scales=[]", "student.crop=\x07", "student.iterations=" + "9" * 5000,
             "student.lr=" + "[" * 5000]
)  # fmt: skip
def test_settings_of_the_command_line(text: str) -> None:
    assert " cannot be " in refused("", Request(settings=(text,)))


@pytest.mark.parametrize("mpp", [float("nan"), float("inf"), 0.0, 1e9])
def test_mpp_of_the_command_line(mpp: float) -> None:
    assert "--mpp" in refused("", Request(data=(".",), mpp=mpp))


def test_names_on_the_command_line_that_nothing_can_have() -> None:
    for study in ("a" * 5000, "a/" * 3000, "~nobody_here/x"):
        with pytest.raises(UserError, match="no such study"):
            resolve(study)
    assert "there is no such folder" in refused("", Request(data=("a" * 5000,)))
    assert "there is no home folder" in refused("", Request(data=("x=~nobody_here",)))


def numbers(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[type, list[Any]]]:
    """Every number in a type, and every list of any length, with its bounds."""
    args = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        flat = [m for a in args[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])]
        yield from numbers(args[0], (*metadata, *flat))
    elif annotation in (int, float):
        yield annotation, list(metadata)
    elif get_origin(annotation) is tuple and args[-1] is Ellipsis:
        yield tuple, list(metadata)
        yield from numbers(args[0])
    else:
        for member in args:
            yield from numbers(member, () if get_origin(annotation) is tuple else metadata)


BLOCKS = (
    resolved.Search, resolved.Stopping, resolved.Screen, resolved.Analysis, resolved.Budget,
    resolved.Objective, data_block.Tiles, data_block.Folder, blocks.StageResources,
    blocks.RoundResources, blocks.SeedRange,
)  # fmt: skip


def test_every_number_of_a_study_has_both_bounds() -> None:
    found = {
        f"{kind.__name__}.{key}": t for kind in BLOCKS for key, t in blocks.keys_of(kind).items()
    }
    del found["Search.space"]  # read by ``study.space``, each value against its setting
    counted = 0
    for key, annotation in {**fields(), **found}.items():
        for kind, bounds in numbers(annotation):
            counted += 1
            names = {name for m in bounds for name in ("ge", "gt", "le", "lt", "max_length")
                     if getattr(m, name, None) is not None}  # fmt: skip
            if kind is tuple:
                assert "max_length" in names, key
            else:
                assert names & {"ge", "gt"} and names & {"le", "lt"}, key
    assert counted > 100


YAML = st.text(
    st.sampled_from(
        list("abcseeds:{}[],-&*!|>'\"%@`#?\\ \n\t0123456789.e+~<\u00a0\u2028\x07\ud7ff")
    )
)


@settings(max_examples=150, deadline=None)
@given(text=YAML)
def test_any_text_is_read_or_refused(text: str) -> None:
    problems = Problems()
    node = loads(text, "s.yaml", problems)
    assert node is not None or problems
    if problems:
        with pytest.raises(UserError):
            problems.raise_if_any()
