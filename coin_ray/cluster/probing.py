"""Trying a workspace from every node of a Ray cluster: reach, rights, clock and speed."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray import bucket, safe
from coin_ray.cluster.own import listening
from coin_ray.cluster.session import session
from coin_ray.errors import UserError
from coin_ray.files import seen, write_bytes, write_text
from coin_ray.store.artifacts import Store
from coin_ray.store.placing import most_kept
from coin_ray.store.upkeep import entries
from coin_ray.workspace import Workspace

PATIENCE = 120.0
"""Seconds in which every node answers."""
MEASURED = 4_000_000
"""Bytes by which a folder's speed is measured."""


class Probed(NamedTuple):
    """``folder``: node -> what is wrong with it there, empty if nothing is; ``listening``:
    (address, port, program) of a cluster of our own; ``speed``: node -> how fast the folder is
    there, how far its clock is from the folder's, and how much of a bucket it keeps."""

    folder: dict[str, str]
    listening: list[tuple[str, int, str]]
    speed: dict[str, str]


def probe(address: str | None, folder: Path) -> Probed:
    """Try a cluster: every node reads what this machine has written into ``folder``, or the bucket
    that it stands for, and the other way round. Without an address, a cluster of this machine alone
    is started for it."""
    mark = folder / f"probe-{uuid.uuid4().hex}"
    write_text(mark, "here")
    found, speed, sockets = {}, {}, list[tuple[str, int, str]]()
    try:
        with session(address):
            look, until = ray.remote(num_cpus=0)(_look), time.monotonic() + PATIENCE
            asked = {}
            for node, name in _names([node for node in ray.nodes() if node["Alive"]]).items():
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                answer = mark.with_name(f"{mark.name}.{node}")
                task = look.options(scheduling_strategy=there).remote(mark, answer)
                asked[name] = (task, answer)
            for name, (task, answer) in asked.items():
                found[name], speed[name] = _heard(task, until - time.monotonic())
                if not found[name] and not seen(answer):
                    found[name] = "what is written there is not seen here"
                bucket.remove(answer)
            if address is None:
                sockets = listening()
    finally:
        for path in folder.glob(f"{safe.pattern(mark.name)}*"):
            path.unlink()
        bucket.remove(mark)
    return Probed(found, sockets, speed)


def _names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Id -> machine; where one has several nodes, with what tells them apart."""
    several = Counter(node["NodeManagerHostname"] for node in nodes)
    out = {}
    for node in nodes:
        host, given = node["NodeManagerHostname"], node["NodeName"]
        own = node["NodeID"][:8] if given == node["NodeManagerAddress"] else given
        out[node["NodeID"]] = f"{host} ({own})" if several[host] > 1 else host
    return out


def _heard(task: Any, patience: float) -> tuple[str, str]:
    """What a node has to say of the folder: what is wrong with it, how fast it is."""
    try:
        problem, speed = ray.get(task, timeout=max(1.0, patience))
    except RayError as error:
        said = str(error).strip().splitlines() or [""]
        return f"no answer ({type(error).__name__}: {said[-1]})", ""
    return problem, speed


def _look(mark: Path, answer: Path) -> tuple[str, str]:
    try:
        if not seen(mark) or mark.read_text(encoding="utf-8") != "here":
            return "what is written here is not seen there", ""
        write_text(answer, "there")
        speed = measured(answer.with_name(f"{answer.name}-speed"))
        return "", f"{speed}{_copies(mark.parent)}"
    except UserError as error:
        return "; ".join(text for text in (error.what, error.found, error.do) if text), ""
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror or error}", ""


def _copies(workspace: Path) -> str:
    """How much of a bucket's artifacts lies on this machine."""
    if bucket.address(workspace) is None:
        return ""
    store = Store(Workspace(workspace).store)
    held = sum(entry.bytes for stage in store.stages() for entry in entries(store, stage))
    return f", copies: {held / 1e9:.1f} of at most {most_kept() / 1e9:g} GB"


def measured(path: Path) -> str:
    """How fast a file is written and read, and how far this machine's clock is from that of whoever
    keeps it. OSError where it cannot be."""
    content, begun = os.urandom(MEASURED), time.perf_counter()
    write_bytes(path, content)
    written = time.perf_counter()
    (bucket.read if bucket.address(path) else Path.read_bytes)(path)
    read, here = time.perf_counter(), time.time()
    kept = bucket.modified(path) or path.stat().st_mtime
    apart = here - kept - (read - written)
    bucket.remove(path)
    path.unlink()
    _check_rights(path)
    fast = [f"{MEASURED / 1e6 / max(s, 1e-3):.0f}" for s in (written - begun, read - written)]
    return f"{' and '.join(fast)} MB/s, clock {abs(apart):.0f} s off"


def _check_rights(path: Path) -> None:
    """OSError where a bucket may not be listed, or does not keep the condition of a write, on which
    it rests that of two writers the first one wins."""
    if bucket.address(path) is None:
        return
    probe = path / "new"
    try:
        bucket.write(probe, b"first", new=True)
        bucket.names(path)
        if bucket.write(probe, b"second", new=True):
            said = "what is there is overwritten, though a write is to fail then (If-None-Match)"
            raise OSError(errno.ENOTSUP, said, bucket.address(path))
    finally:
        bucket.remove(probe)
