"""Looking after a store: what is in it, what may go, what is broken.

Everything here may run beside a study. What is collected is made again when somebody needs it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coin_ray.pipeline.keys import SHORT, text_digest
from coin_ray.pipeline.states import leases
from coin_ray.pipeline.store import LEASES, SCRATCH, Store, data_digest

LARGE = ("features", "embed")
"""Stages whose artifacts are large, are made from an image alone and serve many cells: those that
a quota is for."""
ORPHANED = 3600.0
"""Seconds after which nobody is still writing an unfinished artifact."""


@dataclass(frozen=True)
class Entry:
    """An artifact: ``used`` is the time of its last use, s since 1970."""

    stage: str
    folder: Path
    bytes: int
    used: float


def entries(store: Store, stage: str) -> list[Entry]:
    """The artifacts of a stage; those that go meanwhile are left out."""
    found = []
    for name in store.folders(stage):
        folder = store.root / stage / name
        try:
            size = sum(path.stat().st_size for path in folder.iterdir())
            found.append(Entry(stage, folder, size, store.last_use(stage, name)))
        except FileNotFoundError:
            continue
    return found


def collectable(store: Store, quota: float) -> list[Entry]:
    """The features and embeddings beyond ``quota`` bytes, least recently used first."""
    large = sorted(
        (entry for stage in LARGE for entry in entries(store, stage)), key=lambda entry: entry.used
    )
    excess = sum(entry.bytes for entry in large) - quota
    out = []
    for entry in large:
        if excess <= 0:
            break
        out.append(entry)
        excess -= entry.bytes
    return out


def orphans(store: Store) -> list[Path]:
    """What killed processes have left: unfinished artifacts, and leases of the dead."""
    now = time.time()
    scratch = store.root / SCRATCH
    left = [path for path in _children(scratch) if now - path.stat().st_mtime > ORPHANED]
    dead = [store.root / LEASES / work.path for work in leases(store) if not work.holder.alive]
    return left + dead


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def remove(store: Store, path: Path) -> None:
    """Remove an artifact (whole or not at all for its readers) or an orphan."""
    if path.parent.parent == store.root and path.parent.name not in (SCRATCH, LEASES):
        store.discard(path)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def broken(store: Store) -> Iterator[tuple[Path, str | None]]:
    """Every artifact and what is wrong with it, None if nothing is. Reads all data."""
    for stage in store.stages():
        for name in store.folders(stage):
            folder = store.root / stage / name
            yield folder, _fault(folder, name)


def _fault(folder: Path, name: str) -> str | None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        raw = (folder / "data.safetensors").read_bytes()
        fields = text_digest(manifest["fields"])
        if data_digest(raw) != manifest["data"]:
            return f"its data ({len(raw)} of {manifest['bytes']} bytes) are not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing" if folder.is_dir() else None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return None if name.endswith(fields[:SHORT]) else "its key is not that of its name"
