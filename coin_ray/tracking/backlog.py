"""Many runs into a database server at once: making MLflow's objects keeps a processor busy, so as
many processes as there are processors write a share each. A file of SQLite takes one at a time, and
several only wait for each other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from coin_ray.tracking.mlflow_store import unreachable
from coin_ray.tracking.mlflow_writer import KnownRun, MlflowWriter
from coin_ray.tracking.records import RunRecord

WORTH = 200
"""Runs for which it is worth to start processes, which takes each some seconds."""
PROCESSES = 4
SHARE = 10
"""Runs a process at a time, while other drivers of the workspace wait."""
Answer = tuple[dict[str, KnownRun], set[str], set[str]]
"""What there is of the runs that were written, and the writer's ``missing`` and ``refused``."""


def write_backlog(writer: MlflowWriter, records: Sequence[RunRecord]) -> int:
    """As ``writer.write`` of each record, the study's own first; how many were behind."""
    if not records:
        return 0
    first = writer.write(records[0])
    todo = [record for record in records[1:] if writer.behind(record)]
    wanted = processes(writer.uri)
    if len(todo) < WORTH or wanted == 1:
        return first + sum(map(writer.write, todo))
    with ExitStack() as stack:
        helpers = [stack.enter_context(_helper(writer)) for _ in range(wanted - 1)]
        for helper in helpers:
            _good(_answer(helper))
        for start in range(0, len(todo), SHARE * wanted):
            part = todo[start : start + SHARE * wanted]
            shares = [part[i::wanted] for i in range(wanted)]
            with writer.held():
                for helper, share in zip(helpers, shares, strict=False):
                    with suppress(OSError):  # of one that is gone, as its answer says
                        helper.send((share, writer.only))
                try:
                    for record in shares[-1]:
                        writer.take(record)
                finally:  # nobody else may write before all are done
                    answers = [_answer(helper) for helper in helpers]
            for answer in answers:
                writer.learn(*_good(answer))
    return first + len(todo)


def processes(uri: str) -> int:
    """How many may write to a database at once."""
    return 1 if uri.startswith("sqlite") else min(PROCESSES, len(os.sched_getaffinity(0)))


@contextmanager
def _helper(writer: MlflowWriter) -> Iterator[Connection]:
    """A process that writes what it is sent. It ends with this one, however that ends: nobody else
    holds the other end of its pipe."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    told = (writer.workspace, writer.study, writer.uri, writer.experiment)
    process = context.Process(target=_serve, args=(its, *told), daemon=True)
    process.start()
    its.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def _answer(helper: Connection) -> Answer | Exception:
    try:
        return cast("Answer | Exception", helper.recv())
    except (EOFError, OSError):
        return ConnectionError("a process that wrote has gone")


def _good(answer: Answer | Exception) -> Answer:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(requests: Connection, workspace: Path, study: str, uri: str, experiment: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group: ours ends with its parent
    writer = MlflowWriter(workspace, study, uri=uri, experiment=experiment)
    records: Sequence[RunRecord] = []
    while True:
        answer: Answer | Exception
        try:
            writer.open()
            runs = {record.run: writer.take(record) for record in records}
            answer = (runs, writer.missing, writer.refused)
        except unreachable() as error:
            answer = ConnectionError(str(error))
        except Exception:
            answer = RuntimeError(traceback.format_exc())
        requests.send(answer)
        try:
            records, writer.only = requests.recv()
        except EOFError:
            return
