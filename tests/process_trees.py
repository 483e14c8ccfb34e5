"""Ends what a test has started, whole: processes of Ray end their own children at any moment."""

from __future__ import annotations

import contextlib
import subprocess

import psutil


def end_tree(root: subprocess.Popen, patience: float = 0.0) -> None:
    """End a process and all of its children; ``patience`` in seconds is what a polite end may take
    before the rest is killed. The root is reaped."""
    top = psutil.Process(root.pid)
    left = [top, *top.children(recursive=True)]
    if patience:
        top.terminate()
        left = psutil.wait_procs(left, timeout=patience)[1]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):  # by another's end, since it was listed
            process.kill()
    root.wait(30)
