"""A ``coin`` cell on one card: right, how fast, and how far from the card's own rate.

``python -m benchmarks.gpu`` takes at most six minutes on one card and prints a Markdown table:
each stage at the paper's size with random weights in the official layouts, next to the literal way
(fp32, one window, prompt or crop after the other), a full cell extrapolated from it (37 tiles of
1000 x 1000, 23,100 steps of 16 crops of 512 px, three rounds), and the ideal: its FLOPs over the
card's measured bf16 rate; then the student's step, how much of it is not the network, and the
activations it keeps (``--crop`` N: that alone). Before each timing the device's result is compared
with the CPU's on small inputs. ``--toy --device cpu`` runs the same code on toy sizes.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu_stages import (
    FULL,
    SMALL,
    STAGES,
    TOY,
    Sizes,
    rate,
    step_parts,
    student,
)

SECONDS = 330.0  # of the six minutes; loading and the last repetition may overrun it
REPEATS = 5
STOP = 0.4  # of the training, where the paper's curve is flat


class Budget:
    """Seconds that may be used, shared out evenly among what is still to come."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began, self._seconds = clock, clock(), seconds

    @property
    def used(self) -> float:
        return self._clock() - self._began

    def share(self, left: int) -> float:
        """Of the seconds that are left, for one of ``left`` measurements."""
        return max(0.0, self._seconds - self.used) / left

    def fastest(self, run: Callable[[], Any], share: float) -> tuple[float, int]:
        """Seconds of the fastest repetition, and how many there were: at least one, and no other
        once the ``share`` is used up, or where it would be by another as long as the last. A
        run that gives a float has timed itself."""
        began, times = self._clock(), list[float]()
        while len(times) < REPEATS:
            start = self._clock()
            own = run()
            now = self._clock()
            times.append(own if isinstance(own, float) else now - start)
            if 2 * now - start - began > share:
                break
        return min(times), len(times)


@dataclass(frozen=True)
class Row:
    """Seconds of one ``unit`` (``literal`` None where no time was left for it), its FLOPs, and how
    many units a cell has; ``check`` says how the device's result differs from the CPU's."""

    stage: str
    unit: str
    count: int
    ours: float
    literal: float | None
    flops: int
    right: bool
    check: str
    repeats: int

    def minutes(self, count: float | None = None) -> float:
        return self.ours * (self.count if count is None else count) / 60


def measure(sizes: Sizes, checked: Sizes, device: str, budget: Budget) -> list[Row]:
    """All stages, one after the other; ``checked`` are the sizes of the comparison."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def waited(run: Callable[[], Any]) -> Callable[[], Any]:
        def through() -> Any:
            found = run()
            if device != "cpu":
                torch.cuda.synchronize()
            return found

        return through

    rows, left = [], 2 * len(STAGES)
    for stage in STAGES:
        right, check = stage.check(checked, device)
        ours, literal = stage.prepare(sizes, device)
        with FlopCounterMode(display=False) as counter:
            waited(ours)()  # the first run is also what sets kernels up
        fast, repeats = budget.fastest(waited(ours), budget.share(left))
        slow, left = None, left - 1
        if (share := budget.share(left)) > 0:
            slow, _ = budget.fastest(waited(literal), share)
        left -= 1
        flops, runs = counter.get_total_flops(), stage.units(sizes)
        rows.append(
            Row(
                stage.title, stage.unit, stage.count(sizes), fast / runs,
                None if slow is None else slow / runs, flops // runs, right, check, repeats,
            )
        )  # fmt: skip
        del ours, literal
        if device != "cpu":
            torch.cuda.empty_cache()
    return rows


def table(rows: list[Row], card: str, rate: float, used: float) -> str:
    """The Markdown; ``rate`` in FLOP a second."""

    def line(*cells: str) -> str:
        return "| " + " | ".join(cells) + " |"

    def ideal(count: float, row: Row) -> float:
        return count * row.flops / rate / 60

    out = [
        f"{card}: {rate / 1e12:.3g} TFLOP/s measured in bf16; {used:.0f} s used.",
        "",
        line("stage", "unit", "ours, ms", "literal, ms", "times", "units a cell", "cell, min",
             "ideal, min", "share of the rate", "against the CPU"),
        line(*["---"] * 10),
    ]  # fmt: skip
    for row in rows:
        slow = "no time left" if row.literal is None else f"{1e3 * row.literal:.3g}"
        times = "-" if row.literal is None else f"{row.literal / row.ours:.2g}"
        share = row.flops / rate / row.ours
        out.append(
            line(row.stage, row.unit, f"{1e3 * row.ours:.3g} ({row.repeats})", slow, times,
                 f"{row.count:,}", f"{row.minutes():.3g}", f"{ideal(row.count, row):.3g}",
                 f"{100 * share:.0f} %", row.check if row.right else f"**no:** {row.check}")
        )  # fmt: skip
    for name, part in (("a cell", 1.0), (f"a cell that stops at {100 * STOP:.0f} %", STOP)):
        counts = [row.count * (part if row.unit == "step" else 1) for row in rows]
        whole = sum(row.minutes(n) for row, n in zip(rows, counts, strict=True))
        best = sum(ideal(n, row) for row, n in zip(rows, counts, strict=True))
        out.append(
            line(f"**{name}**", "", "", "", "", "", f"{whole:.3g}", f"{best:.3g}",
                 f"{100 * best / whole:.0f} %", "")
        )  # fmt: skip
    out += ["", "In brackets: repetitions, of which the fastest counts. Not in it: what the CPU "
            "does meanwhile (watershed, CRF, files)."]  # fmt: skip
    return "\n".join(out)


def step_line(sizes: Sizes, device: str) -> str:
    """How fast the student trains, how much of that is not the network, and what it keeps."""
    whole, network, kept = step_parts(sizes, device)
    chosen, share = student(sizes), 100 * (1 - network / whole)
    return (
        f"Student, {chosen.batch} crops of {chosen.crop} px: {1 / whole:.3g} steps a second, "
        f"{share:.1f} % of a step not the network, {kept / 1e9:.3g} GB kept for its backward pass."
    )


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; 1 where a result is not the CPU's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="toy sizes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--crop", type=int, help="the student's step alone, at this crop, in px")
    asked = parser.parse_args(arguments)
    import torch

    if asked.device != "cpu" and not torch.cuda.is_available():
        print("PyTorch sees no GPU: --toy --device cpu runs the same code", file=sys.stderr)
        return 2
    budget = Budget(asked.seconds)
    cpu = asked.device == "cpu"
    card = platform.processor() or platform.machine() if cpu else torch.cuda.get_device_name()
    speed = rate(asked.device, 256 if asked.toy else 8192)
    sizes, checked = (TOY, TOY) if asked.toy else (FULL, SMALL)
    if asked.crop:
        one = replace(sizes, student={**sizes.student, "crop": asked.crop}, steps=2 if cpu else 20)
        print(f"{card}. {step_line(one, asked.device)}")
        return 0
    rows = measure(sizes, checked, asked.device, budget)
    print(table(rows, card, speed, budget.used))
    print(step_line(sizes, asked.device))
    return 0 if all(row.right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
