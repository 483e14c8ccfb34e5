"""One file over HTTP: goes on where it stopped, is checked, and is whole or absent."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from coin_ray.errors import UserError
from coin_ray.files import SCRATCH

CHUNK = 1 << 20
Progress = Callable[[int, int | None], None]
"""Bytes so far and in all (None if the server does not say)."""


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    timeout: float = 60.0,
) -> Path:
    """Fetch ``url`` to ``path``; a file that is there already is only checked.

    A broken download leaves :func:`unfinished`, from which the next call goes on.

    Raises:
        UserError: no connection, a refusal of the server, a web page instead of a file, or another
            SHA-256 than ``sha256`` (what was downloaded is deleted then).
    """
    if path.is_file():
        _check(path, url, sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = unfinished(url, path)
    try:
        _fetch(url, part, progress, timeout)
    except (OSError, HTTPException) as error:
        raise UserError(
            "could not be fetched",
            where=url,
            found=str(error) or type(error).__name__,
            do="run it again: it goes on where it stopped",
        ) from error
    try:
        _check(part, url, sha256)
    except UserError:
        part.unlink()
        raise
    part.replace(path)
    return path


def unfinished(url: str, path: Path) -> Path:
    """What is there of a download so far. Browsers and other tools call theirs ``<path>.part``."""
    return path.with_name(f"{SCRATCH}{hashlib.sha256(url.encode()).hexdigest()[:16]}.part")


def _fetch(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing after what is there: the part is the whole file
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise UserError(
                "the server answered with a web page, not with the file",
                where=url,
                do="open the address in a browser and download the file there",
            )
        done = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        with part.open("ab" if done else "wb") as out:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _check(path: Path, url: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(
            "this is not the file that was published",
            where=str(path),
            expected=f"sha256 {sha256}",
            found=f"sha256 {found}",
            do=f"remove it and fetch {url} again; if it stays so, the owners changed the file",
        )
