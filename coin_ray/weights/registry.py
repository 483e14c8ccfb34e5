"""The registry of weight files: what each one is, where it lies, that it is the right one.

The entries are ``registry.yaml`` beside this module. A ``registry.yaml`` of the same form in the
home folder (``COIN_RAY_HOME``, default ``~/.cache/coin_ray``) adds entries or replaces them, so
that weights of one's own need no change here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from coin_ray import safe
from coin_ray.errors import UserError, first_line
from coin_ray.files import expanded

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Weights:
    """One weight file.

    ``file`` is its name in the weights folder (under the package if ``packaged``), ``size_mb`` its
    approximate size in 10^6 bytes, ``sha256`` the official file's digest, ``sha256_prefix`` its
    first digits where only they are published; ``build`` says which model takes it: ``model``,
    ``overrides``, ``mean``, ``std``.
    """

    name: str
    file: str
    licence: str
    size_mb: float
    url: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    packaged: bool = False
    build: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for digits in (self.sha256, self.sha256_prefix):
            if not isinstance(digits, str | None):  # YAML reads 12345678 and 1234e567 as numbers
                raise TypeError(f"{self.name}: put quotes around the sha256 {digits}")


def check_name(name: str) -> None:
    """UserError for a name that an entry cannot have: it names a file, too."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name, re.ASCII):
        raise UserError(
            f"{name!r} cannot name weights",
            expected="letters, digits, '.', '_' and '-', 100 at most, a letter or digit first",
            do="choose such a name",
        )


def home() -> Path:
    """The folder of everything downloaded: ``COIN_RAY_HOME``, default ``~/.cache/coin_ray``."""
    chosen = os.environ.get("COIN_RAY_HOME")
    return expanded(chosen or "~/.cache/coin_ray")


def path_of(weights: Weights) -> Path:
    """Where the file belongs, whether or not it is there."""
    return (PACKAGE if weights.packaged else home() / "weights") / weights.file


def names() -> list[str]:
    """Every name that :func:`entry` knows, in the order of the registry."""
    return list(_entries())


def own_names() -> list[str]:
    """The names that the registry in the home folder has."""
    own = home() / "registry.yaml"
    return list(_read(str(own), own.stat().st_mtime_ns)) if own.is_file() else []


def entry(name: str) -> Weights:
    """The registry's entry; UserError with the nearest name if there is none."""
    found = _entries()
    if name not in found:
        from difflib import get_close_matches

        near = get_close_matches(name, found, n=1)
        raise UserError(
            f"unknown weights {name!r}",
            expected="one of " + ", ".join(found),
            do=f"did you mean {near[0]}?" if near else "see `coin-ray models list`",
        )
    return found[name]


def locate(name: str) -> Path:
    """Path of an existing weight file; UserError with the line that gets it if it is missing."""
    weights = entry(name)
    path = path_of(weights)
    if path.is_file():
        return path
    if weights.packaged:
        do = "install coin-ray again (the file ships in the package)"
    else:
        fetch = f"`coin-ray models fetch {safe.shell(name)}` or " if weights.url else ""
        do = f"{fetch}`coin-ray models add {safe.shell(name)} FILE`; without it: `--profile mini`"
    raise UserError(f"the weights {name} are missing", expected=str(path), found="no file", do=do)


def digest(name: str) -> str:
    """sha256 (hex) of the file, hashed once a process unless its size or time changes.

    UserError if the file is missing or is not the official one (where its digest is known).
    """
    return checked(entry(name), locate(name))


def identity(name: str) -> str:
    """sha256 (hex) of the file's digest and of how it is built: what a stage key must hold."""
    text = json.dumps([digest(name), entry(name).build], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def checked(weights: Weights, path: Path) -> str:
    """sha256 (hex) of the file at ``path``; UserError if it is not the registry's, if that has
    one."""
    found, wanted = file_digest(path), weights.sha256 or weights.sha256_prefix or ""
    if found.startswith(wanted):
        return found
    raise UserError(
        f"the file is not the official one of {weights.name} (cut short or another version?)",
        where=str(path),
        expected=f"sha256 {wanted}{'' if weights.sha256 else '...'}",
        found=f"sha256 {found}",
        do=f"delete it, then `coin-ray models fetch {safe.shell(weights.name)}`",
    )


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file, remembered by path, size and modification time."""
    stat = path.stat()
    return _hash(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _hash(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries() -> dict[str, Weights]:
    entries = dict(_read(str(PACKAGE / "registry.yaml"), 0))
    own = home() / "registry.yaml"
    if own.is_file():
        entries |= _read(str(own), own.stat().st_mtime_ns)
    return entries


@lru_cache(maxsize=8)
def _read(path: str, mtime_ns: int) -> dict[str, Weights]:
    import yaml

    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, TypeError, AttributeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            "the weights registry cannot be read",
            where=f"{path}:{mark.line + 1}" if mark else path,
            expected="NAME: {file, licence, size_mb, url, sha256, sha256_prefix, packaged, build}",
            found=getattr(error, "problem", None) or first_line(error),
            do="mend that entry, or delete it and `coin-ray models add` it again",
        ) from error


def parse(text: str) -> dict[str, Weights]:
    """The entries in a registry's text. Raises YAMLError, TypeError, AttributeError or ValueError
    for what is none."""
    import yaml

    rows = yaml.safe_load(text) or {}
    for name, row in rows.items():
        if not isinstance(name, str):
            raise TypeError(f"the name {name!r} is not text: put it in quotes")
        if not isinstance(row, dict) or not isinstance(row.get("file"), str):
            raise TypeError(f"{name!r} is no entry: it names no file")
    return {name: Weights(name=name, **row) for name, row in rows.items()}
