"""The progress of a run in a notebook; elsewhere nothing is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coin_ray.events.events import (
    CellFailed,
    CellFinished,
    CellLeftOut,
    Event,
    StageFinished,
    StudyStarted,
)
from coin_ray.events.state import StudyState


@contextmanager
def progress_bar(on_event: Callable[[Event], None] | None) -> Iterator[Callable[[Event], None]]:
    """Yield ``on_event``; without one a bar in a notebook, and what listens to nothing in a
    script."""
    if on_event is not None:
        yield on_event
    elif _in_notebook():
        yield _Bar()
    else:
        yield lambda event: None


def _in_notebook() -> bool:
    """Whether IPython runs as the kernel of a page; not in a script or on a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _Bar:
    """Cells that have ended of all, drawn in place."""

    def __init__(self) -> None:
        self._study = StudyState()
        self._shown: Any = None

    def __call__(self, event: Event) -> None:
        study = self._study
        study.update(event)
        if not isinstance(
            event, StudyStarted | CellFinished | CellFailed | CellLeftOut | StageFinished
        ):
            return
        from IPython.display import display

        ended = len(study.of("finished", "failed", "left out"))
        text = f"{ended} of {study.total} cells, {study.computed} stages computed"
        bar = f'<progress value="{ended}" max="{max(1, study.total)}"></progress> {text}'
        page = {"text/html": bar, "text/plain": text}
        if self._shown is None:
            self._shown = display(page, raw=True, display_id=True)
        else:
            self._shown.update(page, raw=True)
