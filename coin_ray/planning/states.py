"""How far cells are, from the store alone: what each still lacks, and who is at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coin_ray.data.dataset import DataSet
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.identity import CellIdentity
from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.asked import (
    always_asked,
    down,
    first_asked,
    needed,
    parts,
    rounds_asked,
)
from coin_ray.planning.contents import identities
from coin_ray.planning.plan import open_chains
from coin_ray.store.artifacts import Store
from coin_ray.store.keys import Key
from coin_ray.workspace import Workspace


@dataclass(frozen=True)
class CellStages:
    """``stages``: all of a finished cell, by digest; ``missing``: those that a run would compute;
    ``first``: those of them whose inputs are all there."""

    stages: Mapping[str, Key]
    missing: Mapping[str, Key]
    first: Sequence[Key]


KINDS = ("cpu", "cuda")
"""Of devices."""


def stages_by_cell(
    cells: Sequence[CellIdentity], data: Mapping[str, DataSet], workspace: Path
) -> list[CellStages]:
    """The stages of each cell, in order. UserError as ``plan_cells``.

    Whoever looks at a cell need not have the device that it runs on: it is shown as of the kind of
    device on which it lacks least.
    """
    store, known = Store(Workspace(workspace).store), identities(cells, data)
    best = _stages(open_chains(cells, data, *known, KINDS[0]), store)
    for kind in KINDS[1:]:
        left = [i for i, stages in enumerate(best) if stages.missing]
        chains = open_chains([cells[i] for i in left], data, *known, kind)
        for i, stages in zip(left, _stages(chains, store), strict=True):
            best[i] = min(best[i], stages, key=_lacking)
    return best


def _lacking(found: CellStages) -> int:
    """Missing stages; those aside that not every kind of device stores."""
    return sum(not STAGES[key.stage].large for key in found.missing.values())


def _stages(chains: Sequence[tuple[Chain, DataSet]], store: Store) -> list[CellStages]:
    stages = []
    for chain, found in chains:
        begun, later = parts(chain, found)
        stages.append(begun | later)
    present = store.stored(key for own in stages for key in own.values())
    out = []
    for (chain, found), own in zip(chains, stages, strict=True):
        last = (*always_asked(chain, found), *rounds_asked(chain, found))
        first = first_asked(chain, found)
        wanted = [*last, *needed(first, last, lambda key: key.digest not in present)]
        left = down(wanted, chain.memo.inputs, present)
        next_ = [
            key
            for key in left.values()
            if not any(one.digest in left for one in chain.memo.inputs(key))
        ]
        out.append(CellStages(own, left, next_))
    return out
