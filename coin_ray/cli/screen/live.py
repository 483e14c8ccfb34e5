"""What a running study looks like: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coin_ray import safe
from coin_ray.events import events
from coin_ray.events.events import CellEvent, Event
from coin_ray.events.state import StudyState, edited

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_SILENCE = 30.0
"""Seconds after which plain lines say where things stand, if nothing else was worth a line."""
_ROWS = 24
"""Cells shown at once: those at work, then the last to finish."""
_ORDER = ("running", "failed", "finished", "queued", "interrupted", "left out")
STYLES = {"running": "cyan", "failed": "red", "finished": "green", "left out": "dim"}
"""How each state of a cell is drawn, here and by ``status``."""


def clock(seconds: float | None) -> str:
    """1:05 or 2:03:04; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def headline(study: StudyState, elapsed: float) -> str:
    """One line: cells, stages, best so far, elapsed, time to go."""
    parts = [
        f"cells {len(study.of('finished'))}/{study.total}",
        f"stages {study.computed} computed, {study.remaining} to go, {study.stored} stored",
        f"elapsed {clock(elapsed)}",
        f"left {clock(study.eta(elapsed))}",
    ]
    out, failed = study.of("left out"), study.of("failed")
    parts[1:1] = [f"{len(cells)} {cells[0].state}" for cells in (failed, out) if cells]
    working = [cell.step for cell in study.of("running")]
    if len(working) == 1 and working[0]:
        parts.append(working[0])
    if best := study.best():
        parts.append(f"best so far {best.level} ({_values(best.metrics, study.objective)})")
    return " · ".join(parts)


def _values(metrics: Mapping[str, float], objective: str) -> str:
    """The objective, and the AJI beside it where labels exist."""
    shown = dict.fromkeys([objective, "aji"])
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in shown if name in metrics)


def table(study: StudyState, elapsed: float) -> RenderableType:
    """The live view for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1), expand=True)
    hits = any(cell.reused for cell in study.cells.values())
    names = ["level", "data", "seed", "now", "computed", *(["hits"] if hits else []), "metrics"]
    for name in names:
        right = name in ("seed", "computed", "hits")
        drawn.add_column(name, justify="right" if right else "left", no_wrap=True)
    cells = sorted(study.cells.values(), key=lambda c: (_ORDER.index(c.state), -c.touched))
    for cell in cells[:_ROWS]:
        counts = (cell.computed, cell.reused) if hits else (cell.computed,)
        drawn.add_row(
            safe.styled(cell.level),
            safe.styled(cell.data),
            str(cell.seed),
            safe.styled(cell.step or cell.state, STYLES.get(cell.state, "dim")),
            *map(str, counts),
            _values(cell.metrics, study.objective),
        )
    notes = [safe.styled(study.phase)] if study.phase else []
    notes += [safe.styled(note, "yellow") for note in study.notes]
    notes += [safe.styled(text, "red") for text in study.stalled]
    return Group(drawn, *notes, safe.styled(headline(study, elapsed), "bold"))


def line(event: Event, study: StudyState, elapsed: float) -> str | None:
    """An event as one plain line, None for those that would only fill a log."""
    match event:
        case events.StudyStarted():
            work = ", ".join(f"{stage} {n}" for stage, n in event.to_compute.items()) or "nothing"
            cells = f"{event.cells} cell{'' if event.cells == 1 else 's'}"
            text: str | None = f"{cells}; to compute: {work}; stored: {event.stored}"
        case events.PhaseStarted():
            text = event.what
        case events.CellsProposed():
            text = f"proposed: {safe.line(event.level)}"
        case events.Stalled():
            heading = f"nothing has been heard for {clock(event.seconds)}:"
            text = "\n  ".join([heading, *event.lines])
        case events.StudyEdited():
            text = edited(event)
        case events.Note():
            text = event.text
        case CellEvent() if told := _of_cell(event, study, elapsed):
            cell = f"{event.level} · {event.data} · seed {event.seed}"
            text = f"{safe.line(cell)}: {told}"
        case _:
            return None
    return f"[{clock(elapsed)}] {text}"


def _of_cell(event: CellEvent, study: StudyState, elapsed: float) -> str:
    match event:
        case events.StageStarted(stage="round"):
            return f"training {event.image}".rstrip()
        case events.StageStarted(stage="ucis_model"):
            return "training the coarse model"
        case events.RoundFinished(stored=False):
            values = ", ".join(
                f"{k} {v:.0f}" if float(v).is_integer() else f"{k} {v:.3f}"
                for k, v in event.metrics.items()
            )
            return f"round {event.round} done in {clock(event.seconds)} ({values})"
        case events.CellFinished():
            values = _values(event.metrics, study.objective)
            done = f"{len(study.of('finished'))}/{study.total} cells"
            how = f"done in {clock(event.seconds)}"
            if event.rounds is not None:
                how = f"ended after round {event.rounds}"
            return f"{how} ({values}); {done}, left {clock(study.eta(elapsed))}"
        case events.CellScored():
            return f"scored ({_values(event.metrics, study.objective)})"
        case events.CellFailed():
            return f"FAILED: {event.cause}"
    return ""


@contextmanager
def watch(
    console: Console,
    objective: str = "agreement",
    *,
    larger_is_better: bool = True,
    plain: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[Event], None]]:
    """Yield the function that takes the events of a running study, from any thread.

    On a terminal one table is kept up to date; elsewhere (a log, a pipe), or if the terminal has to
    stay as it is (``plain``), whole lines are printed.
    An interruption passes through, after a line that says where the study stands.
    """
    study, start = StudyState(objective, larger_is_better), now()
    view = _live if console.is_terminal and not plain else _plain
    try:
        with view(console, study, lambda: now() - start) as take:
            yield take
    except KeyboardInterrupt:
        finished, gone = len(study.of("finished")), len(study.of("left out"))
        to_go = study.total - finished - gone
        stand = f"{finished} of {study.total} cells finished, {to_go} to go"
        _say(console, f"{stand}; {headline(study, now() - start)}")
        raise


@contextmanager
def _plain(
    console: Console, study: StudyState, elapsed: Callable[[], float]
) -> Iterator[Callable[[Event], None]]:
    lock, said = threading.Lock(), 0.0

    def take(event: Event) -> None:
        nonlocal said
        with lock:
            study.update(event)
            text = line(event, study, elapsed())
            if text is None and elapsed() - said >= _SILENCE:
                text = f"[{clock(elapsed())}] {headline(study, elapsed())}"
            if text is not None:
                said = elapsed()
                _say(console, text)

    yield take


def _say(console: Console, text: str) -> None:
    console.print(safe.styled(text), soft_wrap=True)


@contextmanager
def _live(
    console: Console, study: StudyState, elapsed: Callable[[], float]
) -> Iterator[Callable[[Event], None]]:
    from rich.live import Live

    lock = threading.Lock()

    class View:
        """Drawn anew at every refresh, so that the clock runs while nothing happens."""

        def __rich__(self) -> RenderableType:
            with lock:
                return table(study, elapsed())

    def take(event: Event) -> None:
        with lock:
            study.update(event)

    with Live(View(), console=console, refresh_per_second=4, transient=True):
        yield take
