"""Results that the cells of a study share, without anybody declaring what they depend on.

While a key of ``chain.Chain`` is made, it is noted which sections of the configuration are read,
and whether the seed is. Its result then serves every cell that agrees in these, so a plan of
a thousand cells makes each key once.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from coin_ray.data.sample import Image, Sample
from coin_ray.identity import digest
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref, Scope, Truth
from coin_ray.section import Section
from coin_ray.store.keys import Key

Numbers = tuple[int, ...]
"""A cell as numbers: its seed, its sections (equal sections have equal ones), its oracle (0: none).
"""

T = TypeVar("T")
Call = tuple[Hashable, ...]
"""The name of a method and its arguments."""
_Parts = Callable[[Numbers], Hashable]
"""Takes out of a cell the numbers of what was read."""

SECTIONS = tuple(Cell.model_fields)
BIT = {part: 1 << i for i, part in enumerate(("seed", *SECTIONS, "oracle"))}


class Memo:
    """Results of methods by call and by the parts of a cell that they read.

    Whatever else the methods look at (images, weights) has to be the same for all cells that share
    one memo. ``keys`` are all keys made, by digest; ``groups`` what a digest of many digests is of.
    """

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.groups: dict[str, list[str]] = {}
        self.content: Callable[[Image], str] = functools.cache(lambda image: image.digest())
        self.area: Callable[[Image], int] = functools.cache(area)
        self._truths: dict[Image, Truth] = {}
        self._inputs: dict[str, list[Key]] = {}
        self._sections: dict[Section, tuple[int, Section]] = {}
        self._known: dict[Call, dict[int, tuple[_Parts, dict[Hashable, Any]]]] = {}
        self._read = 0
        """Parts that the method at work has read so far."""
        self._lock = threading.RLock()

    def open(self, config: Cell, seed: int) -> tuple[View, Numbers]:
        """A cell as its keys see it."""
        found = {}
        for name in SECTIONS:
            section = getattr(config, name)
            found[name] = self._sections.setdefault(section, (len(self._sections), section))
        view = View(self, {name: section for name, (_, section) in found.items()})
        return view, (seed, *(number for number, _ in found.values()), 0)

    def note(self, part: str) -> None:
        """The method at work has read this part of its cell."""
        self._read |= BIT[part]

    def truth(self, sample: Sample) -> Truth:
        """The ground truth of a labelled sample, its content digested once."""
        if sample.image not in self._truths:
            found = sample.truth_digest()
            assert found is not None
            self._truths[sample.image] = Truth(found, sample)
        return self._truths[sample.image]

    def number(self, train: Sequence[Image]) -> int:
        """Of images that a cell trains on."""
        return len(train)

    def add(self, key: Key, chain: Scope, ref: Ref) -> Key:
        """Keep a key that was made of a stage of a cell."""
        return self.keys.setdefault(key.digest, key)

    def group(self, digests: list[str]) -> str:
        """One digest for many."""
        found = digest(digests)
        self.groups[found] = digests
        return found

    def inputs(self, key: Key) -> Sequence[Key]:
        """The keys that a key was made from."""
        found = self._inputs.get(key.digest)
        if found is None:
            found = self._inputs[key.digest] = []
            for value in key.inputs.values():
                for one in [value] if isinstance(value, str) else value:
                    found += [self.keys[d] for d in self.groups.get(one, (one,)) if d in self.keys]
        return found

    def get(self, cell: Numbers, call: Call, method: Callable[..., T]) -> T:
        """The result of ``call``, a name and the arguments of ``method``, for a cell."""
        with self._lock:
            return self._get(cell, call, method)

    def _get(self, cell: Numbers, call: Call, method: Callable[..., T]) -> T:
        known = self._known.get(call)
        if known is None:
            known = self._known[call] = {}
        for read, (parts, results) in known.items():
            stored: T | None = results.get(parts(cell))
            if stored is not None:
                self._read |= read
                return stored
        outer, self._read = self._read, 0
        try:
            found = method(*call[1:])
        finally:
            read = self._read
            # What a method calls, it reads itself.
            self._read |= outer
        if read not in known:
            known[read] = _parts(read), {}
        parts, results = known[read]
        results[parts(cell)] = found
        return found


@functools.cache
def _parts(read: int) -> _Parts:
    indices = [i for i in range(len(BIT)) if read >> i & 1]
    return itemgetter(*indices) if indices else len


def area(image: Image) -> int:
    """Its pixels."""
    height, width = image.shape()
    return height * width


class View:
    """The sections of a configuration; tells a memo which of them are read."""

    def __init__(self, memo: Memo, sections: dict[str, Section]) -> None:
        self._memo, self._sections = memo, sections

    def __getattr__(self, name: str) -> Section:
        if name not in self._sections:
            raise AttributeError(f"a key may depend on a section of the cell, not on {name!r}")
        self._memo._read |= BIT[name]
        return self._sections[name]
