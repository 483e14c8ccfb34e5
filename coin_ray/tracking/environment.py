"""Where a study ran: versions, machine, commit. Kept with the results, never part of a key."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("coin-ray", "torch", "torchvision", "ray", "mlflow", "optuna", "timm", "segment-anything"),
    *("numpy", "scipy", "scikit-image", "polars", "pydantic", "tifffile", "imagecodecs", "pillow"),
    *("POT", "pydensecrf2", "sam2"),
)


def environment() -> dict[str, Any]:
    """Python, platform, processor, cores and the versions of the packages that make a result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "packages": versions,
    }


def processor() -> str:
    """Name of the processor: with the number of threads it decides how sums are rounded."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def git_commit() -> tuple[str, bool]:
    """(commit, whether tracked files differ from it) of the checkout this package runs from.

    ("", False) when it runs from an installation, also one inside somebody else's checkout.
    """
    package = Path(__file__).resolve().parents[1]
    # Only a file that the checkout tracks says that the checkout is ours.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return "", False
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    return commit or "", bool(commit and changed)


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit yet
        return None
    return done.stdout.decode(errors="replace").strip()
