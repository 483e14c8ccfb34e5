"""Jobs of a Ray cluster that is reached by its dashboard alone: sent, followed, their reports
fetched."""

from __future__ import annotations

import asyncio
import io
import logging
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from coin_ray import safe
from coin_ray.cluster.same_code import CODE
from coin_ray.errors import UserError, first_line
from coin_ray.identity import code_identity
from coin_ray.outputs import claim

TRIES, PAUSE = 20, 3.0
"""How often in a row, and after how many seconds, a log is asked for again that nobody sends."""
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def connect(address: str) -> Any:
    """A client of Ray Jobs. UserError where no dashboard answers, or it wants a token."""
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env").setLevel(logging.WARNING)
    with _said(address):
        return JobSubmissionClient(address)


def current(client: Any, address: str, name: str) -> tuple[str | None, int]:
    """The job of this name (``<name>-<number>``) that has not ended, and the number of the next."""
    with _said(address):
        found = {
            job.submission_id: job.status.value
            for job in client.list_jobs()
            if job.submission_id and job.submission_id.rpartition("-")[0] == name
        }
    running = [job for job, status in found.items() if status not in _ENDED]
    numbers = [int(job.rpartition("-")[2]) for job in found]
    return min(running, default=None), max(numbers, default=0) + 1


def send(
    client: Any, address: str, job: str, folder: Path, python: Sequence[str], call: str
) -> None:
    """Start a job in a package that is the content of ``folder``. ``call`` are the words of
    coin-ray there; its code has to be ours."""
    # Ray's dashboard hands out what lies beside the log of a job, which is our standard output.
    beside = f'"$(dirname "$(readlink /proc/$$/fd/1)")"/{job}.zip'
    with _said(address):
        client.submit_job(
            entrypoint=f"{safe.shell(*python)} -m coin_ray.cli {call} --report-zip {beside}",
            submission_id=job,
            runtime_env={"working_dir": str(folder), "env_vars": {CODE: code_identity()}},
        )


def follow(client: Any, address: str, job: str, show: Callable[[str], None]) -> Any:
    """Show the log of a job from its beginning to its end; gives what Ray knows of it then. A
    connection that is lost is made again. UserError if there is no such job."""
    from aiohttp import ClientError

    shown = 0
    try:
        client.get_job_info(job)
    except RuntimeError as error:
        raise UserError(f"there is no job {job}", where=address) from error

    async def tail() -> None:
        nonlocal shown
        passed = 0
        async for text in client.tail_job_logs(job):
            new = text[max(0, shown - passed) :]
            passed += len(text)
            if new:
                show(new)
                shown = passed

    why, silent = "", 0
    while silent < TRIES:
        before = shown
        try:
            asyncio.run(tail())
            info = client.get_job_info(job)
            if info.status.value in _ENDED:
                return info
        except (RuntimeError, OSError, ClientError) as error:
            why = str(error)  # the network, or a dashboard that is started again
        silent = silent + 1 if shown == before else 0
        if silent:
            time.sleep(PAUSE)
    raise UserError(
        "the log of the job does not come any more",
        where=address,
        found=why,
        do=f"look whether the cluster is up; `--job {job}` follows it again",
    )


def report_of(client: Any, address: str, info: Any) -> bytes | None:
    """The report of a job that has ended, as a zip file; None if it has none."""
    name = f"{info.submission_id}.zip"
    if info.driver_node_id is None:  # it ended before it began
        return None
    asked = {"node_id": info.driver_node_id, "filename": name, "lines": -1, "timeout": 60}
    with _said(address):
        answer = client._do_request("GET", f"/api/v0/logs/file?{urlencode(asked)}")
    content = bytes(answer.content)
    return content if answer.ok and zipfile.is_zipfile(io.BytesIO(content)) else None


def unpack(report: bytes, folder: Path) -> None:
    """Write the files of a report into a folder. UserError where it would replace another's, or
    where a name leads out of it."""
    with zipfile.ZipFile(io.BytesIO(report)) as held:
        names = [name for name in held.namelist() if not name.endswith("/")]
        if bad := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise UserError("a name that leads out of the report", found=safe.line(bad[0]))
        output = claim(folder, names)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with output.file(name) as part:
                part.write_bytes(held.read(name))


@contextmanager
def _said(address: str) -> Iterator[None]:
    """What Ray Jobs refuses, as a UserError."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    try:
        yield
    except AuthenticationError as error:
        raise UserError(
            "the cluster asks for a token",
            where=address,
            found=first_line(error),
            do="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or write ~/.ray/auth_token",
        ) from error
    except RuntimeError as error:
        found = first_line(error)
        raise UserError("the Ray dashboard refuses that", where=address, found=found) from error
    except (ConnectionError, RequestException) as error:
        raise UserError(
            "no Ray dashboard takes jobs there",
            where=address,
            found=first_line(error),
            do="give the address of a cluster's dashboard, such as http://HEAD:8265",
        ) from error
