"""How far cells are, from the store alone: what each still lacks, and who is at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coin_ray.pipeline import lease
from coin_ray.pipeline.asked import (
    always_asked,
    down,
    first_asked,
    needed,
    parts,
    rounds_asked,
)
from coin_ray.pipeline.keys import Key
from coin_ray.pipeline.plan import identities, open_chains
from coin_ray.pipeline.store import LEASES, Store


@dataclass(frozen=True)
class CellStages:
    """``stages``: all of a finished cell, by digest; ``missing``: those that a run would compute;
    ``first``: those of them whose inputs are all there."""

    stages: Mapping[str, Key]
    missing: Mapping[str, Key]
    first: Sequence[Key]


def stages_by_cell(
    cells: Sequence[Any], data: Mapping[str, Any], workspace: Path
) -> list[CellStages]:
    """The stages of each ``StudyCell``, in order. UserError as ``plan_cells``."""
    store = Store(workspace / "store")
    chains = open_chains(cells, data, *identities(cells, data))
    stages = []
    for chain, found in chains:
        begun, later = parts(chain, found)
        stages.append(begun | later)
    present = store.stored(key for own in stages for key in own.values())
    out = []
    for (chain, found), own in zip(chains, stages, strict=True):
        last = (*always_asked(chain, found), *rounds_asked(chain, found))
        wanted = [*last, *needed(first_asked(chain, found), last, present)]
        left = down(wanted, chain.memo.inputs, present)
        first = [
            key
            for key in left.values()
            if not any(one.digest in left for one in chain.memo.inputs(key))
        ]
        out.append(CellStages(own, left, first))
    return out


@dataclass(frozen=True)
class AtWork:
    """A stage that somebody holds the lease of; ``path`` is that of its artifact in the store."""

    path: str
    holder: lease.Holder

    @property
    def stage(self) -> str:
        return self.path.partition("/")[0]


def leases(store: Store) -> Iterator[AtWork]:
    """Every lease, those of the dead too."""
    root = store.root / LEASES
    for path in sorted(root.glob("*/*")):
        holder = lease.holder(path)
        if holder is not None:
            yield AtWork(str(path.relative_to(root)), holder)
