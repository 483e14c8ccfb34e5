"""Looking after a store: what is in it, what may go, what is broken.

Everything here may run beside a study. What is collected is made again when somebody needs it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from coin_ray.errors import UserError
from coin_ray.files import clock
from coin_ray.identity import text_digest
from coin_ray.section import Values
from coin_ray.store import lease
from coin_ray.store.artifacts import CHECKPOINTS, LEASES, SCRATCH, Store, data_digest
from coin_ray.store.keys import SHORT
from coin_ray.store.manifest import DATA, FILE, CorruptArtifact, read_manifest
from coin_ray.store.placing import inside

ORPHANED = 3600.0
"""Seconds after which nobody is still writing an unfinished artifact."""
FORGOTTEN = 30 * 86400.0
"""Seconds after which nobody is expected to go on from a checkpoint."""


class Entry(NamedTuple):
    """An artifact: ``used`` is the time of its last use, s since 1970."""

    stage: str
    name: str
    bytes: int
    used: float


def entries(store: Store, stage: str) -> list[Entry]:
    """The artifacts of a stage; those that go meanwhile are left out."""
    found = []
    for name in store.folders(stage):
        size, used = 0, 0.0
        for file in (DATA, FILE):  # of hundreds of thousands: two looks each, and no Path
            try:
                about = os.stat(f"{store.root}/{stage}/{name}/{file}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            size, used = size + about.st_size, about.st_mtime if file == FILE else 0.0
        if size or (store.root / stage / name).is_dir():
            found.append(Entry(stage, name, size, used))
    return found


def collectable(store: Store, quota: float, stages: Iterable[str]) -> list[Entry]:
    """The artifacts of ``stages`` beyond ``quota`` bytes, least recently used first."""
    return beyond(quota, (entry for stage in stages for entry in entries(store, stage)))


def beyond(quota: float, entries: Iterable[Entry]) -> list[Entry]:
    """Of artifacts those beyond ``quota`` bytes, least recently used first."""
    large = sorted(entries, key=lambda entry: entry.used)
    excess = sum(entry.bytes for entry in large) - quota
    out = []
    for entry in large:
        if excess <= 0:
            break
        out.append(entry)
        excess -= entry.bytes
    return out


@dataclass(frozen=True)
class AtWork:
    """A stage that somebody holds the lease of; ``path`` is that of its artifact in the store."""

    path: str
    holder: lease.Holder

    @property
    def stage(self) -> str:
        return self.path.partition("/")[0]


def leases(store: Store) -> Iterator[AtWork]:
    """Every lease, those of the dead too."""
    root, now = store.root / LEASES, clock(store.root)
    for path in sorted(root.glob("*/*")):
        holder = lease.holder(path, now)
        if holder is not None:
            yield AtWork(str(path.relative_to(root)), holder)


def orphans(store: Store) -> list[Path]:
    """What killed processes have left: unfinished artifacts, leases of the dead, and checkpoints of
    trainings that have ended otherwise or that nobody has gone on with for a long time."""
    now = clock(store.root)
    kept = sorted((store.root / CHECKPOINTS).glob("*/*"))
    old = [
        path
        for path in kept
        if (store.root / path.relative_to(store.root / CHECKPOINTS)).exists()
        or now - path.stat().st_mtime > FORGOTTEN
    ]
    scratch = store.root / SCRATCH
    left = [path for path in _children(scratch) if now - path.stat().st_mtime > ORPHANED]
    dead = [work for work in leases(store) if work.holder.ended or work.holder.silent > ORPHANED]
    return left + old + [store.root / LEASES / work.path for work in dead]


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def remove(store: Store, path: Path, fault: str = "") -> None:
    """Remove an artifact (whole or not at all for its readers), damaged as ``fault`` says or not,
    or an orphan. UserError for what a link puts outside the store."""
    name = path.relative_to(store.root).parts[0]
    if name not in (SCRATCH, LEASES, CHECKPOINTS):
        store.discard(path, fault)
    elif inside(store.root, path).is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checked:
    """An artifact, what is wrong with it (empty if nothing is), and the version of its manifest:
    of version 1 the arrays alone are under a digest."""

    path: Path
    fault: str
    version: int


def check(store: Store, stages: Container[str]) -> Iterator[Checked]:
    """Every artifact, and what lies where one of ``stages`` belongs. Reads all data."""
    for name in store.folders(""):
        stage = store.root / name
        if name in stages and not stage.is_dir():
            yield Checked(stage, "it is no folder", 0)
    for name in store.stages():
        for folder in store.folders(name):
            found = _checked(store.root / name / folder)
            if found is not None:
                yield found


def _checked(folder: Path) -> Checked | None:
    """None if it has gone."""
    try:
        manifest = read_manifest(folder)
        raw = (folder / DATA).read_bytes()
    except FileNotFoundError:
        return None
    except CorruptArtifact as error:
        return Checked(folder, str(error), 0)
    except (OSError, UserError) as error:
        return Checked(folder, f"it cannot be read ({getattr(error, 'found', error)})", 0)
    return compared(folder, manifest, raw)


def compared(folder: Path, manifest: Values, data: bytes) -> Checked:
    """An artifact of which manifest and data can be read."""
    fault = ""
    if data_digest(data) != manifest["data"]:
        fault = "its data are not what was written"
    elif not folder.name.endswith(text_digest(manifest["fields"])[:SHORT]):
        fault = "its key is not that of its name"
    return Checked(folder, fault, manifest.get("version", 1))
