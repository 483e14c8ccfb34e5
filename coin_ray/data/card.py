"""What is known of a data set, and what its module offers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from coin_ray.data.sample import Sample
from coin_ray.errors import UserError


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


@cache
def _cards() -> dict[str, Card]:
    import yaml

    rows = yaml.safe_load(Path(__file__).with_name("cards.yaml").read_text(encoding="utf-8"))
    cards = {}
    for name, row in rows.items():
        archives = tuple(Archive(**archive) for archive in row.pop("archives", ()))
        lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
        cards[name] = Card(name=name, **row | lists, archives=archives)
    return cards


def card(name: str) -> Card:
    """The card of a data set."""
    return _cards()[name]


def chosen(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """``value`` of an option, if it is one of the ``allowed``; UserError else."""
    if value not in allowed:
        raise UserError(f"unknown {option}", expected=", ".join(allowed), found=value)
    return value


class Known(Protocol):
    """A module ``coin_ray.data.<name>``.

    ``detect``: does the folder look like this data set as its owners ship it? Reads names only.
    ``find``: its samples, sorted; keyword options are the module's own. Nothing is decoded.
    """

    CARD: Card

    def detect(self, path: Path) -> bool: ...

    def find(self, path: Path, **options: Any) -> list[Sample]: ...
