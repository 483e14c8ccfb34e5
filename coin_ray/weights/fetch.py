"""Getting weight files: a download that resumes, or a local copy; both end in a rename."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from coin_ray.download import Progress, download
from coin_ray.errors import UserError
from coin_ray.weights.files import read_state
from coin_ray.weights.registry import Weights, entry, file_digest, locate, mismatch, path_of


def fetch(name: str, *, progress: Progress | None = None, timeout: float = 60.0) -> Path:
    """Download a registered file unless it is there already; its path.

    A broken download is gone on with by the next call. UserError as :func:`download`, and for a
    file that cannot be read or whose digest is not the registry's (these two are deleted).
    """
    weights = entry(name)
    path = path_of(weights)
    if path.is_file() or weights.packaged:
        return _checked(weights, locate(name))
    if not weights.url:
        raise UserError(
            f"{name} has no address to fetch from",
            do=f"`coin-ray models add {name} FILE` takes a local file",
        )
    fetched = path.with_name(f"{path.stem}.fetched{path.suffix}")
    try:
        download(weights.url, fetched, progress=progress, timeout=timeout)
    except UserError as error:
        raise UserError(
            f"{name}: {error.what}",
            where=error.where,
            found=error.found,
            do=f"{error.do}; or get it elsewhere, then `coin-ray models add {name} FILE`",
        ) from error
    try:
        _checked(weights, fetched)
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
    _checked(weights, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.copy{path.suffix}")
    shutil.copyfile(file, part)
    os.replace(part, path)
    return path


def _checked(weights: Weights, path: Path) -> Path:
    problem = mismatch(weights, file_digest(path), path)
    if problem is not None:
        raise problem
    return path
