"""What a list of cells would compute: its unique stages, those in the store, those left."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from coin_ray import safe
from coin_ray.data.dataset import DataSet
from coin_ray.errors import UserError
from coin_ray.pipeline import steps
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.identity import CellIdentity
from coin_ray.pipeline.memo import BIT, Memo
from coin_ray.pipeline.needs import mask_digest, needed_weights, uses_crf
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES
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


@dataclass(frozen=True)
class Plan:
    """The stages of a list of cells, by the digests of their keys.

    ``uses``: in how many cells each of ``keys`` occurs; ``present``: those in the store;
    ``missing``: what will be computed; ``inputs``: what a stage is made from. Where no round is
    stored yet, those of many cells are alike: one stands for all, and ``copies`` says for how many,
    where that is not one. ``weights`` and ``masks`` are the content digests that the keys hold.
    """

    keys: Mapping[str, Key]
    uses: Mapping[str, int]
    copies: Mapping[str, int]
    present: Set[str]
    missing: Mapping[str, Key]
    inputs: Mapping[str, Sequence[Key]]
    weights: Mapping[str, str]
    masks: Mapping[tuple[str, str], Mapping[str, str]]

    @cached_property
    def stages(self) -> dict[str, StageCount]:
        """Counts by stage, in the chain's order."""
        counts = {stage: [0, 0, 0, 0] for stage in STAGES}
        for digest, key in self.keys.items():
            count, copies = counts[key.stage], self.copies.get(digest, 1)
            count[0] += self.uses[digest]
            count[1] += copies
            count[2] += digest in self.present
            count[3] += copies * (digest in self.missing)
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


def plan_cells(
    cells: Sequence[CellIdentity],
    data: Mapping[str, DataSet],
    workspace: Path,
    device: str = "cpu",
    until: str | None = None,
) -> Plan:
    """Plan cells on their resolved data, where ``device`` computes, up to a stage or their end.
    UserError if weights, mask files or the extra ``crf`` are missing."""
    weights, masks = identities(cells, data, until)
    store = Store(Workspace(workspace).store)
    keys: dict[str, Key] = {}
    uses: Counter[str] = Counter()
    copies: dict[str, int] = {}
    made_of: dict[str, Sequence[Key]] = {}
    asked: list[tuple[Sequence[Key], Sequence[Key], bool]] = []
    with _no_collector():
        chains = open_chains(cells, data, weights, masks, device)
        for chain, found in chains if until else ():
            goals = [chain.key(ref) for ref in steps.asks(chain, found, until)]
            begun = down(goals, chain.memo.inputs)
            asked.append(((), goals, True))
            keys |= begun
            uses.update(begun.keys())
        for chain, found, times in () if until else _counted(chains, store):
            begun, later = parts(chain, found) if times else (begin(chain, found), {})
            first, rounds = first_asked(chain, found), rounds_asked(chain, found) if times else ()
            asked.append((first, (*always_asked(chain, found), *rounds), not times))
            keys |= begun
            keys |= later
            uses.update(begun.keys())
            uses.update(dict.fromkeys(later, times))
            if times > 1:
                copies |= dict.fromkeys(trained(rounds, chain.memo), times)
        present = store.stored(keys.values())
        for memo in {id(chain.memo): chain.memo for chain, _ in chains}.values():
            made_of |= {digest: memo.inputs(key) for digest, key in memo.keys.items()}
        wanted = [
            key
            for first, last, alike in asked
            for key in (*last, *(first if alike else needed(first, last, present)))
        ]
        left = down(wanted, lambda key: made_of[key.digest], present)
    return Plan(keys, uses, copies, present, left, made_of, weights, masks)


def identities(
    cells: Sequence[CellIdentity], data: Mapping[str, DataSet], until: str | None = None
) -> tuple[dict[str, str], dict[tuple[str, str], dict[str, str]]]:
    """Content digests of the weights by name, and of the mask files by folder and data set."""
    from coin_ray.propagation.crf import load_dense_crf
    from coin_ray.weights import registry

    names = sorted({name for cell in cells for name in needed_weights(cell.config, until)})
    missing = [n for n in names if not registry.path_of(registry.entry(n)).is_file()]
    if len(missing) > 1:
        raise UserError(
            f"{len(missing)} weight files are missing: {', '.join(missing)}",
            do=f"`coin-ray models fetch {safe.shell(*missing)}`; without them: `--profile mini`",
        )
    if until is None and any(uses_crf(cell.config) for cell in cells):
        load_dense_crf()
    masks = {
        (path, cell.data.name): _masks(path, data[cell.data.name])
        for cell in cells
        if (path := cell.config.ucis.folder) is not None
    }
    return {name: registry.identity(name) for name in names}, masks


def open_chains(
    cells: Sequence[CellIdentity],
    data: Mapping[str, DataSet],
    weights: Mapping[str, str],
    masks: Mapping[tuple[str, str], Mapping[str, str]],
    device: str,
) -> list[tuple[Chain, DataSet]]:
    """The keys of each cell on ``device``, sharing what they have in common, and its data."""
    memos = {name: Memo() for name in data}
    return [
        (
            Chain(
                cell.config,
                cell.seed,
                data[cell.data.name].train,
                weights.__getitem__,
                _coarse(masks, cell.data.name),
                memos[cell.data.name],
                device=device,
            ),
            data[cell.data.name],
        )
        for cell in cells
    ]


ALIKE = ("seed", "uss", "ot", "select", "labels", "student")
"""Parts of a cell that decide what a round comes to, and not how many stages follow it; of what
they cost, ``Chain.training`` is all."""


def _counted(
    chains: Sequence[tuple[Chain, DataSet]], store: Store
) -> Iterator[tuple[Chain, DataSet, int]]:
    """The cells, and how many times the rounds of each count: 0 where another stands for them.

    Cells that share a first round share stages after it, and none with other cells. Of such groups
    one stands for all that agree in everything but ``ALIKE``, unless the store has its round.
    """
    training = [pair for pair in chains if pair[0].config.rounds.count]
    begun = store.stored(chain.key(Ref("round", round=1)) for chain, _ in training)
    fresh: dict[tuple[int, str], list[tuple[Chain, DataSet]]] = {}
    for chain, data in chains:
        if not chain.config.rounds.count or chain.key(Ref("round", round=1)).digest in begun:
            yield chain, data, 1
        else:
            first = chain.key(Ref("round", round=1)).digest
            fresh.setdefault((id(data), first), []).append((chain, data))
    kept = [i for i, part in enumerate(BIT) if part not in ALIKE]
    alike: dict[Hashable, list[list[tuple[Chain, DataSet]]]] = {}
    for (where, _), group in fresh.items():
        shape = sorted((chain.training(), *(chain.cell[i] for i in kept)) for chain, _ in group)
        alike.setdefault((where, tuple(shape)), []).append(group)
    for groups in alike.values():
        for number, group in enumerate(groups):
            for chain, data in group:
                yield chain, data, 0 if number else len(groups)


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


def _masks(folder: str, data: DataSet) -> dict[str, str]:
    return {image.name: mask_digest(folder, image.name) for image in data.images}
