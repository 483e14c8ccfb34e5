"""Keys: what identifies a stage's artifact, as plain data and as a digest of it.

A key is made from the stage's name and version, its identity settings and the digests of its
inputs, never from a computed result, so that the keys of a whole study are known before anything
runs.
"""

from __future__ import annotations

import functools
import marshal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from coin_ray.identity import canonical, text_digest
from coin_ray.section import Values

SHORT = 24
"""Hex digits of a digest in a folder's name."""
KEY_VERSION = 1
"""Raised when the way a digest is made changes: all older artifacts are then strangers."""


Inputs = Mapping[str, str | list[str]]
"""Digests by role."""


@dataclass(frozen=True)
class Key:
    """Identity of one artifact: ``stage``, a readable ``name``, the ``digest`` of ``fields``.

    ``kind`` and ``amount`` say what work it is and how much of it, ``on_device`` where it runs,
    ``kept`` whether it is stored; they are no part of the identity.
    """

    stage: str
    name: str
    digest: str
    fields: str = field(compare=False)
    """Canonical JSON that was digested, for ``why`` and for the manifest."""
    inputs: Inputs = field(compare=False)
    """Digests of what the artifact is made from, by role."""
    kind: str = field(default="", compare=False)
    amount: float = field(default=1.0, compare=False)
    on_device: bool = field(default=False, compare=False)
    kept: bool = field(default=True, compare=False)

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
    inputs: Inputs,
    work: tuple[str, float] = ("", 1.0),
    on_device: bool = False,
) -> Key:
    """Key of ``stage`` with its identity ``settings`` and ``inputs`` (digests by role)."""
    rest = f'"key_version":{KEY_VERSION},"settings":{_text(settings)}'
    fields = f'{_head(inputs)}{rest},"stage":"{stage}","version":{version}}}'
    return Key(stage, safe_name(name), text_digest(fields), fields, inputs, *work, on_device)


def _head(inputs: Inputs) -> str:
    return f'{{"inputs":{canonical(inputs)},'


def with_inputs(key: Key, each: Iterable[Inputs]) -> Iterator[str]:
    """The fields of keys that differ from one in their inputs alone."""
    rest = key.fields[len(_head(key.inputs)) :]
    return (_head(inputs) + rest for inputs in each)


_texts: dict[bytes, str] = {}


def _text(settings: Values) -> str:
    """``canonical(settings)``, made once: a study's keys are many and their settings few."""
    # Version 2 has no references between objects, so equal bytes are equal values.
    raw = marshal.dumps(settings, 2)
    if raw not in _texts:
        _texts[raw] = canonical(settings)
    return _texts[raw]


@functools.cache  # a study has few names and many keys
def safe_name(name: str) -> str:
    """A name as it stands in the name of a folder."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:60]
