"""Where a training runs, and in which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coin_ray.errors import UserError
from coin_ray.precision import Precision

Progress = Callable[[int, int, float], None]
"""``progress(steps done, steps in all, loss)``, after every step on a CPU, every few on a GPU."""


@dataclass(frozen=True)
class World:
    """The processes that share a training, and this one's place among them.

    It is ``rank`` of ``size``, on ``device``, where it computes in ``precision`` and, if
    ``deterministic``, comes to the same bytes every time. ``barrier`` waits for the others;
    ``wrap`` makes a module data-parallel (gradients averaged over all). ``threads`` make labels of
    what the student predicts meanwhile. ``spills``: what a step saves for its backward pass waits
    in the memory of the CPU; the numbers are the same, and a step takes far longer. ``leaving``:
    whether a machine of the processes is about to go.
    """

    rank: int = 0
    size: int = 1
    barrier: Callable[[], None] = lambda: None
    wrap: Callable[[Any], Any] = lambda module: module
    device: str = "cpu"
    threads: int = 1
    precision: Precision = "fp32"
    deterministic: bool = False
    spills: bool = False
    leaving: Callable[[], bool] = lambda: False

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
