"""Why a stage is not in the store: what differs from the nearest artifact that is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from coin_ray.section import Values
from coin_ray.store.artifacts import CorruptArtifact, Store
from coin_ray.store.keys import SHORT, Key

MOST = 300
"""Stored artifacts of a stage that are compared."""
EQUAL = 8
"""Equally near ones that are followed upstream; the least recently used are left out."""
OUTSIDE = {
    "image": "the pixels of the image",
    "images": "the pixels of the training images",
    "weights": "the weight file",
    "encoder": "the weight file of the encoder",
    "mask": "the mask file",
    "truth": "the label file",
    "all_centroids": "the centroids of all training images",
    "all_scores": "the scores of all training images",
}
"""Inputs that are no artifacts, in words."""


@dataclass(frozen=True)
class Cause:
    """One thing that differs: ``what`` of ``stage``, its value ``here`` and in the ``stored`` one
    (empty for contents)."""

    stage: str
    what: str
    here: str = ""
    stored: str = ""


@dataclass
class Stored:
    """The keys of all artifacts of a store, read as they are asked for."""

    store: Store
    _fields: dict[tuple[str, str], Values] = field(default_factory=dict)

    @cached_property
    def by_digest(self) -> dict[str, tuple[str, str]]:
        """First digits of a digest -> stage and folder."""
        return {
            folder[-SHORT:]: (stage, folder)
            for stage in self.store.stages()
            for folder in self.store.folders(stage)
        }

    def fields(self, stage: str, folder: str) -> Values:
        """What an artifact's key is made of; nothing if it is damaged, or has gone."""
        if (stage, folder) not in self._fields:
            try:
                fields = json.loads(self.store.manifest(stage, folder)["fields"])
            except (FileNotFoundError, CorruptArtifact):
                fields = {}
            self._fields[stage, folder] = fields
        return self._fields[stage, folder]


def causes(key: Key, keys: Mapping[str, Key], stored: Stored) -> list[Cause] | None:
    """In what ``key`` differs from the nearest stored artifact of its stage, each difference where
    it begins; None if there is none. ``keys`` are those that ``key`` is made from, by digest."""
    folders = stored.store.folders(key.stage)
    named = [folder for folder in folders if folder[: -SHORT - 1] == key.name]
    ours = json.loads(key.fields)

    def measured(these: list[str]) -> dict[str, int]:
        return {
            folder: len(list(_differences(ours, theirs)))
            for folder in these[:: -(-len(these) // MOST) or 1]
            if (theirs := stored.fields(key.stage, folder))
        }

    distances = measured(named) or measured(folders)
    if not distances:
        return None
    least = min(distances.values())
    near = sorted(
        (folder for folder, n in distances.items() if n == least),
        key=lambda folder: -stored.store.last_use(key.stage, folder),
    )
    found = [
        list(dict.fromkeys(_roots(ours, stored.fields(key.stage, one), keys, stored, set())))
        for one in near[:EQUAL]
    ]
    return min(found, key=len)


def _roots(
    ours: Values,
    theirs: Values,
    keys: Mapping[str, Key],
    stored: Stored,
    seen: set[tuple[str, str]],
) -> Iterator[Cause]:
    """Differences that follow from no other one; ``seen`` are the inputs looked at already."""
    below: list[Cause] = []
    for what, here, there in _differences(ours, theirs):
        role = what.removeprefix("inputs.")
        if role == what:
            name = what.removeprefix("settings.")
            below.append(Cause(ours["stage"], name, _shown(here), _shown(there)))
            continue
        here, there = str(here), str(there)  # digests
        if here in keys and there[:SHORT] in stored.by_digest:
            if (here, there) not in seen:
                seen.add((here, there))
                upstream = stored.fields(*stored.by_digest[there[:SHORT]])
                below += _roots(json.loads(keys[here].fields), upstream, keys, stored, seen)
        elif here in keys and there:
            below.append(Cause(keys[here].stage, "what it was made from is no longer stored"))
        else:
            below.append(Cause(ours["stage"], OUTSIDE.get(role, role)))
    vague = {OUTSIDE["all_centroids"], OUTSIDE["all_scores"]}
    told = [cause for cause in below if cause.what not in vague]
    yield from told or below


def _differences(ours: Values, theirs: Values) -> Iterator[tuple[str, object, object]]:
    """Dotted field, value here, value there; lists of digests element by element."""
    mine, other = _flat(ours), _flat(theirs)
    for name in sorted({*mine, *other}):
        if mine.get(name) != other.get(name):
            what = name.rpartition("[")[0] or name
            yield what, mine.get(name, ""), other.get(name, "")


def _flat(value: object, name: str = "") -> Values:
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in _flat(one, f"{name}.{key}").items()}
    if isinstance(value, list) and name.startswith(".inputs"):
        return {f"{name[1:]}[{i}]": one for i, one in enumerate(value)}
    return {name[1:]: value}


def _shown(value: object) -> str:
    return "nothing" if value == "" else value if isinstance(value, str) else json.dumps(value)
