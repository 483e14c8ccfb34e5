"""Content-addressed store of artifacts: a folder, local or shared between nodes.

An artifact is a set of named arrays (``data.safetensors``) and a manifest (``manifest.json``: the
key's fields, small plain values, the digest of the data, what it cost; all of it under a digest).
It appears by one atomic rename, so a reader sees all of it or nothing; the first writer wins. The
manifest's modification time is that of its last use. What is damaged counts as absent: it is thrown
away and made again, and ``damaged.txt`` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from coin_ray import bucket
from coin_ray.files import POLL, UNSEEN, make_folder
from coin_ray.identity import code_identity
from coin_ray.section import Values
from coin_ray.store import lease
from coin_ray.store.keys import Key
from coin_ray.store.manifest import DATA, FILE, CorruptArtifact, absent, read_manifest, seal, told
from coin_ray.store.placing import TAKEN, inside, most_kept, placed, write, writing
from coin_ray.store.timing import device_of, elsewhere, leave_out

_kept: Counter[Path] = Counter()
"""Bytes that this process has added since it looked."""
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
        except FileNotFoundError:
            return bucket.exists(self.folder(key))
        except CorruptArtifact:
            return False
        return True

    def _manifest(self, key: Key) -> Values:
        manifest = read_manifest(self.folder(key))
        if manifest["fields"] != key.fields:
            raise CorruptArtifact("it is the artifact of another key")
        return manifest

    def stored(self, keys: Iterable[Key]) -> set[str]:
        """Digests of those keys whose artifact is complete, from one listing a stage; what a bucket
        lists is complete."""
        found, folders, objects = set(), dict[str, set[str]](), dict[str, dict[str, int]]()
        for key in keys:
            if key.stage not in folders:
                folders[key.stage] = set(self.folders(key.stage))
                objects[key.stage] = bucket.names(self.root / key.stage)
            here = key.folder in folders[key.stage] and self.has(key)
            if here or key.folder in objects[key.stage]:
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
        """As ``has``, but an artifact that another machine has just written is waited for, and
        fetched from a bucket."""
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
                return self._fetched(key, look)
            except FileNotFoundError:
                if not placed(self.root, key.path) or time.monotonic() > until:
                    raise
            time.sleep(POLL)

    def _fetched(self, key: Key, look: Callable[[Key], T]) -> T:
        """What ``look`` finds here, or in the bucket that the store stands for."""
        try:
            return look(key)
        except FileNotFoundError:
            raw = bucket.read(self.folder(key))
            if raw is None:
                raise
        manifest, _, data = raw.partition(b"\n")
        with writing(self.root, key.path):
            self._keep(key, manifest, data)
        return look(key)

    def _make_room(self, size: int) -> None:
        """Hold what lies in front of a bucket to its bound, looking now and then."""
        from coin_ray.store.upkeep import collectable

        most = most_kept()
        _kept[self.root] += size
        if _kept[self.root] > most / 20:
            _kept[self.root] = 0
            for entry in collectable(self, most - size, self.stages()):
                self.discard(self.root / entry.stage / entry.name)

    def seconds(self, key: Key) -> float:
        """What it took to compute an artifact, without its inputs. Raises as ``load``."""
        return float(told(self.folder(key))["seconds"])

    def load(self, key: Key) -> Artifact:
        """Read and verify. Raises FileNotFoundError if there is none, CorruptArtifact if anything
        of it is not what was written."""
        return self._fetched(key, self._load)

    def _load(self, key: Key) -> Artifact:
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
        """Write beside the store's entries and rename into place; an existing entry is kept. In a
        bucket it is one object: the manifest, a line, and the data.

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
        sealed = seal(manifest)
        with writing(self.root, key.path):
            if bucket.write(self.folder(key), sealed + b"\n" + raw, new=True):
                self._keep(key, sealed, raw)

    def _keep(self, key: Key, manifest: bytes, data: bytes) -> None:
        if bucket.address(self.root) is not None:
            self._make_room(len(data))
        scratch = self.root / SCRATCH / uuid.uuid4().hex
        try:
            make_folder(inside(self.root, scratch))
            write(scratch / DATA, data)
            write(scratch / FILE, manifest)
            self._place(scratch, key)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _place(self, scratch: Path, key: Key) -> None:
        target = inside(self.root, self.folder(key))
        if target.parent.exists() and not target.parent.is_dir():
            self.discard(target.parent, "it is no folder")
        make_folder(target.parent)
        while True:
            try:
                scratch.rename(target)
                return
            except OSError as error:
                if error.errno not in TAKEN:
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
            asked = time.perf_counter()
            token = self.reserve(key)
            if token is None:
                time.sleep(POLL)
                leave_out(time.perf_counter() - asked)
                continue
            with lease.held(self.claim(key), token):
                with contextlib.suppress(FileNotFoundError, CorruptArtifact):
                    return self.sound(key)
                outer, elsewhere.seconds = elsewhere.seconds, 0.0
                begin = time.perf_counter()
                try:
                    artifact = compute()
                    seconds = time.perf_counter() - begin - elsewhere.seconds
                finally:
                    elsewhere.seconds = outer
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
            with writing(self.root, key.path):
                self.discard(self.folder(key), str(error))
            raise CorruptArtifact(f"{key.path}: {error}; the next run makes it again") from error

    def claim(self, key: Key) -> Path:
        """The lease that is held while an artifact is computed."""
        return inside(self.root, self.root / LEASES / key.path)

    def reserve(self, key: Key) -> str | None:
        """Take that lease: a token, or None if somebody holds it. UserError where the store cannot
        be written."""
        with writing(self.root, key.path):
            return lease.acquire(self.claim(key))

    def checkpoints(self, key: Key) -> Path:
        """A folder for what an interrupted computation of an artifact goes on from."""
        return inside(self.root, self.root / CHECKPOINTS / key.path)

    def discard(self, folder: Path, fault: str = "") -> None:
        """Remove an entry, atomically for readers. ``fault``: it was damaged, and how; then the
        object that it stands for goes, too."""
        grave = inside(self.root, self.root / SCRATCH / uuid.uuid4().hex)
        make_folder(grave.parent)
        try:
            inside(self.root, folder).rename(grave)
        except FileNotFoundError:
            if bucket.address(folder) is None:
                return
        if grave.is_dir() and not grave.is_symlink():
            shutil.rmtree(grave, ignore_errors=True)
        else:
            grave.unlink(missing_ok=True)
        if fault:
            bucket.remove(folder)
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


def data_digest(raw: bytes) -> str:
    """Hex digest of an artifact's data, as its manifest has it."""
    return hashlib.blake2b(raw, digest_size=32).hexdigest()
