"""Where studies and search spaces lie: the working folder first, then what came with coin-ray."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from coin_ray.errors import UserError
from coin_ray.files import exists
from coin_ray.study.errors import nearest

Shelf = Literal["search_spaces", "ablations"]
SHELVES: Mapping[Shelf, str] = {"search_spaces": "profile", "ablations": "study"}
"""What a file of each folder is called."""


PARTS = ("", "paper")
"""Folders of a shelf: one's own, and that of the tables and figures of the paper."""


def shelves(shelf: Shelf) -> list[Path]:
    """The folders that are searched, in order; those that do not exist are left out.

    An installed package carries both folders inside; in a source checkout they lie at its top.
    """
    package = Path(__file__).resolve().parent.parent
    folders = [Path.cwd() / shelf, package / shelf]
    if (package.parent / "pyproject.toml").is_file():  # Else a stranger's folder in site-packages.
        folders.append(package.parent / shelf)
    seen: list[Path] = []
    for folder in folders:
        if folder.is_dir() and folder.resolve() not in [s.resolve() for s in seen]:
            seen.append(folder)
    return seen


def available(shelf: Shelf) -> list[str]:
    """Names (file stems) on a shelf, sorted."""
    folders = [folder / part for folder in shelves(shelf) for part in PARTS]
    return sorted({f.stem for folder in folders for f in folder.glob("*.yaml")})


def paper() -> list[str]:
    """Names of the studies that are tables and figures of the paper, sorted."""
    folders = [folder / PARTS[1] for folder in shelves("ablations")]
    return sorted({f.stem for folder in folders for f in folder.glob("*.yaml")})


def find(name: str, shelf: Shelf) -> Path | None:
    """The file of a name, or of a path as it would be in a checkout (``ablations/x.yaml``)."""
    asked = Path(name)
    if exists(asked) and asked.is_file():
        return asked
    if asked.is_absolute() or ".." in asked.parts:
        return None
    tail = asked.relative_to(shelf) if asked.parts[:1] == (shelf,) else asked
    parts = PARTS if len(tail.parts) == 1 else tail.parts[:-1]
    if len(tail.parts) > 2 or parts[-1] not in PARTS:
        return None
    stem = tail.stem if tail.suffix in (".yaml", ".yml") else tail.name
    for folder, part, suffix in itertools.product(shelves(shelf), parts, (".yaml", ".yml")):
        path = folder / part / (stem + suffix)
        if exists(path) and path.is_file():
            return path
    return None


def find_study(name: str) -> Path:
    """Path of a study given as a path or a name. Raises UserError naming what there is."""
    return _found(name, "ablations")


def with_level(named: str) -> tuple[str, str | None]:
    """The study and the level (or cell) of STUDY or STUDY:LEVEL; both may hold colons, and the
    shortest study that there is counts."""
    if find(named, "ablations") is None:
        for at in [i for i, character in enumerate(named) if character == ":"]:
            if find(named[:at], "ablations"):
                return named[:at], named[at + 1 :]
    return named, None


def find_profile(name: str) -> Path:
    """Path of ``search_spaces/NAME.yaml``. Raises UserError naming what there is."""
    return _found(name, "search_spaces")


def _found(name: str, shelf: Shelf) -> Path:
    path = find(name, shelf)
    if path is not None:
        return path
    names = available(shelf)
    guess = nearest(Path(name).stem, names)
    raise UserError(
        f"no such {SHELVES[shelf]}",
        where=name,
        expected=f"a file, or one of: {', '.join(names)}" if names else "a YAML file",
        found="a folder" if exists(Path(name)) else f"nothing at {Path.cwd() / name}",
        do=f"did you mean {guess}?" if guess else f"give the path of a {SHELVES[shelf]} file",
    )
