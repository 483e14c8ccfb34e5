"""Why something failed, in one line, through whatever it came on its way here."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from coin_ray.errors import UserError, of_system


@dataclass(frozen=True)
class Failure:
    """Why a job failed: one line, and the traceback of what its line does not explain. ``gone``: it
    was lost with its process or node, and nothing is wrong with it."""

    cause: str
    trace: str
    gone: bool = False


def cause(error: BaseException) -> str:
    """The innermost error in one line: Ray wraps it, and Train once more, by worker."""
    error = first_error(error)
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if isinstance(error, UserError):
        return "; ".join(lines)
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def trace(error: BaseException) -> str:
    """The traceback; none of a mistake that its message explains, nor of Ray's own for what was
    lost."""
    if isinstance(first_error(error), UserError) or lost(error):
        return ""
    return "".join(traceback.format_exception(error))


def first_error(error: BaseException) -> BaseException:
    """The error that was raised first, or the message that it stands for; of one that has been put
    into words, the words; of several workers' a loss, which the others suffer from."""
    # Ray's own for a UserError in a task is one, too, and says all of its way.
    while (_of_task(error) or not isinstance(error, UserError)) and (inner := _within(error)):
        error = max(inner, key=lost)
    return of_system(error) or error


def lost(error: BaseException) -> bool:
    """True if what failed was a process or a node, not the cell: Ray's own errors. Of several
    workers one such is enough, for the others then miss it."""
    if _is(error, "RayError") and not _of_task(error):
        # An actor that could not begin had an error of its own.
        return not getattr(error, "actor_init_failed", False)
    return not isinstance(error, UserError) and any(map(lost, _within(error)))


def _of_task(error: BaseException) -> bool:
    return _is(error, "RayTaskError")


def _is(error: BaseException, name: str) -> bool:
    """Of Ray's error of this name; where Ray was never imported there is none of them."""
    return any((c.__module__, c.__name__) == ("ray.exceptions", name) for c in type(error).__mro__)


def _within(error: BaseException) -> list[BaseException]:
    """What an error says of where it comes from."""
    workers = getattr(error, "worker_failures", None) or {}
    named = getattr(error, "controller_failure", None) or getattr(error, "cause", None)
    inner = [*workers.values()] or [named or error.__cause__]
    return [e for e in inner if isinstance(e, BaseException)]
