"""Keys: what identifies a stage's artifact, as plain data and as a digest of it.

A key is made from the stage's name and version, its identity settings and the digests of its
inputs, never from a computed result, so that the keys of a whole study are known before anything
runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY_VERSION = 1
"""Raised when the way a digest is made changes: all older artifacts are then strangers."""


def canonical(value: Any) -> str:
    """JSON with sorted keys, no white space, shortest exact floats; refuses NaN and unknown
    types."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Hex BLAKE2b-256 of the canonical JSON of ``value``."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=32).hexdigest()


@dataclass(frozen=True)
class Key:
    """Identity of one artifact: ``stage``, a readable ``name``, the ``digest`` of ``fields``."""

    stage: str
    name: str
    digest: str
    fields: str
    """Canonical JSON that was digested, for ``why`` and for the manifest."""

    @property
    def path(self) -> str:
        """Folder of the artifact below the store's root."""
        return f"{self.stage}/{self.name}-{self.digest[:24]}"


def make_key(
    stage: str,
    version: int,
    name: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str | list[str]],
) -> Key:
    """Key of ``stage`` with its identity ``settings`` and ``inputs`` (digests by role)."""
    fields = {
        "key_version": KEY_VERSION,
        "stage": stage,
        "version": version,
        "settings": dict(settings),
        "inputs": dict(inputs),
    }
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:60]
    return Key(stage, safe, digest(fields), canonical(fields))
