"""Ctrl-C, a polite kill and a closed terminal: one ending, and no process outlives it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import psutil
import pytest

VERB = """
import subprocess, sys, time, types
import coin_ray.cli as cli

def sweep() -> None:
    command = ["bash", "-c", "trap '' TERM; echo; exec sleep 60"]
    child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    try:
        print(child.pid, flush=True)
        time.sleep(60)
    finally:
        {ending}

module = types.ModuleType("coin_ray.cli.verbs.sweep")
module.sweep = sweep
sys.modules["coin_ray.cli.verbs.sweep"] = module
sys.argv = ["coin-ray", "sweep"]
{before}
cli.ending.GRACE = 0.2
cli.main()
"""
"""A verb with a child that a polite kill does not end."""


def start(
    ending: str = "pass", before: str = "", **options: object
) -> tuple[subprocess.Popen[str], psutil.Process]:
    process = subprocess.Popen(
        [sys.executable, "-c", VERB.format(ending=ending, before=before)],
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        start_new_session=True,
        **options,
    )
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


def gone(child: psutil.Process) -> bool:
    return bool(psutil.wait_procs([child], timeout=5)[0])


@pytest.mark.parametrize(
    ("sign", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_every_signal_is_said_has_its_code_and_leaves_no_child(
    sign: signal.Signals, code: int, said: str
) -> None:
    process, child = start()
    process.send_signal(sign)
    process.send_signal(sign)  # a shell passes on what the process has had already
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, gone(child)) == (code, True)
    assert stderr == f"\n{said}; the same command continues where it stopped\n"


def test_a_second_one_ends_at_once_whatever_the_command_is_doing() -> None:
    process, child = start(ending="print('ending', flush=True); time.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "ending\n"
    time.sleep(1.1)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, stderr = process.communicate(timeout=20)
    assert time.monotonic() - begun < 2
    assert (process.returncode, gone(child)) == (130, True)
    assert "ended at once" in stderr


def test_what_goes_wrong_while_it_ends_changes_no_code() -> None:
    process, child = start(ending="raise RuntimeError('no goodbye')")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, gone(child)) == (143, True)
    assert "no goodbye" in stderr


def test_nohup_is_obeyed_and_an_ignored_interrupt_is_not() -> None:
    """A shell that starts a job with `&` ignores the interrupt for it."""
    before = "import signal\nsignal.signal(1, signal.SIG_IGN); signal.signal(2, signal.SIG_IGN)"
    process, child = start(before=before)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None and child.is_running()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130 and gone(child)


def test_a_terminal_that_has_gone_is_no_error() -> None:
    ours, theirs = pty.openpty()
    process, child = start(stderr=theirs)
    os.close(theirs)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 129 and gone(child)
