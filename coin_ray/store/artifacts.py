"""Content-addressed store of artifacts: a folder, local or shared between nodes.

An artifact is a set of named arrays (``data.safetensors``) and a manifest (``manifest.json``: the
key's fields, small plain values, the digest of the data, what it cost; all of it under a digest).
It appears by one atomic rename, so a reader sees all of it or nothing; the first writer wins. The
manifest's modification time is that of its last use. What is damaged counts as absent: it is thrown
away and made again, and ``damaged.txt`` says so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from coin_ray.errors import UserError
from coin_ray.files import POLL, UNSEEN, make_folder
from coin_ray.identity import code_identity
from coin_ray.section import Values
from coin_ray.store import lease
from coin_ray.store.keys import Key
from coin_ray.store.manifest import DATA, FILE, CorruptArtifact, absent, read_manifest, seal

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
SCRATCH, LEASES, CHECKPOINTS = "tmp", "leases", "checkpoints"
"""Folders of the root that hold no artifacts."""
DAMAGED = "damaged.txt"
"""File of the root: what was thrown away because it was damaged, a line each."""


@dataclass(frozen=True)
class Artifact:
    """Arrays by name and small plain values (JSON) of one stage."""

    arrays: Arrays = field(default_factory=dict)
    info: Values = field(default_factory=dict)


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
        """True if the artifact is complete, as far as can be told without reading its arrays."""
        try:
            self._manifest(key)
        except (FileNotFoundError, CorruptArtifact):
            return False
        return True

    def _manifest(self, key: Key) -> Values:
        manifest = read_manifest(self.folder(key))
        if manifest["fields"] != key.fields:
            raise CorruptArtifact("it is the artifact of another key")
        return manifest

    def stored(self, keys: Iterable[Key]) -> set[str]:
        """Digests of those keys whose artifact is complete, from one listing a stage."""
        found, folders = set(), dict[str, set[str]]()
        for key in keys:
            if key.stage not in folders:
                folders[key.stage] = set(self.folders(key.stage))
            if key.folder in folders[key.stage] and self.has(key):
                found.add(key.digest)
        return found

    def folders(self, stage: str) -> list[str]:
        """Names of a stage's artifacts, in a stable order."""
        try:
            return sorted(os.listdir(self.root / stage))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def info(self, key: Key) -> Values:
        """The small values of an artifact, without reading its arrays. Raises as ``load``."""
        return dict(self._awaited(key, self._manifest)["info"])

    def holds(self, key: Key) -> bool:
        """As ``has``, but an artifact that another machine has just written is waited for."""
        try:
            self._awaited(key, self._manifest)
        except (FileNotFoundError, CorruptArtifact):
            return False
        return True

    def _awaited(self, key: Key, look: Callable[[Key], T]) -> T:
        """What ``look`` finds, if need be as soon as this machine sees it."""
        until = time.monotonic() + UNSEEN
        while True:
            try:
                return look(key)
            except FileNotFoundError:
                if not self._placed(key) or time.monotonic() > until:
                    raise
            time.sleep(POLL)

    def _placed(self, key: Key) -> bool:
        """Whether an artifact's folder is there for the file server, or may be: what this machine
        remembers of names answers everything but whether a folder can be made."""
        if key.stage not in self.folders(""):
            return False
        folder = self.inside(self.folder(key))
        try:
            folder.mkdir()
            folder.rmdir()
        except OSError as error:
            # ENOENT: there is such a stage, but this machine does not see it yet.
            return error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)
        return False

    def seconds(self, key: Key) -> float:
        """What it took to compute an artifact, without its inputs. Raises as ``load``."""
        return float(self._manifest(key)["seconds"])

    def load(self, key: Key) -> Artifact:
        """Read and verify. Raises FileNotFoundError if there is none, CorruptArtifact if anything
        of it is not what was written."""
        folder, manifest = self.folder(key), self._manifest(key)
        try:
            raw = (folder / DATA).read_bytes()
        except FileNotFoundError as error:
            raise absent(folder, error) from error
        if manifest["data"] != data_digest(raw):
            raise CorruptArtifact("its data are not what was written")
        import safetensors.numpy

        try:
            arrays = safetensors.numpy.load(raw)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(f"its data cannot be read: {error}") from error
        with contextlib.suppress(OSError):  # a store may be for reading only
            os.utime(folder / FILE)
        return Artifact(arrays, manifest["info"])

    def save(self, key: Key, artifact: Artifact, seconds: float) -> None:
        """Write beside the store's entries and rename into place; an existing entry is kept.

        ``seconds`` is what the stage itself took, without its inputs. UserError where the store
        cannot be written; nothing is left behind then.
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
            "device": device_of(self.device, key.on_device),
            "code": code_identity(),
        }
        scratch = self.root / SCRATCH / uuid.uuid4().hex
        with self._writing(key):
            try:
                make_folder(self.inside(scratch))
                _write(scratch / DATA, raw)
                _write(scratch / FILE, seal(manifest))
                self._place(scratch, key)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _place(self, scratch: Path, key: Key) -> None:
        target = self.inside(self.folder(key))
        if target.parent.exists() and not target.parent.is_dir():
            self.discard(target.parent, "it is no folder")
        make_folder(target.parent)
        while True:
            try:
                scratch.rename(target)
                return
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
            try:
                self._awaited(key, self._manifest)
                return
            except (FileNotFoundError, CorruptArtifact) as error:
                self.discard(target, str(error))

    def get(self, key: Key, compute: Callable[[], Artifact], done: Done | None = None) -> Artifact:
        """The stored artifact, or ``compute()`` stored: once, whoever asks at the same time.

        ``done(key, seconds)`` is told of an artifact computed here; the seconds are its own, those
        of inputs that had to be computed first left out. Exceptions of ``compute`` pass through
        and leave nothing behind. UserError where the artifact is missing and the store cannot be
        written.
        """
        while True:
            with contextlib.suppress(FileNotFoundError, CorruptArtifact):
                return self.load(key)
            token = self.reserve(key)
            if token is None:
                time.sleep(POLL)
                leave_out(POLL)
                continue
            with lease.held(self.claim(key), token):
                with contextlib.suppress(FileNotFoundError, CorruptArtifact):
                    return self.sound(key)
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

    def sound(self, key: Key) -> Artifact:
        """As ``load``, but an artifact that another machine has just written is waited for, and a
        damaged one has been thrown away when CorruptArtifact comes. UserError where the store
        cannot be written."""
        try:
            return self._awaited(key, self.load)
        except CorruptArtifact as error:
            with self._writing(key):
                self.discard(self.folder(key), str(error))
            raise CorruptArtifact(f"{key.path}: {error}; the next run makes it again") from error

    @contextmanager
    def _writing(self, key: Key) -> Iterator[None]:
        """Say what a store that cannot be written lacks."""
        try:
            yield
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            full = error.errno in _FULL
            raise UserError(
                f"{key.path} is not in the store, which cannot be written",
                where=str(self.root),
                found=str(error.strerror),
                do="make room (`coin-ray store gc`) and give the same command again"
                if full
                else "a store for reading only serves what it has; compute in one of your own "
                "(--workspace)",
            ) from error

    def inside(self, path: Path) -> Path:
        """``path``, of which no folder is a link out of the store; else UserError."""
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise UserError(
                "a link leads out of the store",
                where=str(path.parent),
                found=str(path.parent.resolve()),
                do="remove the link: a store is one folder, which may be a link itself",
            )
        return path

    def claim(self, key: Key) -> Path:
        """The lease that is held while an artifact is computed."""
        return self.inside(self.root / LEASES / key.path)

    def reserve(self, key: Key) -> str | None:
        """Take that lease: a token, or None if somebody holds it. UserError where the store cannot
        be written."""
        with self._writing(key):
            return lease.acquire(self.claim(key))

    def checkpoints(self, key: Key) -> Path:
        """A folder for what an interrupted computation of an artifact goes on from."""
        return self.inside(self.root / CHECKPOINTS / key.path)

    def discard(self, folder: Path, fault: str = "") -> None:
        """Remove an entry, atomically for readers. ``fault``: it was damaged, and how."""
        grave = self.inside(self.root / SCRATCH / uuid.uuid4().hex)
        make_folder(grave.parent)
        try:
            self.inside(folder).rename(grave)
        except FileNotFoundError:
            return
        if grave.is_dir() and not grave.is_symlink():
            shutil.rmtree(grave, ignore_errors=True)
        else:
            grave.unlink()
        if fault:
            with (self.root / DAMAGED).open("a", encoding="utf-8") as file:
                file.write(f"{folder.relative_to(self.root)}: {fault}\n")

    def damaged(self) -> list[str]:
        """What was thrown away because it was damaged, oldest first, a line each."""
        path = self.root / DAMAGED
        return (
            path.read_text(encoding="utf-8", errors="replace").splitlines()
            if path.is_file()
            else []
        )

    def stages(self) -> list[str]:
        """Stages of which there are artifacts."""
        names = (name for name in self.folders("") if name not in (SCRATCH, LEASES, CHECKPOINTS))
        return [name for name in names if (self.root / name).is_dir()]

    def manifest(self, stage: str, folder: str) -> Values:
        """What is written down about an artifact. FileNotFoundError if it has gone, CorruptArtifact
        if it is damaged."""
        return read_manifest(self.root / stage / folder)

    def last_use(self, stage: str, folder: str) -> float:
        """When an artifact was last read or written, s since 1970; 0 if it has gone."""
        try:
            return (self.root / stage / folder / FILE).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return 0.0


Done = Callable[[Key, float], None]


def device_of(device: str, on_device: bool) -> str:
    """``cpu`` or ``cuda``: what a stage runs on when ``device`` is asked for."""
    return device.partition(":")[0] if on_device else "cpu"


class _Elsewhere(threading.local):
    seconds = 0.0


_elsewhere = _Elsewhere()


def leave_out(seconds: float) -> None:
    """Say that so much of the running stage's time was another's: waiting, or an input."""
    _elsewhere.seconds += seconds


def data_digest(raw: bytes) -> str:
    """Hex digest of an artifact's data, as its manifest has it."""
    return hashlib.blake2b(raw, digest_size=32).hexdigest()


_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM)


def _write(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
