"""What a running study looks like: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coin_ray import safe
from coin_ray.cli.progress import Progress, clock
from coin_ray.events import events
from coin_ray.events.events import CellEvent, Event

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_SILENCE = 30.0
"""Seconds after which plain lines say where things stand, if nothing else was worth a line."""
_ROWS = 24
"""Cells shown at once: those at work, then the last to finish."""


def headline(progress: Progress, elapsed: float) -> str:
    """One line: cells, stages, best so far, elapsed, time to go."""
    parts = [
        f"cells {progress.count('done')}/{progress.total}",
        f"stages {progress.computed} computed, {progress.remaining} to go, "
        f"{progress.stored} stored",
        f"elapsed {clock(elapsed)}",
        f"left {clock(progress.eta(elapsed))}",
    ]
    for state in ("left out", "failed"):
        if n := progress.count(state):
            parts.insert(1, f"{n} {state}")
    working = [cell.step for cell in progress.cells.values() if cell.state == "running"]
    if len(working) == 1 and working[0]:
        parts.append(working[0])
    if best := progress.best():
        parts.append(f"best so far {best.level} ({_values(best.metrics, progress.objective)})")
    return " · ".join(parts)


def _values(metrics: Mapping[str, float], objective: str) -> str:
    """The objective, and the AJI beside it where labels exist."""
    shown = dict.fromkeys([objective, "aji"])
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in shown if name in metrics)


def table(progress: Progress, elapsed: float) -> RenderableType:
    """The live view for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1), expand=True)
    hits = any(cell.reused for cell in progress.cells.values())
    names = ["level", "data", "seed", "now", "computed", *(["hits"] if hits else []), "metrics"]
    for name in names:
        right = name in ("seed", "computed", "hits")
        drawn.add_column(name, justify="right" if right else "left", no_wrap=True)
    rank = {"running": 0, "failed": 1, "done": 2, "waiting": 3, "left out": 4}
    cells = sorted(progress.cells.values(), key=lambda c: (rank[c.state], -c.touched))
    styles = {"running": "cyan", "failed": "red", "done": "green"}
    for cell in cells[:_ROWS]:
        style = styles.get(cell.state, "dim")
        now = safe.styled(cell.step if cell.step else cell.state, style)
        drawn.add_row(
            safe.styled(cell.level),
            safe.styled(cell.data),
            str(cell.seed),
            now,
            str(cell.computed),
            *([str(cell.reused)] if hits else []),
            _values(cell.metrics, progress.objective),
        )
    notes = [safe.styled(progress.phase)] if progress.phase else []
    notes += [safe.styled(note, "yellow") for note in progress.notes]
    notes += [safe.styled(text, "red") for text in progress.stalled]
    return Group(drawn, *notes, safe.styled(headline(progress, elapsed), "bold"))


def line(event: Event, progress: Progress, elapsed: float) -> str | None:
    """An event as one plain line, None for those that would only fill a log."""
    if isinstance(event, events.StudyStarted):
        work = ", ".join(f"{stage} {n}" for stage, n in event.to_compute.items()) or "nothing"
        cells = f"{event.cells} cell{'' if event.cells == 1 else 's'}"
        return f"[{clock(elapsed)}] {cells}; to compute: {work}; stored: {event.stored}"
    if isinstance(event, events.PhaseStarted):
        return f"[{clock(elapsed)}] {event.what}"
    if isinstance(event, events.CellsProposed):
        return f"[{clock(elapsed)}] proposed: {safe.line(event.level)}"
    if isinstance(event, events.Stalled):
        heading = f"[{clock(elapsed)}] nothing has been heard for {clock(event.seconds)}:"
        return "\n  ".join([heading, *event.lines])
    if isinstance(event, events.Note):
        return f"[{clock(elapsed)}] {event.text}"
    if not isinstance(event, CellEvent):
        return None
    cell = f"{event.level} · {event.data} · seed {event.seed}"
    who = f"[{clock(elapsed)}] {safe.line(cell)}:"
    match event:
        case events.StageStarted(stage="round"):
            return f"{who} training {event.image}".rstrip()
        case events.StageStarted(stage="ucis_model"):
            return f"{who} training the coarse model"
        case events.RoundFinished():
            values = ", ".join(
                f"{k} {v:.0f}" if float(v).is_integer() else f"{k} {v:.3f}"
                for k, v in event.metrics.items()
            )
            return f"{who} round {event.round} done in {clock(event.seconds)} ({values})"
        case events.CellFinished():
            values = _values(event.metrics, progress.objective)
            done = f"{progress.count('done')}/{progress.total} cells"
            left = clock(progress.eta(elapsed))
            how = f"done in {clock(event.seconds)}"
            if event.rounds is not None:
                how = f"ended after round {event.rounds}"
            return f"{who} {how} ({values}); {done}, left {left}"
        case events.CellScored():
            return f"{who} scored ({_values(event.metrics, progress.objective)})"
        case events.CellFailed():
            return f"{who} FAILED: {event.cause}"
    return None


@contextmanager
def watch(
    console: Console,
    objective: str = "agreement",
    *,
    larger_is_better: bool = True,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[Event], None]]:
    """Yield the function that takes the events of a running study, from any thread.

    On a terminal one table is kept up to date; elsewhere (a log, a pipe) whole lines are printed.
    An interruption passes through, after a line that says where the study stands.
    """
    progress, start = Progress(objective, larger_is_better), now()
    view = _live if console.is_terminal else _plain
    try:
        with view(console, progress, lambda: now() - start) as take:
            yield take
    except KeyboardInterrupt:
        finished, gone = progress.count("done"), progress.count("left out")
        to_go = progress.total - finished - gone
        stand = f"{finished} of {progress.total} cells finished, {to_go} to go"
        _say(console, f"{stand}; {headline(progress, now() - start)}")
        raise


@contextmanager
def _plain(
    console: Console, progress: Progress, elapsed: Callable[[], float]
) -> Iterator[Callable[[Event], None]]:
    lock, said = threading.Lock(), 0.0

    def take(event: Event) -> None:
        nonlocal said
        with lock:
            progress.update(event)
            text = line(event, progress, elapsed())
            if text is None and elapsed() - said >= _SILENCE:
                text = f"[{clock(elapsed())}] {headline(progress, elapsed())}"
            if text is not None:
                said = elapsed()
                _say(console, text)

    yield take


def _say(console: Console, text: str) -> None:
    console.print(safe.styled(text), soft_wrap=True)


@contextmanager
def _live(
    console: Console, progress: Progress, elapsed: Callable[[], float]
) -> Iterator[Callable[[Event], None]]:
    from rich.live import Live

    lock = threading.Lock()

    class View:
        """Drawn anew at every refresh, so that the clock runs while nothing happens."""

        def __rich__(self) -> RenderableType:
            with lock:
                return table(progress, elapsed())

    def take(event: Event) -> None:
        with lock:
            progress.update(event)

    with Live(View(), console=console, refresh_per_second=4, transient=True):
        yield take
