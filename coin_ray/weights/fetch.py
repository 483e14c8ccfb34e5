"""Getting weight files: a download that resumes, or a local copy; both end in a rename."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coin_ray import safe
from coin_ray.download import Progress, download
from coin_ray.errors import UserError
from coin_ray.files import whole, write_text
from coin_ray.weights.registry import (
    check_name,
    checked,
    entry,
    file_digest,
    home,
    locate,
    names,
    own_names,
    parse,
    path_of,
)
from coin_ray.weights.state_files import read_state


def fetch(name: str, *, progress: Progress | None = None, timeout: float = 60.0) -> Path:
    """Download a registered file unless it is there already; its path.

    A broken download is gone on with by the next call. UserError as :func:`download`, and for a
    file that cannot be read or whose digest is not the registry's (these two are deleted).
    """
    weights = entry(name)
    path = path_of(weights)
    if path.is_file() or weights.packaged:
        checked(weights, locate(name))
        return path
    if not weights.url:
        raise UserError(
            f"{name} has no address to fetch from",
            do=f"`coin-ray models add {safe.shell(name)} FILE` takes a local file",
        )
    fetched = path.with_name(f"{path.stem}.fetched{path.suffix}")
    try:
        download(weights.url, fetched, progress=progress, timeout=timeout)
    except UserError as error:
        raise UserError(
            f"{name}: {error.what}",
            where=error.where,
            found=error.found,
            do=f"{error.do}; or get it elsewhere, then "
            f"`coin-ray models add {safe.shell(name)} FILE`",
        ) from error
    try:
        checked(weights, fetched)
        read_state(fetched)
    except UserError:
        fetched.unlink()
        raise
    os.replace(fetched, path)
    return path


def add(name: str, file: Path) -> Path:
    """Copy a local file into its place, after checking that it reads and has the right digest.

    Either format is taken; a packaged name is refused (its file comes with the package).
    """
    weights = entry(name)
    if weights.packaged:
        raise UserError(f"{name} ships in the package", do="use its own file, or another name")
    if not file.is_file():
        raise UserError("no such file", where=str(file), expected=f"the weights of {name}")
    path = path_of(weights)
    if file.suffix != path.suffix:
        raise UserError(
            f"the file is not in the format of {name}",
            where=str(file),
            expected=path.suffix,
            found=file.suffix or "no suffix",
            do=f"take {weights.url}" if weights.url else "convert it",
        )
    read_state(file)
    checked(weights, file)
    return _copied(file, path)


def register(name: str, file: Path, *, licence: str, like: str | None = None) -> Path:
    """Copy weights of one's own into their place and enter them in the registry of the home folder;
    their path. They are built as those of ``like`` (default: of the entry of that name).

    UserError for a name that is none, if the file does not read, if nothing says how to build it,
    or if that registry has the name already.
    """
    check_name(name)
    read_state(file)
    own = home() / "registry.yaml"
    if name in own_names():
        raise UserError(
            f"{name} is registered already", where=str(own), do="change that entry, or its name"
        )
    model = like if like is not None else name if name in names() else None
    if model is None:
        raise UserError(
            f"nothing says which network {name} belongs to",
            do="name an entry that is built alike: --like mae_base",
        )
    digest = file_digest(file)
    # With a digest, for the official files have names of their own in that folder.
    path = home() / "weights" / f"{name}-{digest[:24]}{file.suffix}"
    row = {
        "file": path.name,
        "licence": licence,
        "size_mb": round(file.stat().st_size / 1e6, 1),
        "sha256": digest,
        "build": entry(model).build,
    }
    _copied(file, path)
    _enter(own, name, row)
    return path


def _enter(own: Path, name: str, row: Mapping[str, Any]) -> None:
    """Add an entry to a registry; the user's own lines stay as they are."""
    import yaml

    with own.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two that add at once, both are in it
        before = own.read_text(encoding="utf-8") if own.is_file() else ""
        before += "\n" if before and not before.endswith("\n") else ""
        text = before + yaml.safe_dump({name: dict(row)}, sort_keys=False, allow_unicode=True)
        known = parse(before)
        try:
            whole = parse(text) == known | parse(text[len(before) :])
        except yaml.YAMLError:
            whole = False  # such as a map in braces, behind which nothing can stand
        if not whole:
            raise UserError(
                "no entry can be added to this registry",
                where=str(own),
                expected="entries that begin in the first column, NAME: {...}",
                do=f"add there by hand: {text[len(before) :].strip()}",
            )
        write_text(own, text)


def _copied(file: Path, path: Path) -> Path:
    with whole(path) as part:
        shutil.copyfile(file, part)
    return path
