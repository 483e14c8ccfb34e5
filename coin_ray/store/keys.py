"""Keys: what identifies a stage's artifact, as plain data and as a digest of it.

A key is made from the stage's name and version, its identity settings and the digests of its
inputs, never from a computed result, so that the keys of a whole study are known before anything
runs.
"""

from __future__ import annotations

import functools
import marshal
from collections.abc import Mapping
from dataclasses import dataclass, field

from coin_ray.identity import canonical, text_digest
from coin_ray.section import Values

SHORT = 24
"""Hex digits of a digest in a folder's name."""
KEY_VERSION = 1
"""Raised when the way a digest is made changes: all older artifacts are then strangers."""


@dataclass(frozen=True)
class Key:
    """Identity of one artifact: ``stage``, a readable ``name``, the ``digest`` of ``fields``.

    ``kind`` and ``amount`` say what work it is and how much of it, ``on_device`` where it runs;
    they follow from the identity and are no part of it.
    """

    stage: str
    name: str
    digest: str
    fields: str = field(compare=False)
    """Canonical JSON that was digested, for ``why`` and for the manifest."""
    inputs: Mapping[str, str | list[str]] = field(compare=False)
    """Digests of what the artifact is made from, by role."""
    kind: str = field(default="", compare=False)
    amount: float = field(default=1.0, compare=False)
    on_device: bool = field(default=False, compare=False)

    @property
    def path(self) -> str:
        """Folder of the artifact below the store's root."""
        return f"{self.stage}/{self.folder}"

    @property
    def folder(self) -> str:
        """Name of that folder: readable, then what makes it unique."""
        return f"{self.name}-{self.digest[:SHORT]}"


def make_key(
    stage: str,
    version: int,
    name: str,
    settings: Values,
    inputs: Mapping[str, str | list[str]],
    work: tuple[str, float] = ("", 1.0),
    on_device: bool = False,
) -> Key:
    """Key of ``stage`` with its identity ``settings`` and ``inputs`` (digests by role)."""
    head = f'{{"inputs":{canonical(inputs)},"key_version":{KEY_VERSION},"settings":'
    fields = f'{head}{_text(settings)},"stage":"{stage}","version":{version}}}'
    return Key(stage, _safe(name), text_digest(fields), fields, inputs, *work, on_device)


_texts: dict[bytes, str] = {}


def _text(settings: Values) -> str:
    """``canonical(settings)``, made once: a study's keys are many and their settings few."""
    # Version 2 has no references between objects, so equal bytes are equal values.
    raw = marshal.dumps(settings, 2)
    if raw not in _texts:
        _texts[raw] = canonical(settings)
    return _texts[raw]


@functools.cache  # a study has few names and many keys
def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:60]
