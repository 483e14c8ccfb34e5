"""Content-addressed store of artifacts: a folder, local or shared between nodes.

An artifact is a set of named arrays (``data.safetensors``) and a manifest (``manifest.json``: the
key's fields, small plain values, the digest of the data, what it cost). It appears by one atomic
rename, so a reader sees all of it or nothing; the first writer wins. The manifest's modification
time is that of its last use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.identity import code_identity
from coin_ray.pipeline import lease
from coin_ray.pipeline.keys import Key

Arrays = dict[str, NDArray[Any]]
SCRATCH, LEASES, CHECKPOINTS = "tmp", "leases", "checkpoints"
"""Folders of the root that hold no artifacts."""


@dataclass(frozen=True)
class Artifact:
    """Arrays by name and small plain values (JSON) of one stage."""

    arrays: Arrays = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


class CorruptArtifact(RuntimeError):
    """The data on disk are not what the manifest says."""


@dataclass(frozen=True)
class Store:
    """``root``/<stage>/<name>-<digest>/; safe for many processes and machines at once.

    ``device`` is what computes here; it is written down with the time that a stage took.
    """

    root: Path
    device: str = "cpu"

    def folder(self, key: Key) -> Path:
        return self.root / key.path

    def has(self, key: Key) -> bool:
        """True if the artifact is complete."""
        return (self.folder(key) / "manifest.json").is_file()

    def stored(self, keys: Iterable[Key]) -> set[str]:
        """Digests of those keys whose artifact is complete, from one listing a stage."""
        found, folders = set(), dict[str, set[str]]()
        for key in keys:
            if key.stage not in folders:
                folders[key.stage] = set(self.folders(key.stage))
            if key.folder in folders[key.stage]:
                found.add(key.digest)
        return found

    def folders(self, stage: str) -> list[str]:
        """Names of a stage's artifacts, in a stable order."""
        try:
            return sorted(os.listdir(self.root / stage))
        except FileNotFoundError:
            return []

    def info(self, key: Key) -> dict[str, Any]:
        """The small values of an artifact, without reading its arrays."""
        return json.loads((self.folder(key) / "manifest.json").read_text(encoding="utf-8"))["info"]

    def load(self, key: Key) -> Artifact:
        """Read and verify. Raises FileNotFoundError, or CorruptArtifact when a digest differs."""
        folder = self.folder(key)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        raw = (folder / "data.safetensors").read_bytes()
        if manifest["data"] != data_digest(raw) or manifest["fields"] != key.fields:
            raise CorruptArtifact(f"{folder}: data or key differ from the manifest")
        import safetensors.numpy

        with contextlib.suppress(OSError):  # a store may be for reading only
            os.utime(folder / "manifest.json")
        return Artifact(safetensors.numpy.load(raw), manifest["info"])

    def save(self, key: Key, artifact: Artifact, seconds: float) -> None:
        """Write beside the store's entries and rename into place; an existing entry is kept.

        ``seconds`` is what the stage itself took, without its inputs.
        """
        import safetensors.numpy

        raw = safetensors.numpy.save(
            {name: np.ascontiguousarray(a) for name, a in artifact.arrays.items()}
        )
        manifest = {
            "fields": key.fields,
            "info": artifact.info,
            "data": data_digest(raw),
            "bytes": len(raw),
            "seconds": round(seconds, 6),
            "kind": key.kind,
            "amount": key.amount,
            "device": device_of(key.stage, self.device),
            "code": code_identity(),
        }
        scratch = self.root / SCRATCH / uuid.uuid4().hex
        scratch.mkdir(parents=True)
        _write(scratch / "data.safetensors", raw)
        _write(scratch / "manifest.json", json.dumps(manifest, allow_nan=False).encode())
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.rename(target)
        except OSError:
            shutil.rmtree(scratch)
            if not self.has(key):
                raise

    def get(self, key: Key, compute: Callable[[], Artifact], done: Done | None = None) -> Artifact:
        """The stored artifact, or ``compute()`` stored: once, whoever asks at the same time.

        ``done(key, seconds)`` is told of an artifact computed here; the seconds are its own, those
        of inputs that had to be computed first left out. Exceptions of ``compute`` pass through
        and leave nothing behind.
        """
        claim = self.claim(key)
        while True:
            if self.has(key):
                try:
                    return self.load(key)
                except CorruptArtifact:
                    self.discard(self.folder(key))
                except FileNotFoundError:
                    pass  # collected since
            token = lease.acquire(claim)
            if token is None:
                time.sleep(lease.POLL)
                leave_out(lease.POLL)
                continue
            with lease.held(claim, token):
                if self.has(key):
                    continue
                outer, _elsewhere.seconds = _elsewhere.seconds, 0.0
                begin = time.perf_counter()
                try:
                    artifact = compute()
                    seconds = time.perf_counter() - begin - _elsewhere.seconds
                finally:
                    _elsewhere.seconds = outer
                self.save(key, artifact, seconds)
                leave_out(time.perf_counter() - begin)
                if done is not None:
                    done(key, seconds)
                return artifact

    def claim(self, key: Key) -> Path:
        """The lease that is held while an artifact is computed."""
        return self.root / LEASES / key.path

    def checkpoints(self, key: Key) -> Path:
        """A folder for what an interrupted computation of an artifact goes on from."""
        return self.root / CHECKPOINTS / key.path

    def discard(self, folder: Path) -> None:
        """Remove an entry, atomically for readers."""
        grave = self.root / SCRATCH / uuid.uuid4().hex
        grave.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)

    def stages(self) -> list[str]:
        """Stages of which there are artifacts."""
        return [name for name in self.folders("") if name not in (SCRATCH, LEASES, CHECKPOINTS)]

    def manifest(self, stage: str, folder: str) -> dict[str, Any]:
        """What is written down about an artifact. FileNotFoundError if it has gone."""
        return json.loads(
            (self.root / stage / folder / "manifest.json").read_text(encoding="utf-8")
        )

    def last_use(self, stage: str, folder: str) -> float:
        """When an artifact was last read or written, s since 1970; 0 if it has gone."""
        try:
            return (self.root / stage / folder / "manifest.json").stat().st_mtime
        except FileNotFoundError:
            return 0.0


Done = Callable[[Key, float], None]
ON_DEVICE = ("ucis_model", "ucis", "features", "embed", "masks", "round", "predict")
"""Stages that run on the device; the others stay on the CPU."""


def device_of(stage: str, device: str) -> str:
    """``cpu`` or ``cuda``: what a stage runs on when ``device`` is asked for."""
    return device.partition(":")[0] if stage in ON_DEVICE else "cpu"


class _Elsewhere(threading.local):
    seconds = 0.0


_elsewhere = _Elsewhere()


def leave_out(seconds: float) -> None:
    """Say that so much of the running stage's time was another's: waiting, or an input."""
    _elsewhere.seconds += seconds


def data_digest(raw: bytes) -> str:
    """Hex digest of an artifact's data, as its manifest has it."""
    return hashlib.blake2b(raw, digest_size=32).hexdigest()


def _write(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
