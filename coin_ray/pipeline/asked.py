"""What a run asks of a cell, and all that has to be there for it.

A run pulls: it asks for a cell's results, and a stage asks for its inputs only where its own
artifact is missing. These functions follow the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any

from coin_ray.pipeline.chain import CellKeys
from coin_ray.pipeline.keys import Key
from coin_ray.pipeline.memo import Memo


def cell_stages(keys: CellKeys, data: Any) -> Iterable[Key]:
    """Every stage that a finished cell has gone through, once."""
    return [key for part in parts(keys, data) for key in part.values()]


def parts(keys: CellKeys, data: Any) -> tuple[dict[str, Key], dict[str, Key]]:
    """The stages up to the first labels, which many cells share, and the others."""
    begun = begin(keys, data)
    return begun, down(rounds_asked(keys, data), keys.memo.inputs, begun.keys())


def begin(keys: CellKeys, data: Any) -> dict[str, Key]:
    """The stages up to the first labels, and their evaluation."""

    def asked() -> dict[str, Key]:
        return down((*first_asked(keys, data), *always_asked(keys, data)), keys.memo.inputs)

    return keys.memo.get(keys.cell, ("begun",), asked)


def down(
    wanted: Iterable[Key],
    inputs: Callable[[Key], Sequence[Key]],
    present: Set[str] = frozenset(),
) -> dict[str, Key]:
    """The wanted keys and all that they are made from, down to what is present."""
    found: dict[str, Key] = {}
    left = list(wanted)
    while left:
        key = left.pop()
        if key.digest not in found and key.digest not in present:
            found[key.digest] = key
            left += inputs(key)
    return found


def first_asked(keys: CellKeys, data: Any) -> Sequence[Key]:
    """What ``runner.run_cell`` asks for before the first round of a cell that misses one."""

    def asked() -> Iterator[Key]:
        for image in data.train:
            if keys.config.uss.family != "none":
                for zoom in keys.config.uss.zoom:
                    yield keys.centroids(image, zoom)
            yield keys.score(image, 1)
            yield keys.select(image, 1)

    return keys.memo.get(keys.cell, ("first",), lambda: tuple(asked()))


def always_asked(keys: CellKeys, data: Any) -> Sequence[Key]:
    """What it asks for in any case, and ``runner.export`` after it: of this, what no round is part
    of."""

    def asked() -> Iterator[Key]:
        steps = ("ucis",) if keys.config.rounds.count else ("ucis", "step1")
        if keys.config.ucis.trained is not None:
            yield keys.ucis_model()
        for image in data.train:
            yield keys.score(image, 1)
            yield keys.select(image, 1)
            yield from (keys.evaluated(image, step) for step in steps[1:])
        for sample in data.samples:
            yield from (keys.evaluated(sample.image, step) for step in steps)
            yield from _measured(keys, data, sample, rounds=False)

    return keys.memo.get(keys.cell, ("always",), lambda: tuple(asked()))


def rounds_asked(keys: CellKeys, data: Any) -> Sequence[Key]:
    """And the rest of it."""

    def asked() -> Iterator[Key]:
        rounds, final = keys.config.rounds.count, keys.final_step()
        for round_ in range(1, rounds + 1):
            yield keys.round(round_)
        labelled = {keys.refresh(round_) for round_ in range(2, rounds + 1)} - {1}
        for image in data.train if rounds else ():
            for round_ in sorted(labelled):
                yield keys.score(image, round_)
                yield keys.select(image, round_)
            yield keys.score(image, rounds + 1)
            yield keys.evaluated(image, final)
        for sample in data.samples if rounds else ():
            yield keys.evaluated(sample.image, final)
            yield from _measured(keys, data, sample, rounds=True)

    return keys.memo.get(keys.cell, ("rounds",), lambda: tuple(asked()))


def _measured(keys: CellKeys, data: Any, sample: Any, *, rounds: bool) -> Iterator[Key]:
    def known() -> dict[Any, str]:
        return {s.image: s.truth_digest() for s in data.samples if s.has_truth}

    truths = keys.memo.get(keys.cell, ("truths",), known)
    for step in keys.steps(sample.image) if sample.has_truth else ():
        if step.startswith("round_") == rounds:
            yield keys.evaluate(sample.image, truths[sample.image], step)


def needed(first: Sequence[Key], last: Sequence[Key], present: Set[str]) -> Sequence[Key]:
    """``first`` if a round is missing, or, in a cell without rounds, a score or a label."""
    rounds = [key for key in last if key.stage == "round"]
    watched = rounds or [key for key in last if key.stage in ("score", "select")]
    return first if any(key.digest not in present for key in watched) else ()


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
