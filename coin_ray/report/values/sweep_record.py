"""What is known about the last sweep of a study, kept beside its cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coin_ray.files import write_text

FILE = "sweep.json"


def keep_sweep(runs: Path, facts: Mapping[str, Any]) -> None:
    """Write what is known about a sweep into the folder of its cells, in place of the last one.

    ``facts``: ``command``, ``git_commit``, ``git_changed``, ``environment`` (python, platform,
    processor, cores, device, packages), ``data`` (name -> train and evaluated images as name ->
    content digest, and the number of labelled ones), ``missing`` (cell -> why it has no result).
    """
    runs.mkdir(parents=True, exist_ok=True)
    write_text(runs / FILE, json.dumps(facts, indent=1))


def last_sweep(runs: Path) -> dict[str, Any]:
    """What ``keep_sweep`` wrote last; empty if no sweep did."""
    path = runs / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
