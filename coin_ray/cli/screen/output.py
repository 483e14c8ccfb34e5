"""What is printed, as text and nothing else: names of a user carry no markup and no escapes."""

from __future__ import annotations

import io
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from coin_ray import safe

if TYPE_CHECKING:
    from rich.console import Console

    from coin_ray.training.world import Progress

PLAIN_WIDTH = 120
"""Characters of a line where there is no terminal that says how wide it is."""


def say(text: str = "", *, err: bool = False) -> None:
    """Print lines on stdout or stderr."""
    typer.echo(safe.printable(text), err=err)


def steps_told(every: float = 10.0) -> Progress:
    """What a training tells its steps to: a line every ``every`` seconds with the mean loss since
    the last one."""
    began = time.monotonic()
    last, losses = began, list[float]()

    def report(step: int, steps: int, loss: float) -> None:
        nonlocal last
        losses.append(loss)
        now = time.monotonic()
        if now - last >= every or step == steps:
            mean = sum(losses) / len(losses)
            say(f"step {step}  {step / steps:6.1%}  loss {mean:.4f}  {now - began:.0f} s")
            losses.clear()
            last = now

    return report


def say_failed(failed: Mapping[str, str], traces: Mapping[str, str]) -> None:
    """Say which cells failed and why; ``traces``: cause -> a traceback where there is one."""
    for cause, labels in grouped(failed).items():
        say(f"failed: {', '.join(labels)}: {cause}", err=True)
        if trace := traces.get(cause):
            say(textwrap.indent(trace, "  "), err=True)
    if failed:
        say("the same command tries the failed cells again", err=True)


def grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> the cells that it is given for."""
    out: dict[str, list[str]] = {}
    for label, reason in reasons.items():
        out.setdefault(reason, []).append(label)
    return out


def console(*, err: bool = False) -> Console:
    """The terminal, or a plain one wide enough for a table; strings in its tables are no markup."""
    from rich.console import Console
    from rich.text import Text

    class Screen(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(safe.printable(text), **options)

    screen = Screen(stderr=err, markup=False, emoji=False, highlight=False)
    if not screen.is_terminal:
        screen.width = PLAIN_WIDTH
    return screen


def duration(hours: float) -> str:
    """``40 s``, ``12 min``, ``3.4 h``."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.1f} h"


def size(number: float) -> str:
    """``12 kB``, ``3.4 MB``, ``1.2 GB``."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"


def command_line() -> str:
    """The command as it was typed."""
    return safe.shell("coin-ray", *sys.argv[1:])


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int | None], None]]:
    """Bars of downloads: what is yielded takes a file's name, its bytes so far and in all."""
    from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    tasks: dict[str, TaskID] = {}
    text = TextColumn("{task.description}", markup=False)
    with Progress(text, DownloadColumn(), TransferSpeedColumn()) as bar:

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield show


def in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: names of files and
    what libraries write are UTF-8 whatever LC_ALL says, here and in the processes of a study."""
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def never_fail() -> None:
    """Let nothing that is printed raise, whatever the locale can say: a finished study has to end
    with its last line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
