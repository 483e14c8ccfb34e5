"""What tells the cells of a study apart."""

from __future__ import annotations

from dataclasses import dataclass, field

from coin_ray.data.dataset import DataSpec
from coin_ray.pipeline.settings import Cell


@dataclass(frozen=True)
class CellIdentity:
    """One level on one data set with one random seed.

    ``config`` is the complete configuration; ``key_label`` is readable, safe in a path, and ends in
    the digest of level, data set, seed and configuration. ``oracle``: what the ground truth stands
    in for (``pipeline.oracles``); empty for every cell that is a result.
    """

    level: str
    data: DataSpec
    seed: int
    config: Cell
    key_label: str
    oracle: str = field(default="", kw_only=True)
