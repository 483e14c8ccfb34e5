"""How long a stage took itself, and on what."""

from __future__ import annotations

import threading


def device_of(device: str, on_device: bool) -> str:
    """``cpu`` or ``cuda``: what a stage runs on when ``device`` is asked for."""
    return device.partition(":")[0] if on_device else "cpu"


class _Elsewhere(threading.local):
    seconds = 0.0


elsewhere = _Elsewhere()


def leave_out(seconds: float) -> None:
    """Say that so much of the running stage's time was another's: waiting, or an input."""
    elsewhere.seconds += seconds
