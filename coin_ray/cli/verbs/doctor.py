"""``coin-ray doctor``: is everything here that a study needs?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from coin_ray import bucket
from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError, first_line, redacted

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "optuna", "timm", "segment-anything", "polars")
_LEAST_GB = 5.0
_LEAST_SHARED_GB = 0.6


class Finding(NamedTuple):
    """``mark``: ok, warn (a study runs, not as well or not every one) or fail; ``do`` mends it."""

    mark: str
    what: str
    found: str
    do: str = ""


def doctor(workspace: options.Workspace = WORKSPACE, address: options.Address = None) -> None:
    """Check versions, device, weights, disk, Ray, the store on every node and the tracker.

    Code 1 if a study could not run. Give the --address and --workspace that a sweep would get.
    """
    failed = False
    # Each line as soon as it is known: starting Ray takes seconds.
    for finding in _findings(workspace, address):
        failed |= finding.mark == "fail"
        do = f"  ->  {finding.do}" if finding.do else ""
        say(f"{finding.mark:<5}{finding.what:<18}{finding.found}{do}")
    if failed:
        raise typer.Exit(1)


def _findings(workspace: Path, address: str | None) -> Iterator[Finding]:
    yield from _versions()
    yield from _device()
    yield from _weights()
    yield from _disk(workspace)
    yield from _ray(workspace, address)
    yield from _token()
    yield _ui()
    yield _tracker(workspace)


def _versions() -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info < (3, 13):
        yield Finding("ok", "python", version)
    else:
        yield Finding("fail", "python", version, "use Python 3.11 or 3.12")
    for name in PACKAGES:
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", name, "not installed", "install coin-ray again (docs/install.md)")
    if importlib.util.find_spec("pydensecrf") is not None:
        yield Finding("ok", "dense CRF", "installed")
    else:
        do = 'profiles coin and official need it: pip install "coin-ray[crf]"'
        yield Finding("warn", "dense CRF", "not installed", do)
    there = importlib.util.find_spec("sam2") is not None
    without = "not installed: profile official takes SAM vit_h in its place"
    yield Finding("ok", "SAM 2.1", "installed" if there else without)


def _device() -> Iterator[Finding]:
    from coin_ray.planning.machines import this_machine

    here = this_machine()
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield Finding("ok", "device", f"{', '.join(sorted(names))}; {here}")
    elif here.gpus:
        do = "install the torch that fits the driver (docs/install.md)"
        yield Finding("warn", "device", f"{here}, but torch cannot use the GPU", do)
    else:
        yield Finding("warn", "device", str(here), "profile mini runs; coin would take days")


def _weights() -> Iterator[Finding]:
    from coin_ray.weights import registry

    entries = [registry.entry(name) for name in registry.names()]
    packaged = [e for e in entries if e.packaged]
    lacking = [e.name for e in packaged if not registry.path_of(e).is_file()]
    if lacking:
        do = "install coin-ray again: they are part of the package"
        yield Finding("fail", "small models", f"missing: {', '.join(lacking)}", do)
    else:
        yield Finding("ok", "small models", f"{len(packaged)} in the package")
    here = [e.name for e in entries if not e.packaged and registry.path_of(e).is_file()]
    if here:
        yield Finding("ok", "paper's models", ", ".join(here))
    else:
        do = "profiles coin and official need some: coin-ray models fetch"
        yield Finding("warn", "paper's models", "none", do)


def _disk(workspace: Path) -> Iterator[Finding]:
    existing = _existing(workspace)
    url = bucket.address(workspace)
    if url is not None:
        yield _reached(url, workspace)
    elif os.access(existing, os.W_OK):
        yield Finding("ok", "workspace", str(workspace))
    else:
        do = "choose another with --workspace or COIN_RAY_WORKSPACE"
        yield Finding("fail", "workspace", f"{workspace} cannot be written to", do)
    free = shutil.disk_usage(existing).free / 1e9
    low = free < _LEAST_GB
    do = "make room (coin-ray store gc), or take another --workspace" if low else ""
    yield Finding("warn" if low else "ok", "free disk", f"{free:.0f} GB", do)
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").free / 1e9
        low = shared < _LEAST_SHARED_GB
        do = "Ray keeps its objects on disk, which is slow; in a container: --shm-size=1g"
        yield Finding(
            "warn" if low else "ok", "shared memory", f"{shared:.1f} GB", do if low else ""
        )


def _reached(url: str, folder: Path) -> Finding:
    """Whether objects can be written, read and removed from here."""
    from coin_ray.cluster.probing import measured

    try:
        told = measured(folder / f"probe-{uuid.uuid4().hex}")
    except OSError as error:
        do = "check the name, the rights and the credentials (docs/cluster.md)"
        return Finding("fail", "workspace", f"{url}: {error.strerror or error}", do)
    return Finding("ok", "workspace", f"{url}: read and written, {told}")


def _existing(folder: Path) -> Path:
    """What is there of a folder; one that stands for a bucket is made when it is written to."""
    if bucket.address(folder) is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return next(path for path in (folder, *folder.parents) if path.exists())


def _ray(workspace: Path, address: str | None) -> Iterator[Finding]:
    """Ray answers, only to us, and every node sees the folder of the store."""
    from coin_ray.cluster.probing import probe

    where = f"the cluster at {address}" if address else "a cluster of this machine"
    try:
        seen, sockets, speed = probe(address, _existing(workspace))
    except UserError as error:
        found = "; ".join(text for text in (error.what, error.where, error.found) if text)
        yield Finding("fail", "Ray", found, error.do)
        return
    except Exception as error:  # whatever Ray raises is what is to be found out
        first = first_line(error)
        yield Finding("fail", "Ray", f"{where} cannot run a task: {first}", "see docs/install.md")
        return
    yield Finding("ok", "Ray", f"{where} runs tasks on {len(seen)} node{'s' * (len(seen) > 1)}")
    if sockets:
        yield _open_to(sockets)
    for host, problem in seen.items():
        told = speed.get(host, "")
        url = bucket.address(workspace)
        place = (
            f"{url} has to be a bucket" if url else f"{_existing(workspace)} has to be one folder"
        )
        do = f"{place} that all nodes see and may write to"
        yield Finding(
            "fail" if problem else "ok",
            "store",
            f"on {host}: {problem or 'read and written'}{', ' * bool(told)}{told}",
            do if problem else "",
        )


def _open_to(sockets: Sequence[tuple[str, int, str]]) -> Finding:
    """Where a cluster of our own listens. Whoever may talk to one of Ray can run code."""
    from coin_ray.cluster.own import LOOPBACK, is_loopback

    outside = sorted({f"{ip}:{port} ({name})" for ip, port, name in sockets if not is_loopback(ip)})
    if outside:
        do = "this Ray cannot be held to the loopback interface: take the pinned version"
        return Finding("warn", "Ray listens", f"with a token on {', '.join(outside)}", do)
    ports = sorted({port for _, port, _ in sockets})
    shown = f"on {LOOPBACK} alone, with a token: ports {', '.join(map(str, ports))}"
    return Finding("ok", "Ray listens", shown)


def _token() -> Iterator[Finding]:
    """A token that Ray has left in the home folder: for clusters at an address."""
    path = Path.home() / ".ray" / "auth_token"
    if path.is_file():
        others = stat.S_IMODE(path.stat().st_mode) & 0o077
        do = f"others may read it: chmod 600 {path}" if others else ""
        yield Finding("warn" if others else "ok", "Ray's token", str(path), do)


def _ui() -> Finding:
    from coin_ray.tracking.server import HOST, PORT

    return Finding("ok", "MLflow listens", f"on {HOST} alone, port {PORT} or a free one (ui)")


def _tracker(workspace: Path) -> Finding:
    from coin_ray.tracking.mlflow_store import connect, is_server, tracking_uri, unreachable
    from coin_ray.tracking.replay import reason

    uri = tracking_uri(workspace)
    if not is_server(uri) and not workspace.is_dir():
        return Finding("ok", "tracker", f"{redacted(uri)} (made by the first sweep)")
    try:
        connect(workspace, uri).search_experiments(max_results=1)
    except unreachable() as error:
        do = "check MLFLOW_TRACKING_URI and that the server runs; --no-tracking goes without"
        return Finding("fail", "tracker", f"{redacted(uri)}: {reason(error)}", do)
    return Finding("ok", "tracker", redacted(uri))
