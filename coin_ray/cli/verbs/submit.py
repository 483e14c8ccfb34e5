"""``coin-ray submit``: a sweep as a job of a cluster that is elsewhere."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coin_ray import bucket, safe
from coin_ray.cli import options
from coin_ray.cli.screen.output import say, size
from coin_ray.errors import UserError, redacted

if TYPE_CHECKING:
    from coin_ray.study.package import Package

Study = Annotated[
    str, typer.Argument(metavar="[STUDY]", help="a study file or name; not with --job")
]
Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="the cluster's dashboard: http://HEAD:8265",
    ),
]
There = Annotated[
    str,
    typer.Option(
        "--workspace",
        metavar="PLACE",
        envvar="COIN_RAY_WORKSPACE",
        help="folder (an absolute path) or bucket that all nodes of the cluster see",
    ),
]
Python = Annotated[
    str, typer.Option("--python", metavar="CMD", help="the Python that has coin-ray there")
]
Job = Annotated[
    str | None, typer.Option("--job", metavar="ID", help="follow this job instead of sending one")
]
Out = Annotated[
    Path | None,
    options.out_folder("where the report goes; default: the job's name"),
]


@options.takes_study(study=(Study, ""), workspace=None)
def submit(
    asked: options.Asked,
    address: Address = "",
    workspace: There = "",
    workers: options.Workers = None,
    device: options.Device = "auto",
    no_tracking: options.NoTracking = False,
    python: Python = "python",
    job: Job = None,
    out: Out = None,
) -> None:
    """Run a study as a job of a Ray cluster, follow its log, and fetch its report.

    Ctrl-C leaves the job alone: the same command follows it again. The study's files, what the
    options change and small data travel; everything else has to be on the cluster, and is named.
    """
    from coin_ray.cluster import submission

    if not address.startswith(("http://", "https://")):
        raise UserError(
            "submit needs the dashboard of a cluster",
            expected="--address http://HEAD:8265",
            found=f"--address {address}" if address else "none",
        )
    if job is not None and asked.study:
        raise UserError("a study and a job", found=f"{asked.study} and --job {job}", do="name one")
    if job is None:
        more = [] if workers is None else ["--workers", str(workers)]
        more += ["--device", device, *(["--no-tracking"] if no_tracking else [])]
        client, job = _sent(asked, address, workspace, more, _words(python))
    else:
        client = submission.connect(address)
    _stay(client, address, job, out or Path(job))


def _words(python: str) -> list[str]:
    try:
        words = shlex.split(python)
    except ValueError as error:
        raise UserError("--python is no command", found=python, do=str(error)) from error
    if not words:
        raise UserError("--python is empty", do="name the Python that has coin-ray there")
    return words


def _sent(
    asked: options.Asked, address: str, workspace: str, more: list[str], python: list[str]
) -> tuple[Any, str]:
    """Send what is asked for as a job, unless it runs already; the client and the job's name."""
    from coin_ray.cluster import submission
    from coin_ray.study.package import packed, words

    if not asked.study:
        raise UserError("which study?", do="name a study, or with --job a job to follow")
    if not workspace.startswith(("/", "s3://", "gs://")):
        raise UserError(
            "the workspace has to be one that all nodes of the cluster see",
            expected="--workspace with an absolute path or the address of a bucket",
            found=f"--workspace {workspace}" if workspace else "none",
        )
    if not workspace.startswith("/"):
        bucket.local(workspace)  # refuses what is no address of one
    with tempfile.TemporaryDirectory(prefix="coin-ray-package-") as folder:
        package = packed(asked.study, asked.request, Path(folder))
        _tell(package, asked)
        client = submission.connect(address)
        call = ["sweep", package.study, *words(package.request), "--workspace", workspace, *more]
        name = f"{package.name}-{package.digest(call)[:10]}"
        running, number = submission.current(client, address, name)
        if running is not None:
            say(f"this runs already, as job {running}: its log from the beginning")
            return client, running
        job = f"{name}-{number}"
        submission.send(client, address, job, Path(folder), python, safe.shell(*call))
        say(f"job {job} at {redacted(address)}; Ctrl-C leaves it running")
        return client, job


def _tell(package: Package, asked: options.Asked) -> None:
    """What travels and what does not; every problem of the study, if all of it is here."""
    from coin_ray.cli.screen import preamble

    if package.absent:
        say(f"checked there, not here: {', '.join(map(safe.line, package.absent))}")
    else:
        study = asked.resolve()
        for cell in study.cells:
            masks = cell.config.ucis.folder
            if masks is not None and not Path(masks).is_absolute():
                raise UserError(
                    "masks of a relative path do not travel",
                    found=f"ucis.path: {masks}",
                    do="give an absolute path that every node sees",
                )
        for text in (*preamble.opening(study), preamble.cells(study)):
            say(text)
    for line in package.left:
        say(f"left out: {safe.line(line)}")
    say(f"package: {size(package.size)}")


def _stay(client: Any, address: str, job: str, folder: Path) -> None:
    """Follow a job, fetch its report, end with its code."""
    from coin_ray.cluster import submission

    said: list[str] = []

    def show(text: str) -> None:
        said[:] = [*said, text][-20:]
        typer.echo(safe.printable(text), nl=False)

    try:
        info = submission.follow(client, address, job, show)
    except KeyboardInterrupt:
        end = safe.shell("ray", "job", "stop", job, "--address", redacted(address))
        say(f"\nthe job goes on; `{end}` ends it", err=True)
        raise
    report = submission.report_of(client, address, info)
    if report is not None:
        submission.unpack(report, folder)
        say(f"report: {folder / 'report.html'}")
    code = info.driver_exit_code
    if info.status.value != "SUCCEEDED":
        say(f"job {job}: {info.status.value.lower()}", err=True)
        if code == 127 or "No module named" in "".join(said):
            say("name the Python that has coin-ray on the cluster: --python CMD", err=True)
        raise typer.Exit(code or 1)
