"""What a list of cells would compute: its unique stages, those in the store, those left."""

from __future__ import annotations

import functools
import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from coin_ray.data.dataset import DataSet
from coin_ray.data.sample import Image
from coin_ray.pipeline import steps
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.identity import CellIdentity
from coin_ray.pipeline.memo import BIT, Memo
from coin_ray.pipeline.needs import (
    with_cache,
)
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.alike import Alike, repeated
from coin_ray.planning.asked import (
    always_asked,
    begin,
    down,
    first_asked,
    needed,
    parts,
    rounds_asked,
    trained,
)
from coin_ray.planning.contents import identities
from coin_ray.planning.passes import cheaper_cache
from coin_ray.store.artifacts import Store
from coin_ray.store.keys import Key
from coin_ray.workspace import Workspace


@dataclass(frozen=True)
class StageCount:
    """``naive``: stages if every cell ran alone; ``unique`` after sharing; ``stored`` of those;
    ``missing``: to compute. What is neither stored nor missing, nobody will ask for."""

    naive: int
    unique: int
    stored: int
    missing: int


class Part(NamedTuple):
    """Some of the artifacts that a key stands for: how many, and how much work that is."""

    number: int
    amount: float


@dataclass(frozen=True)
class Plan:
    """The stages of a list of cells, by the digests of their keys.

    A key stands for all artifacts of images that are alike (``planning.alike``). ``uses``: in how
    many cells each of ``keys`` occurs; ``whole``: all for which it stands, ``there``: how many of
    them the store has, ``missing``: what will be computed. ``present``: the digests of what is
    stored; ``inputs``: what a stage is made from. Where no round is stored yet, those of many cells
    are alike: one stands for all, and ``copies`` says for how many, where that is not one.
    ``weights`` and ``masks`` are the content digests that the keys hold; ``cache`` is the setting
    ``uss.cache`` of cells that leave it out.
    """

    keys: Mapping[str, Key]
    uses: Mapping[str, int]
    copies: Mapping[str, int]
    whole: Mapping[str, Part]
    there: Mapping[str, int]
    missing: Mapping[str, Part]
    present: Set[str]
    inputs: Callable[[Key], Sequence[Key]]
    weights: Mapping[str, str]
    masks: Mapping[tuple[str, str], Mapping[str, str]]
    cache: str | None = None

    @cached_property
    def stages(self) -> dict[str, StageCount]:
        """Counts by stage, in the chain's order."""
        counts = {stage: [0, 0, 0, 0] for stage in STAGES}
        nothing = Part(0, 0.0)
        for digest, key in self.keys.items():
            count, copies = counts[key.stage], self.copies.get(digest, 1)
            number = self.whole[digest].number
            count[0] += number * self.uses[digest]
            count[1] += number * copies
            count[2] += self.there.get(digest, 0)
            count[3] += self.missing.get(digest, nothing).number * copies
        return {stage: StageCount(*count) for stage, count in counts.items() if count[1]}

    @property
    def unique(self) -> int:
        return sum(count.unique for count in self.stages.values())

    @property
    def stored(self) -> int:
        return len(self.present)

    @property
    def to_compute(self) -> dict[str, int]:
        """Stage -> how many of it will be computed; stages with none left out."""
        return {stage: count.missing for stage, count in self.stages.items() if count.missing}


Opened = tuple[Chain, Alike]
"""A cell on the images that stand for all of its data set's."""


def plan_cells(
    cells: Sequence[CellIdentity],
    data: Mapping[str, DataSet],
    workspace: Path,
    device: str = "cpu",
    until: str | None = None,
    cheaper: str | None = None,
) -> Plan:
    """Plan cells on their resolved data, where ``device`` computes, up to a stage or their end.
    UserError if weights, mask files or the extra ``crf`` are missing. ``cheaper``: a ``uss.cache``
    for those that leave it out; None if that is to be found out."""
    weights, masks = identities(cells, data, until)
    store = Store(Workspace(workspace).store)
    memo_of: dict[str, Alike] = {}
    uses: Counter[str] = Counter()
    copies: dict[str, int] = {}
    asked: list[tuple[Sequence[Key], Sequence[Key]]] = []
    with _no_collector():
        chains = _open_alike(cells, data, weights, masks, device, cheaper)
        for chain, memo in chains if until else ():
            goals = [chain.key(ref) for ref in steps.asks(chain, memo.data, until)]
            begun = down(goals, memo.inputs)
            asked.append(((), goals))
            memo_of |= dict.fromkeys(begun, memo)
            uses.update(begun.keys())
        for chain, memo, times in () if until else _counted(chains, store):
            begun, later = parts(chain, memo.data) if times else (begin(chain, memo.data), {})
            memo_of |= dict.fromkeys(begun, memo)
            memo_of |= dict.fromkeys(later, memo)
            uses.update(begun.keys())
            uses.update(dict.fromkeys(later, times))
            first = first_asked(chain, memo.data)
            rounds = rounds_asked(chain, memo.data) if times else ()
            always = (*always_asked(chain, memo.data), *rounds)
            asked.append((first, always) if times else ((), (*always, *first)))
            if times > 1:
                copies |= dict.fromkeys(trained(rounds, memo), times)
        keys = {digest: memo.keys[digest] for digest, memo in memo_of.items()}
        there: Counter[str] = Counter()
        present = set()
        for memo in {id(memo): memo for _, memo in chains}.values():
            own = (key for digest, key in keys.items() if memo_of[digest] is memo)
            for digest, which, found in memo.stored(own, store):
                there[digest] |= which
                present.add(found)

        def lacking(key: Key) -> bool:
            return there[key.digest] != memo_of[key.digest].every(key.digest)

        wanted = {
            key.digest
            for first, always in asked
            for key in (*always, *needed(first, always, lacking))
        }
        left = _left(wanted, memo_of, there)
    if cheaper is None and device != "cpu":
        best = cheaper_cache(left, memo_of, store, device)
        if best == "tokens":  # and not what was planned with, on a GPU
            return plan_cells(cells, data, workspace, device, until, best)

    def part(digest: str, which: int) -> Part:
        return Part(which.bit_count(), memo_of[digest].amount(digest, which))

    return Plan(
        keys,
        uses,
        copies,
        {digest: part(digest, memo.every(digest)) for digest, memo in memo_of.items()},
        {digest: which.bit_count() for digest, which in there.items()},
        {digest: part(digest, which) for digest, which in left.items()},
        present,
        lambda key: memo_of[key.digest].inputs(key),
        weights,
        masks,
        cheaper,
    )


def _left(
    wanted: Iterable[str], memo_of: Mapping[str, Alike], there: Mapping[str, int]
) -> dict[str, int]:
    """Which artifacts (bits of those that a key stands for) will be made: the wanted ones and what
    they are made from, down to what is there."""
    found: dict[str, int] = {}
    left = [(memo_of[digest], digest, memo_of[digest].every(digest)) for digest in wanted]
    while left:
        memo, digest, which = left.pop()
        new = which & ~there.get(digest, 0) & ~found.get(digest, 0)
        if new:
            found[digest] = found.get(digest, 0) | new
            left += [(memo, *below) for below in memo.made_from(digest, new)]
    return {digest: which for digest, which in found.items() if digest in memo_of}


def open_chains(
    cells: Sequence[CellIdentity],
    data: Mapping[str, DataSet],
    weights: Mapping[str, str],
    masks: Mapping[tuple[str, str], Mapping[str, str]],
    device: str,
    cheaper: str | None = None,
) -> list[tuple[Chain, DataSet]]:
    """The keys of each cell on ``device``, sharing what they have in common, and its data;
    ``cheaper`` as of ``plan_cells``."""
    memos = {name: Memo() for name in data}
    return [
        (
            Chain(
                with_cache(cell.config, device, cheaper),
                cell.seed,
                data[cell.data.name].train,
                weights.__getitem__,
                _coarse(masks, cell.data.name),
                memos[cell.data.name],
                device=device,
            ).with_oracle(cell.oracle, data[cell.data.name].known),
            data[cell.data.name],
        )
        for cell in cells
    ]


def _open_alike(
    cells: Sequence[CellIdentity],
    data: Mapping[str, DataSet],
    weights: Mapping[str, str],
    masks: Mapping[tuple[str, str], Mapping[str, str]],
    device: str,
    cheaper: str | None,
) -> list[Opened]:
    """As ``open_chains``, on the images that stand for all."""
    used = {name: data[name] for name in dict.fromkeys(cell.data.name for cell in cells)}
    content = functools.cache(Image.digest)
    again = repeated(used.values(), content)
    memos = {
        name: Alike(
            found, {path: own for (path, of), own in masks.items() if of == name}, content, again
        )
        for name, found in used.items()
    }
    opened = []
    for cell in cells:
        memo = memos[cell.data.name]
        config = with_cache(cell.config, device, cheaper)
        given = (config, cell.seed, memo.data.train, weights.__getitem__, memo.mask, memo)
        chain = Chain(*given, device=device)
        opened.append((chain.with_oracle(cell.oracle, memo.data.known), memo))
    return opened


PARTS = ("seed", "uss", "ot", "select", "labels", "student")
"""Parts of a cell that decide what a round comes to, and not how many stages follow it; of what
they cost, ``Chain.training`` is all."""


def _counted(chains: Sequence[Opened], store: Store) -> Iterator[tuple[Chain, Alike, int]]:
    """The cells, and how many times the rounds of each count: 0 where another stands for them.

    Cells that share a first round share stages after it, and none with other cells. Of such groups
    one stands for all that agree in everything but ``PARTS``, unless the store has its round.
    """
    firsts = [
        chain.key(Ref("round", round=1)) if chain.config.rounds.count else None
        for chain, _ in chains
    ]
    asked: dict[int, tuple[Alike, list[Key]]] = {}
    for (_, memo), key in zip(chains, firsts, strict=True):
        if key is not None:
            asked.setdefault(id(memo), (memo, []))[1].append(key)
    begun = {digest for memo, own in asked.values() for digest, _, _ in memo.stored(own, store)}
    fresh: dict[tuple[int, str], list[Opened]] = {}
    for (chain, memo), first in zip(chains, firsts, strict=True):
        if first is None or first.digest in begun:
            yield chain, memo, 1
        else:
            fresh.setdefault((id(memo), first.digest), []).append((chain, memo))
    kept = [i for i, part in enumerate(BIT) if part not in PARTS]
    alike: dict[Hashable, list[list[Opened]]] = {}
    for (where, _), group in fresh.items():
        shape = sorted((chain.training(), *(chain.cell[i] for i in kept)) for chain, _ in group)
        alike.setdefault((where, tuple(shape)), []).append(group)
    for groups in alike.values():
        for number, group in enumerate(groups):
            for chain, memo in group:
                yield chain, memo, 0 if number else len(groups)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keys are many, and none of them is garbage: looking for some takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _coarse(
    masks: Mapping[tuple[str, str], Mapping[str, str]], data: str
) -> Callable[[str, str], str]:
    return lambda folder, name: masks[folder, data][name]
