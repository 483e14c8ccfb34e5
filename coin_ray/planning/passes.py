"""Whether the tokens of a backbone are better stored, or made again by whoever needs them."""

from __future__ import annotations

from collections.abc import Iterable

from coin_ray.planning.ledger import read_ledger
from coin_ray.store.artifacts import Store
from coin_ray.store.keys import Key

STORED = 400e6
"""Bytes of an artifact that are written, or read, in a second, their digest included: what one
core and a local disk do."""


def cheaper_cache(
    passes: Iterable[tuple[Key, float, int]], store: Store, device: str
) -> str | None:
    """``uss.cache`` for stages that are to be computed on a GPU; None where nothing was timed.

    ``passes``: keys of tokens, how much of their work the store lacks, by how many stages they are
    taken. Stored tokens cost one pass, are written once and read by every stage that takes them;
    the others cost each of these a pass.
    """
    ledger = read_ledger(store, ["features"])
    passed = moved = 0.0
    for key, amount, count in passes:
        rate = ledger.rate(key.stage, key.kind, device)
        if rate is None:
            return None
        passed += (count - 1) * rate.seconds * amount
        moved += (count + 1) * rate.bytes * amount / STORED
    return "tokens" if passed > moved else "none"
