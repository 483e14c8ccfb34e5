"""Content-addressed store of artifacts: a folder, local or shared between nodes.

An artifact is a set of named arrays (``data.safetensors``) and a manifest (``manifest.json``: the
key's fields, small plain values, the digest of the data, seconds it took). It appears by one atomic
rename, so a reader sees all of it or nothing; the first writer wins.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.pipeline import lease
from coin_ray.pipeline.keys import Key

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Artifact:
    """Arrays by name and small plain values (JSON) of one stage."""

    arrays: Arrays = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


class CorruptArtifact(RuntimeError):
    """The data on disk are not what the manifest says."""


@dataclass(frozen=True)
class Store:
    """``root``/<stage>/<name>-<digest>/; safe for many processes and machines at once."""

    root: Path

    def folder(self, key: Key) -> Path:
        return self.root / key.path

    def has(self, key: Key) -> bool:
        """True if the artifact is complete."""
        return (self.folder(key) / "manifest.json").is_file()

    def info(self, key: Key) -> dict[str, Any]:
        """The small values of an artifact, without reading its arrays."""
        return json.loads((self.folder(key) / "manifest.json").read_text())["info"]

    def load(self, key: Key) -> Artifact:
        """Read and verify. Raises FileNotFoundError, or CorruptArtifact when a digest differs."""
        folder = self.folder(key)
        manifest = json.loads((folder / "manifest.json").read_text())
        raw = (folder / "data.safetensors").read_bytes()
        if manifest["data"] != _digest(raw) or manifest["fields"] != key.fields:
            raise CorruptArtifact(f"{folder}: data or key differ from the manifest")
        import safetensors.numpy

        return Artifact(safetensors.numpy.load(raw), manifest["info"])

    def save(self, key: Key, artifact: Artifact, seconds: float) -> None:
        """Write beside the store's entries and rename into place; an existing entry is kept."""
        import safetensors.numpy

        raw = safetensors.numpy.save(
            {name: np.ascontiguousarray(a) for name, a in artifact.arrays.items()}
        )
        manifest = {
            "fields": key.fields,
            "info": artifact.info,
            "data": _digest(raw),
            "bytes": len(raw),
            "seconds": round(seconds, 4),
        }
        scratch = self.root / "tmp" / uuid.uuid4().hex
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

        ``done(key, seconds)`` is told of an artifact computed here. Exceptions of ``compute`` pass
        through and leave nothing behind.
        """
        claim = self.root / "leases" / key.digest
        while True:
            if self.has(key):
                try:
                    return self.load(key)
                except CorruptArtifact:
                    self.discard(key)
            token = lease.acquire(claim)
            if token is None:
                time.sleep(lease.POLL)
                continue
            with lease.held(claim, token):
                if self.has(key):
                    continue
                start = time.perf_counter()
                artifact = compute()
                seconds = time.perf_counter() - start
                self.save(key, artifact, seconds)
                if done is not None:
                    done(key, seconds)
                return artifact

    def discard(self, key: Key) -> None:
        """Remove an entry, atomically for readers."""
        grave = self.root / "tmp" / uuid.uuid4().hex
        grave.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.folder(key).rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)

    def entries(self) -> Iterator[Path]:
        """Folders of all complete artifacts, in a stable order."""
        for manifest in sorted(self.root.glob("*/*/manifest.json")):
            if manifest.parent.parent.name != "tmp":
                yield manifest.parent


Done = Callable[[Key, float], None]


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=32).hexdigest()


def _write(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
