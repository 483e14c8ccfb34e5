"""``coin-ray doctor``: is everything here that a study needs?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "optuna", "timm", "segment-anything", "polars")
_LEAST_GB = 5.0
Finding = tuple[str, str, str]
"""``ok``, ``note`` or ``bad``; what was looked at; what was found."""


def doctor(workspace: options.Workspace = WORKSPACE) -> None:
    """Check packages, device, small models, workspace and tracker; code 1 if a study cannot run."""
    findings = [*_packages(), *_device(), *_weights(), *_places(workspace.expanduser().resolve())]
    for mark, what, found in findings:
        typer.echo(f"{mark:<5}{what:<20}{found}")
    if any(mark == "bad" for mark, _, _ in findings):
        raise typer.Exit(1)


def _packages() -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield ("ok" if (3, 11) <= sys.version_info < (3, 13) else "bad"), "python", version
    for name in PACKAGES:
        try:
            yield "ok", name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield "bad", name, "not installed: pip install coin-ray"
    crf = importlib.util.find_spec("pydensecrf") is not None
    missing = "not installed; profiles coin and official need it: pip install coin-ray[crf]"
    yield "ok" if crf else "note", "dense CRF", "installed" if crf else missing


def _device() -> Iterator[Finding]:
    import torch

    cores = f"{os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        yield "ok", "device", f"{torch.cuda.get_device_name(0)}, {cores}"
    else:
        yield "note", "device", f"no GPU, {cores}: profile mini runs, coin would take days"


def _weights() -> Iterator[Finding]:
    from coin_ray.weights import registry

    entries = [registry.entry(name) for name in registry.names()]
    packaged = [e for e in entries if e.packaged]
    lacking = [e.name for e in packaged if not registry.path_of(e).is_file()]
    if lacking:
        yield "bad", "small models", f"missing: {', '.join(lacking)}"
    else:
        yield "ok", "small models", f"{len(packaged)} in the package"
    here = [e.name for e in entries if not e.packaged and registry.path_of(e).is_file()]
    found = ", ".join(here) if here else "none; get them with coin-ray models fetch"
    yield "ok" if here else "note", "paper's models", found


def _places(workspace: Path) -> Iterator[Finding]:
    existing = next(p for p in (workspace, *workspace.parents) if p.exists())
    writable = os.access(existing, os.W_OK)
    yield (
        ("ok" if writable else "bad"),
        "workspace",
        f"{workspace}" + ("" if writable else " (not writable)"),
    )
    free = shutil.disk_usage(existing).free / 1e9
    yield ("ok" if free >= _LEAST_GB else "note"), "free disk", f"{free:.0f} GB"
    memory = shutil.disk_usage("/dev/shm").free / 1e9 if Path("/dev/shm").is_dir() else None
    if memory is not None:
        low = memory < 0.6
        hint = "; Ray would keep its objects on disk, which is slow" if low else ""
        yield "note" if low else "ok", "shared memory", f"{memory:.1f} GB{hint}"
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    yield "ok", "tracker", uri.rsplit("@", 1)[-1] if uri else f"{workspace / 'mlflow.db'}"
