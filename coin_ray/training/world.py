"""Where a training runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coin_ray.errors import UserError

Progress = Callable[[int, int, float], None]
"""``progress(steps done, steps in all, loss)``, after every step on a CPU, every few on a GPU."""


@dataclass(frozen=True)
class World:
    """The processes that share a training, and this one's place among them.

    It is ``rank`` of ``size``, on ``device``. ``barrier`` waits for the others; ``wrap`` makes a
    module data-parallel (gradients averaged over all). ``workers`` threads draw the next batch
    while a step runs.
    """

    rank: int = 0
    size: int = 1
    barrier: Callable[[], None] = lambda: None
    wrap: Callable[[Any], Any] = lambda module: module
    device: str = "cpu"
    workers: int = 0

    def share(self, batch: int, least: int, each: str, setting: str) -> range:
        """Indices in the global batch that this process draws.

        UserError, on every process, if one of them has fewer than ``least``: ``each`` says what a
        process needs, ``setting`` is the name of ``batch``.
        """
        if batch // self.size < least:
            raise UserError(
                "the batch is too small for the number of workers",
                where=setting,
                expected=f"{each} for each of {self.size} workers",
                found=f"{setting} {batch}",
                do=f"raise {setting} or use fewer workers",
            )
        return range(self.rank, batch, self.size)


HERE = World()
"""This process alone."""
