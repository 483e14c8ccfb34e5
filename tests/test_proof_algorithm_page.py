"""docs/algorithm.md names what exists, and every setting there is; its pictures can be redrawn."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from coin_ray.pipeline.settings import Cell, dotted_fields
from tests.conftest import ROOT

DOCS = ROOT / "docs"
TEXT = (DOCS / "algorithm.md").read_text()
SECTIONS = set(Cell.model_fields)
LARGEST = 150_000


def named() -> Iterator[str]:
    """Every dotted name in backticks; ``a.{b, c}`` is two."""
    for stem, last in re.findall(r"`([a-z_0-9.]+)\.(\w+|\{[\w, ]+\})`", TEXT):
        yield from (f"{stem}.{name}" for name in re.findall(r"\w+", last))


NAMES = [n for n in dict.fromkeys(named()) if "." in n]
TESTS = [n for n in NAMES if n.startswith("test_")]
SETTINGS = [n for n in NAMES if n.split(".")[0] in SECTIONS and n.count(".") == 1]
FUNCTIONS = [n for n in NAMES if n not in TESTS and n not in SETTINGS]


def test_the_page_names_enough_to_be_checked() -> None:
    assert len(TESTS) > 60
    assert len(FUNCTIONS) > 30
    assert len(SETTINGS) > 80


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_exist(name: str) -> None:
    module, function = name.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(f"coin_ray.{module}"), function))


@pytest.mark.parametrize("name", TESTS)
def test_tests_exist(name: str) -> None:
    file, function = name.split(".")
    source = (ROOT / "tests" / f"{file}.py").read_text()
    assert re.search(rf"^def {function}\(", source, flags=re.MULTILINE)


def test_settings_exist_and_none_is_left_out() -> None:
    """A section of a section, such as that of SSA's training, is named as a whole."""
    there = {key for key, _ in dotted_fields()}
    parts = {".".join(key.split(".")[:2]) for key in there}
    assert set(SETTINGS) == parts


def test_pictures_are_there_and_small() -> None:
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert len(shown) == 8
    assert {DOCS / path for path in shown} == set((DOCS / "pictures").glob("step_*.png"))
    for path in shown:
        assert (DOCS / path).stat().st_size < LARGEST


def test_the_pictures_can_be_redrawn(tmp_path: Path) -> None:
    """The same script on small tiles and a student that hardly trained."""
    main = runpy.run_path(str(DOCS / "pictures" / "make.py"))["main"]
    short = {"width": 8, "iterations": 2, "later_iterations": 2, "batch": 2, "crop": 64}
    main(tmp_path, tmp_path / "work", size=96, view=slice(8, 88), **short)
    drawn = sorted(tmp_path.glob("*.png"))
    assert [p.name for p in drawn] == sorted(p.name for p in (DOCS / "pictures").glob("step_*"))
    sizes = {Image.open(path).size for path in drawn}
    assert len(sizes) == 1
