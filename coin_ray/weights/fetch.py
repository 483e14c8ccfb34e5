"""Getting weight files: a download that resumes, or a local copy; both end in a rename."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from coin_ray.errors import UserError
from coin_ray.weights.files import read_state
from coin_ray.weights.registry import Weights, entry, file_digest, locate, mismatch, path_of

CHUNK = 1 << 20
Progress = Callable[[int, int | None], None]


def fetch(name: str, *, progress: Progress | None = None, timeout: float = 60.0) -> Path:
    """Download a registered file unless it is there already; its path.

    A broken download leaves a ``.part`` file and the next call goes on from there. ``progress``
    gets the bytes so far and in all (None if the server does not say). UserError for no network, a
    refusal of the server, a file that cannot be read, or one whose digest is not the registry's
    (these two are deleted).
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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        _download(weights.url, part, progress, timeout)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{name} could not be fetched",
            where=weights.url,
            found=str(error) or type(error).__name__,
            do=f"run it again (it goes on where it stopped), or download the file elsewhere and "
            f"`coin-ray models add {name} FILE`",
        ) from error
    try:
        _checked(weights, part)
        read_state(part)
    except UserError:
        part.unlink()
        raise
    os.replace(part, path)
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


def _download(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing after what is there: the part is the whole file
            return
        raise
    with response:
        resumed = response.status == 206
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        with open(part, "ab" if resumed else "wb") as out:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")
