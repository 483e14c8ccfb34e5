"""docs/promises.md names tests and faults that exist, and every kind of fault there is."""

from __future__ import annotations

import re

import pytest

from benchmarks.chaos_schedules import KINDS
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "promises.md").read_text()
PROMISES = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
TESTS = sorted(set(re.findall(r"`(test_\w+\.test_\w+)`", TEXT)))


def test_every_promise_is_attacked_and_held() -> None:
    assert [int(promise.split(".")[0]) for promise in PROMISES] == list(range(1, 13))
    for promise in PROMISES:
        attacked, held = promise.split("- **Held by**")
        assert "- **Attacked by**" in attacked
        assert re.search(r"`test_\w+\.test_\w+`", held)


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_exist(name: str) -> None:
    file, function = name.split(".")
    source = (ROOT / "tests" / f"{file}.py").read_text()
    assert re.search(rf"^def {function}\(", source, flags=re.MULTILINE)


def test_the_kinds_of_faults_are_those_of_the_benchmark() -> None:
    named = re.findall(r"`([^`]+)`", " ".join(re.findall(r"chaos (`.*?)[.;]\n", TEXT, re.DOTALL)))
    assert sorted(named) == sorted(KINDS)
