"""What is known of a data set, and what its module offers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coin_ray.data.sample import Sample


@dataclass(frozen=True)
class Archive:
    """A file that ``fetch`` downloads: address, local name and, where known, SHA-256."""

    url: str
    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Card:
    """A data set in words: shown by ``coin-ray data info`` and in the documentation.

    ``counts`` are images by split, ``splits`` sentences by scheme; ``steps`` say what a person must
    do where no ``archives`` can be downloaded; ``mpp`` is None where it varies or is unstated.
    """

    name: str
    title: str
    url: str
    licence: str
    citation: str
    layout: str
    mpp: float | None
    counts: dict[str, int]
    splits: dict[str, str]
    traps: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()


class Known(Protocol):
    """A module ``coin_ray.data.<name>``.

    ``detect``: does the folder look like this data set as its owners ship it? Reads names only.
    ``find``: its samples, sorted; keyword options are the module's own. Nothing is decoded.
    """

    CARD: Card

    def detect(self, path: Path) -> bool: ...

    def find(self, path: Path, **options: Any) -> list[Sample]: ...
