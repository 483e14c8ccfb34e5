"""Get a data set from its owners, where they offer a plain address."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from coin_ray.data.archives import unpack
from coin_ray.data.card import Card
from coin_ray.download import download
from coin_ray.weights.registry import home

Progress = Callable[[str, int, int | None], None]
"""Name of the archive, bytes so far and in all."""


def data_home() -> Path:
    """Where fetched data sets go: ``data/`` in COIN_RAY_HOME, by default in ~/.cache/coin_ray."""
    return home() / "data"


def fetch(card: Card, folder: Path, *, progress: Progress | None = None) -> list[Path]:
    """Download and unpack every archive of a data set into ``folder``; the unpacked folders.

    What is there already is left alone, so a broken call can be repeated; an archive that this call
    downloaded is deleted once it is unpacked. Empty where a person must fetch it (see the card's
    steps).

    Raises:
        UserError: as :func:`coin_ray.download.download` and :func:`coin_ray.data.archives.unpack`.
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
