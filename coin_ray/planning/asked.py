"""What a run asks of a cell (``steps``), as keys, and all that has to be there for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

from coin_ray.data.dataset import DataSet
from coin_ray.pipeline import steps
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.memo import Memo
from coin_ray.store.keys import Key


def cell_stages(chain: Chain, data: DataSet) -> Iterable[Key]:
    """Every stage that a finished cell has gone through, once."""
    return [key for part in parts(chain, data) for key in part.values()]


def parts(chain: Chain, data: DataSet) -> tuple[dict[str, Key], dict[str, Key]]:
    """The stages up to the first labels, which many cells share, and the others."""
    begun = begin(chain, data)
    return begun, down(rounds_asked(chain, data), chain.memo.inputs, begun.keys())


def begin(chain: Chain, data: DataSet) -> dict[str, Key]:
    """The stages up to the first labels, and their evaluation."""

    def asked() -> dict[str, Key]:
        return down((*first_asked(chain, data), *always_asked(chain, data)), chain.memo.inputs)

    return chain.memo.get(chain.cell, ("begun",), asked)


def down(
    wanted: Iterable[Key],
    inputs: Callable[[Key], Sequence[Key]],
    present: Set[str] = frozenset(),
) -> dict[str, Key]:
    """The wanted keys and what they are made from, if it is stored, down to what is present."""
    found: dict[str, Key] = {}
    left = list(wanted)
    while left:
        key = left.pop()
        if key.digest not in found and key.digest not in present:
            if key.kept:
                found[key.digest] = key
            left += inputs(key)
    return found


def first_asked(chain: Chain, data: DataSet) -> Sequence[Key]:
    """What is asked for before the first round of a cell that misses one."""

    def asked() -> Sequence[Key]:
        return tuple(map(chain.key, steps.begins(chain, data)))

    return chain.memo.get(chain.cell, ("first",), asked)


def always_asked(chain: Chain, data: DataSet) -> Sequence[Key]:
    """What is asked for in any case and no round is part of."""

    def asked() -> Sequence[Key]:
        found = steps.asks(chain, data)
        return tuple(chain.key(ref) for ref in found if not steps.of_rounds(ref))

    return chain.memo.get(chain.cell, ("always",), asked)


def rounds_asked(chain: Chain, data: DataSet) -> Sequence[Key]:
    """And the rest of it."""

    def asked() -> Sequence[Key]:
        found = steps.asks(chain, data)
        return tuple(chain.key(ref) for ref in found if steps.of_rounds(ref))

    return chain.memo.get(chain.cell, ("rounds",), asked)


def needed(
    first: Sequence[Key], last: Sequence[Key], missing: Callable[[Key], bool]
) -> Sequence[Key]:
    """``first`` if a round is missing, or, in a cell without rounds, a score or a label."""
    rounds = [key for key in last if key.stage == "round"]
    watched = rounds or [key for key in last if key.stage in ("score", "select")]
    return first if any(map(missing, watched)) else ()


def trained(wanted: Sequence[Key], memo: Memo) -> list[str]:
    """Digests of those stages below the wanted ones that a round is part of."""
    known: dict[str, bool] = {}

    def seeded(key: Key) -> bool:
        if key.digest not in known:
            # No short cut: all of them are to be known.
            below = [seeded(one) for one in memo.inputs(key)]
            known[key.digest] = key.stage == "round" or any(below)
        return known[key.digest]

    for key in wanted:
        seeded(key)
    return [digest for digest, found in known.items() if found]
