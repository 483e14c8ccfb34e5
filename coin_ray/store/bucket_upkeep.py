"""Looking after a store in a bucket: what it holds, what may go, what is broken; each from one
listing.

A listing may lag behind. What it does not name stays, and what is removed that somebody needs is
made again. Reading leaves no mark on an object: the oldest of a bucket is what was written first.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coin_ray import bucket
from coin_ray.bucket import Object
from coin_ray.errors import UserError
from coin_ray.store.artifacts import CHECKPOINTS, LEASES, SCRATCH, Store
from coin_ray.store.manifest import CorruptArtifact, understood
from coin_ray.store.upkeep import FORGOTTEN, ORPHANED, Checked, Entry, compared

_NO_STAGES = (SCRATCH, LEASES, CHECKPOINTS)
AT_ONCE = 8
"""Objects that are read at the same time."""


def listing(store: Store) -> dict[str, Object]:
    """All objects of a store, by name. OSError where its bucket is away."""
    return bucket.objects(store.root)


def entries(found: Mapping[str, Object]) -> list[Entry]:
    """The artifacts among them; ``used`` is when they were written."""
    split = ((name.split("/"), one) for name, one in found.items())
    return [
        Entry(parts[0], parts[1], one.size, one.modified)
        for parts, one in split
        if len(parts) == 2 and parts[0] not in _NO_STAGES
    ]


def orphans(store: Store, found: Mapping[str, Object]) -> list[Path]:
    """What killed processes have left: leases that nobody keeps, checkpoints of trainings that have
    ended otherwise or that nobody has gone on with for a long time."""
    now = clock(store.root)
    out = []
    for name, one in found.items():
        kind, _, rest = name.partition("/")
        age = now - one.modified
        ended = kind == CHECKPOINTS and "/".join(rest.split("/")[:2]) in found
        forgotten = {SCRATCH: ORPHANED, LEASES: ORPHANED, CHECKPOINTS: FORGOTTEN}.get(kind)
        if ended or (forgotten is not None and age > forgotten):
            out.append(store.root / name)
    return out


def check(store: Store) -> Iterator[Checked]:
    """Every artifact that is listed, read from the bucket, whatever copies there are of it."""
    artifacts = [store.root / one.stage / one.name for one in entries(listing(store))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from filter(None, pool.map(_checked, artifacts))


def _checked(folder: Path) -> Checked | None:
    """None if it has gone."""
    try:
        raw = bucket.read(folder)
        if raw is None:
            return None
        manifest, _, data = raw.partition(b"\n")
        return compared(folder, understood(manifest, len(data), folder), data)
    except CorruptArtifact as error:
        return Checked(folder, str(error), 0)
    except (OSError, UserError) as error:
        return Checked(folder, f"it cannot be read ({getattr(error, 'found', error)})", 0)


def abandoned(folder: Path, quiet: float) -> dict[Path, int]:
    """Folders in ``folder`` of which nothing was written for ``quiet`` seconds, with their
    bytes."""
    now, runs = clock(folder), defaultdict[str, list[Object]](list)
    for name, one in bucket.objects(folder).items():
        runs[name.partition("/")[0]].append(one)
    return {
        folder / name: sum(one.size for one in held)
        for name, held in runs.items()
        if now - max(one.modified for one in held) > quiet
    }


def clock(folder: Path) -> float:
    """Now, by the clock of the bucket that a folder stands for, s since 1970."""
    mark = folder / f"clock-{uuid.uuid4().hex}"
    bucket.write(mark, b"")
    try:
        return bucket.modified(mark) or time.time()
    finally:
        bucket.remove(mark)
