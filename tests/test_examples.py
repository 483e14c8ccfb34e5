"""The examples in docstrings are run as they stand."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import coin_ray

ROOT = Path(coin_ray.__file__).parent
OF_API = ("__init__.py", "api")
"""Those need a study to run on: tests/test_api.py."""
MODULES = [
    ".".join(("coin_ray", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8") and path.relative_to(ROOT).parts[0] not in OF_API
]
PROMISED = {
    "coin_ray.propagation.transport",
    "coin_ray.imaging.instances",
    "coin_ray.confidence.selection",
    "coin_ray.metrics.evaluate",
    "coin_ray.metrics.aji",
    "coin_ray.metrics.panoptic",
}


def test_the_methods_have_an_example() -> None:
    assert set(MODULES) >= PROMISED


@pytest.mark.parametrize("name", MODULES)
def test_an_example_gives_what_it_says(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert found.attempted and not found.failed
