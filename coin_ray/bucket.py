"""A bucket of objects (``s3://…``, ``gs://…``), and folders of this machine that stand for it.

The mirror of ``s3://name/prefix`` is a folder whose path says so on every machine: what is written
whole there is an object of the bucket under the same name, and what is missing there is fetched.
Nothing is decided by a listing, and only ``pull`` asks for one: names in a bucket are known.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from coin_ray.errors import UserError

MIRRORS = "coin-ray-buckets"
"""Folder of all mirrors; what follows it in a path is an address."""
_URL = re.compile(r"(s3|gs)://([^/\s]+)((?:/[^/\s]+)*)/?")
_REFUSED = (errno.EINVAL, errno.EBUSY)
_PATIENT = {"retries": {"mode": "standard", "max_attempts": 8}}
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": _PATIENT, "max_concurrency": 1},  # more, and it asks for sizes first
    "gs": {},
}


def local(text: str) -> Path:
    """A path, or for the address of a bucket the folder that stands for it: in COIN_RAY_CACHE, else
    in the folder of temporary files, where it is this user's alone. UserError for an address that
    is none."""
    url = re.sub("^(s3|gs):/+", r"\1://", text)  # a path has lost a slash
    if not url.startswith(("s3://", "gs://")):
        return Path(text)
    found = _URL.fullmatch(url)
    parts = found[3].split("/")[1:] if found else []
    if found is None or {".", ".."} & {found[2], *parts}:
        raise UserError("this is no address of a bucket", where=url, expected="s3://BUCKET/PREFIX")
    chosen = os.environ.get("COIN_RAY_CACHE")
    place = Path(chosen or Path(tempfile.gettempdir(), f"coin-ray-{os.getuid()}")).absolute()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise UserError(
            "the folder in front of buckets is not yours", where=str(place), do="set COIN_RAY_CACHE"
        )
    return Path(place, MIRRORS, found[1], found[2], *parts)


def address(path: Path) -> str | None:
    """The address that a path stands for; None for all other paths."""
    text = str(path)
    _, found, rest = text.partition(f"/{MIRRORS}/")
    return rest.replace("/", "://", 1) if found else None


def shown(path: Path | str) -> str:
    """A path as its user knows it."""
    return address(Path(path)) or str(path)


def read(path: Path) -> bytes | None:
    """The object that a path stands for; None if there is none, or it stands for none."""
    return _read(path)


def first_line(path: Path) -> bytes | None:
    """The beginning of the object that a path stands for, up to its first line's end; as
    ``read``."""
    raw, part = b"", 1 << 16
    while (more := _read(path, start=len(raw), end=len(raw) + part)) is not None:
        raw += more
        if b"\n" in more or len(more) < part:
            return raw.partition(b"\n")[0]
        part *= 4
    return None


def exists(path: Path) -> bool:
    """Whether there is such an object."""
    return _read(path, start=0, end=1) is not None


def _read(path: Path, **part: int) -> bytes | None:
    url = address(path)
    if url is None:
        return None
    with _asking(url) as system:
        try:
            return bytes(system.cat_file(url, **part))
        except FileNotFoundError:
            return None


def write(path: Path, content: bytes, *, new: bool = False) -> bool:
    """Write the object that a path stands for, if it stands for one. False where it is to be
    ``new`` and is there already."""
    url = address(path)
    if url is None:
        return True
    with _asking(url) as system:
        try:
            system.pipe_file(url, content, mode="create" if new else "overwrite")
        except OSError as error:
            # Of a condition that does not hold some servers say no more than that.
            refused = isinstance(error, FileExistsError) or error.errno in _REFUSED
            if not (new and refused and exists(path)):
                raise
            return False
    return True


def modified(path: Path) -> float | None:
    """When the object that a path stands for was written, by the bucket's clock, s since 1970; None
    where it stands for none."""
    url = address(path)
    if url is None:
        return None
    with _asking(url) as system:
        return float(system.modified(url).timestamp())


def send(path: Path) -> None:
    """Write a file as the object that its path stands for, if it stands for one."""
    if address(path) is not None:
        write(path, path.read_bytes())


def remove(path: Path) -> None:
    """Remove the object that a path stands for, if there is one."""
    url = address(path)
    if url is not None:
        with _asking(url) as system:
            try:
                system.rm_file(url)
            except FileNotFoundError:
                return


def remove_all(path: Path) -> None:
    """Remove what a bucket lists below the folder that stands for an address."""
    remove_many([path / name for name in names(path)])


def remove_many(paths: Sequence[Path]) -> None:
    """Remove objects of one bucket, as many as it takes at a time."""
    urls = [url for url in map(address, paths) if url is not None]
    if urls:
        with _asking(urls[0]) as system:
            system.rm(urls)


def system_of(path: Path) -> tuple[Any, str]:
    """The file system behind a path that stands for an object, and its name there."""
    scheme, _, name = str(address(path)).partition("://")
    return _system(scheme), name


class Object(NamedTuple):
    """``modified``: when it was written, by the bucket's clock, s since 1970."""

    size: int
    modified: float


def names(path: Path) -> dict[str, int]:
    """Below the folder that stands for an address, at any depth: name -> bytes. A bucket may leave
    out for a while what was just written, and name what was removed."""
    return {name: int(one["size"]) for name, one in _listed(path)}


def objects(path: Path) -> dict[str, Object]:
    """As ``names``, with when each was written."""
    return {
        name: Object(int(one["size"]), _stamp(one.get("LastModified") or one.get("mtime")))
        for name, one in _listed(path)
    }


def _stamp(when: Any) -> float:
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return float(when.timestamp())


def _listed(path: Path) -> list[tuple[str, dict[str, Any]]]:
    url = address(path)
    if url is None:
        return []
    with _asking(url) as system:
        found = system.find(url, detail=True)
    prefix = f"{url.partition('://')[2]}/"
    return [
        (name.removeprefix(prefix), one) for name, one in found.items() if name.startswith(prefix)
    ]


@contextmanager
def _asking(url: str) -> Iterator[Any]:
    """OSError whatever a library raises that could not reach the bucket, or may not."""
    try:
        yield _system(url.partition("://")[0])
    except (OSError, UserError) as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = url
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp", "gcsfs")):
            raise
        raise OSError(errno.EIO, str(error), url) from error


@cache
def _system(scheme: str) -> Any:
    """The library's own way: its chain of credentials, which it refreshes, and its retries."""
    import fsspec

    try:
        return fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **_OPTIONS[scheme]
        )
    except ImportError as error:
        extra = {"s3": "s3", "gs": "gcs"}[scheme]
        raise UserError(
            f"{scheme}:// needs a package that is not installed",
            found=str(error),
            do=f'pip install "coin-ray[{extra}]"',
        ) from error
