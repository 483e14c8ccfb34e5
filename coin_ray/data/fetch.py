"""Get a data set from its owners, where they offer a plain address."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from coin_ray.data.card import Card
from coin_ray.data.rasters import decoding
from coin_ray.download import download
from coin_ray.errors import UserError
from coin_ray.files import scratch
from coin_ray.weights.registry import home

Progress = Callable[[str, int, int | None], None]
"""Name of the archive, bytes so far and in all."""
MAX_BYTES = 100 << 30
"""Unpacked size above which an archive is refused; the largest fold of PanNuke has 13 GB."""
MAX_RATIO = 2000
"""Unpacked over packed size; arrays full of zeros reach some hundreds."""


def data_home() -> Path:
    """Where fetched data sets go: ``data/`` in COIN_RAY_HOME, by default in ~/.cache/coin_ray."""
    return home() / "data"


def fetch(card: Card, folder: Path, *, progress: Progress | None = None) -> list[Path]:
    """Download and unpack every archive of a data set into ``folder``; the unpacked folders.

    What is there already is left alone, so a broken call can be repeated; an archive that this call
    downloaded is deleted once it is unpacked. Empty where a person must fetch it (see the card's
    steps).

    Raises:
        UserError: as :func:`coin_ray.download.download` and :func:`unpack`.
    """
    unpacked = []
    for archive in card.archives:
        target = folder / Path(archive.name).stem
        if not target.exists():
            path = folder / archive.name
            brought = path.exists()
            report = partial(progress, archive.name) if progress is not None else None
            file = download(archive.url, path, sha256=archive.sha256, progress=report)
            unpack(file, target)
            if not brought:
                file.unlink()
        unpacked.append(target)
    return unpacked


def instructions(card: Card) -> str:
    """What a person must do to get the data set."""
    lines = [f"{card.title}", f"licence: {card.licence}", f"from: {card.url}"]
    lines += [f"{i}. {step}" for i, step in enumerate(card.steps, start=1)]
    lines += [f"expected: {card.layout}", f"then: coin-ray data check PATH --dataset {card.name}"]
    return "\n".join(lines)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip into ``folder``, which must not exist yet; whole or not at all.

    Raises:
        UserError: entries that climb out of the folder or are links, an absurd unpacked size, a
            truncated or corrupt archive, a folder that exists.
    """
    if folder.exists():
        raise UserError("the folder exists", where=str(folder), do="remove it or take another")
    part = scratch(folder)
    with decoding(archive), zipfile.ZipFile(archive) as zipped:
        _check(archive, zipped)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            zipped.extractall(part)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _check(archive: Path, zipped: zipfile.ZipFile) -> None:
    total = 0
    for entry in zipped.infolist():
        name = entry.filename.replace("\\", "/")
        is_link = stat.S_ISLNK(entry.external_attr >> 16)
        if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0] or is_link:
            raise UserError(
                "an archive that reaches out of its folder",
                where=str(archive),
                expected="plain files below the folder",
                found=f"entry {entry.filename!r}" + (" (a link)" if is_link else ""),
                do="do not unpack it; get it from its owners",
            )
        total += entry.file_size
    packed = max(archive.stat().st_size, 1)
    if total > MAX_BYTES or total > packed * MAX_RATIO:
        raise UserError(
            "an archive of absurd size",
            where=str(archive),
            expected=f"at most {MAX_BYTES >> 30} GB and {MAX_RATIO} times its own size",
            found=f"{total:,} bytes unpacked from {packed:,}",
            do="do not unpack it; get it from its owners",
        )
