"""YAML with places, and its traps caught by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from coin_ray.errors import UserError
from coin_ray.study.errors import Place, Problems, nearest
from coin_ray.study.grammar import Node, load, loads, looks_like_number, with_point


def read(text: str) -> tuple[Node | None, Problems]:
    problems = Problems()
    return loads(text, "a.yaml", problems), problems


def messages(text: str) -> list[str]:
    _, problems = read(text)
    return [f"{p.place.line}:{p.place.column} {p.message}" for p in problems.found]


def test_values_and_their_places() -> None:
    node, problems = read("a: 1\nb:\n  - x\n  - {c.d: 2.5, e: null}\n")
    assert not problems and node is not None
    assert node.plain() == {"a": 1, "b": ["x", {"c.d": 2.5, "e": None}]}
    assert node.keys["b"] == Place("a.yaml", 2, 1, 1)
    inner = node.value["b"].value[1]
    assert inner.keys["c.d"] == Place("a.yaml", 4, 6, 3)
    assert inner.value["c.d"].place == Place("a.yaml", 4, 11, 3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-3", -3), ("0.1", 0.1), (".5", 0.5), ("1.0e-3", 1e-3), ("true", True),
        ("False", False), ("null", None), ("~", None), ("", None), ("none", "none"),
        ("1e-3", "1e-3"), ("'3'", "3"), ('"off"', "off"), ("12:30", "12:30"), ("1_000", "1_000"),
        ("2024-01-02", "2024-01-02"), ("off", False), ("Yes", True), ("mean + std", "mean + std"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_rules(text: str, value: object) -> None:
    node, problems = read(f"a: {text}")
    assert node is not None and not problems
    found = node.value["a"].value
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word", ["off", "on", "yes", "No", "true", "null", "~"])
def test_a_keyword_is_no_label(word: str) -> None:
    assert messages(f"{word}: 1") == [f"1:1 '{word}' without quotes is a YAML keyword, not a name"]
    assert messages(f'"{word}": 1') == []


def test_a_number_is_a_label_as_it_is_written() -> None:
    node, problems = read("a: 0.10\nb: '0.10'")
    assert node is not None
    assert [node.value[k].label() for k in "ab"] == ["0.10", "0.10"]
    assert not problems


def test_duplicate_keys_name_the_first_line() -> None:
    _, problems = read("a: 1\nb: 2\na: 3\n")
    (problem,) = problems.found
    assert (problem.place.line, problem.message) == (3, "duplicate key 'a'")
    assert problem.hint == "it is already set in line 1"


def test_a_tab_is_named_where_it_is() -> None:
    assert messages("a:\n\tb: 1\n") == ["2:1 a tab in the indentation"]


def test_broken_yaml_has_a_place() -> None:
    (message,) = messages("a: {b: 1\nc: 2\n")
    assert message.startswith("2:") and "not valid YAML" in message


@pytest.mark.parametrize("text", ["a: &x 1\nb: *x\n", "a: &x [*x]\n"])
def test_anchors_are_refused(text: str) -> None:
    assert all("hide edits" in m for m in messages(text)) and messages(text)


def test_merge_keys_and_tags_are_refused() -> None:
    assert messages("a: {<<: {b: 1}}") == ["1:5 merge keys (<<) hide edits"]
    (message,) = messages("a: !!python/object/apply:os.system [ls]")
    assert "tag" in message and "not allowed" in message


@pytest.mark.parametrize("text", ["", "- a\n", "words"])
def test_a_file_has_to_hold_keys(text: str) -> None:
    assert messages(text) == ["1:1 expected `key: value` lines"]


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read this file"):
        load(tmp_path / "no.yaml", Problems())
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load(tmp_path / "b.yaml", Problems())


def test_exponents_without_a_point() -> None:
    assert [looks_like_number(t) for t in ("1e-3", "2E5", "1.5e3", "1.0e-3", "e3", "1e")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert with_point("1e-3") == "1.0e-3" and with_point("1.5e3") == "1.5e+3"
    assert all(looks_like_number(with_point(t)) is False for t in ("1e-3", "2E5", "1.5e3"))


def test_nearest() -> None:
    assert nearest("uss.famly", ["uss.family", "uss.size"]) == "uss.family"
    assert nearest("family", ["uss.family", "uss.size"]) == "uss.family"
    assert nearest("quite different", ["uss.family", "uss.size"]) == ""


def test_a_problem_is_drawn_under_its_line() -> None:
    problems = Problems(sources={"a.yaml": ["x: 1", "  uss.famly: mae"]})
    problems.add(Place("a.yaml", 2, 3, 9), "unknown key 'uss.famly'", "did you mean 'uss.family'?")
    problems.add(Place("a.yaml", 2, 3, 9), "unknown key 'uss.famly'", "did you mean 'uss.family'?")
    with pytest.raises(UserError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines() == [
        "a.yaml:2:3  unknown key 'uss.famly'",
        "    2 |   uss.famly: mae",
        "      |   ^^^^^^^^^  did you mean 'uss.family'?",
        "",
        "1 problem. Nothing was started.",
    ]


def test_a_long_line_is_cut_around_the_problem() -> None:
    text = "k: {" + "a: 1, " * 60 + "oops: 2}"
    problems = Problems(sources={"a.yaml": [text]})
    problems.add(Place("a.yaml", 1, text.index("oops") + 1, 4), "unknown key 'oops'")
    with pytest.raises(UserError) as caught:
        problems.raise_if_any()
    line, caret = str(caught.value).splitlines()[1:3]
    assert len(line) < 120
    assert line[caret.index("^") : caret.index("^") + 4] == "oops"
