"""Damage to a store between two runs, as disks, copies and hands do it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.chaos_schedules import Fault

RECENT = 3
"""One in so many artifacts, the last made, is what the next run is sure to read."""


def by_age(store: Path) -> list[Path]:
    """The artifacts' folders in the order in which they were made."""
    return [p.parent for p in sorted(store.glob("*/*/data.safetensors"), key=_made)]


def _made(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, str(path)


def keep(source: Path, target: Path, share: float) -> None:
    """Copy the first ``share`` of a store's artifacts."""
    made = by_age(source)
    for folder in made[: round(share * len(made))]:
        shutil.copytree(folder, target / folder.relative_to(source))


def damage(fault: Fault, store: Path) -> list[str]:
    """Do what the fault says to artifacts drawn from the last made; what was done to which."""
    draw, made = Random(fault.draw), by_age(store)
    recent = made[-max(1, len(made) // RECENT) :]
    if not recent:
        return []
    done = []
    for what in fault.what:
        # A swap needs values, which a third of the stages have none of.
        fit = [f for f in recent if what != "swap values" or _swappable(f)]
        folder = draw.choice(fit or made[-1:])
        if _hurt(folder, what, draw):
            done.append(f"{what} of {folder.relative_to(store)}")
    return done


def _hurt(folder: Path, what: str, draw: Random) -> bool:
    verb, _, name = what.partition(" ")
    path = folder / {"data": "data.safetensors"}.get(name, "manifest.json")
    if not path.is_file():
        return False  # an earlier damage has taken it
    raw = bytearray(path.read_bytes())
    if verb == "delete":
        path.unlink()
    elif verb == "truncate":
        path.write_bytes(raw[: draw.randrange(len(raw))])
    elif verb == "flip" and raw:
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        path.write_bytes(raw)
    elif verb == "swap":
        pairs = _swappable(folder)
        if not pairs:
            return False
        manifest = json.loads(raw)
        at, one, other = draw.choice(pairs)
        within = manifest["info"]
        for step in at:
            within = within[step]
        within[one], within[other] = within[other], within[one]
        path.write_text(json.dumps(manifest))
    return True


def _swappable(folder: Path) -> list[tuple[tuple[Any, ...], Any, Any]]:
    """Where in ``info`` two different values of a kind stand beside each other: the way to what
    holds them, and both their places."""
    try:
        return list(_pairs(json.loads((folder / "manifest.json").read_text())["info"]))
    except (OSError, ValueError, KeyError, TypeError):
        return []  # damaged already


def _pairs(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    places = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    plain = [p for p in places if isinstance(value[p], str | int | float)]
    for one, other in pairwise(plain):
        if type(value[one]) is type(value[other]) and value[one] != value[other]:
            yield at, one, other
    for place in places:
        yield from _pairs(value[place], (*at, place))
