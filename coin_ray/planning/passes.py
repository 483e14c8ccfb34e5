"""Whether the tokens of a backbone are better stored, or made again by whoever needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from coin_ray.planning.alike import Alike
from coin_ray.planning.ledger import read_ledger
from coin_ray.store.artifacts import Store

STORED = 400e6
"""Bytes of an artifact that are written, or read, in a second, their digest included: what one
core and a local disk do."""


def cheaper_cache(
    missing: Iterable[str], memo_of: Mapping[str, Alike], store: Store, device: str
) -> str | None:
    """``uss.cache`` for stages that are to be computed on a GPU, by the digests of their keys; None
    where nothing was timed.

    Stored tokens cost one pass, are written once and read by every stage that takes them; the
    others cost each of these a pass.
    """
    takers = Counter(
        (memo_of[digest], below)
        for digest in missing
        for below in memo_of[digest].inputs(memo_of[digest].keys[digest])
        if below.stage == "features" and "embed" not in below.inputs
    )
    ledger = read_ledger(store, ["features"])
    passed = moved = 0.0
    for (memo, key), count in takers.items():
        rate = ledger.rate(key.stage, key.kind, device)
        if rate is None:
            return None
        lacking = memo.every(key.digest)
        for _, which, _ in memo.stored([key], store):
            lacking &= ~which
        amount = memo.amount(key.digest, lacking)
        passed += (count - 1) * rate.seconds * amount
        moved += (count + 1) * rate.bytes * amount / STORED
    return "tokens" if passed > moved else "none"
