"""Images that differ in nothing but what they show: one stands for all, and a plan makes its keys
alone.

Every artifact of an image holds, through what it is made of, the image's content, so that those of
two images differ, and cells share them for the one as for the other. The keys of all are made only
where the store may have some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from coin_ray import bucket
from coin_ray.data.dataset import DataSet
from coin_ray.data.resolution import pixel_scale
from coin_ray.data.sample import Image, Sample
from coin_ray.identity import digest, text_digest
from coin_ray.pipeline.memo import Memo, area
from coin_ray.pipeline.stage import Ref, Scope, Truth
from coin_ray.pipeline.stages import STAGES
from coin_ray.store.artifacts import Store
from coin_ray.store.keys import SHORT, Key, safe_name, with_inputs

HEX = 64
"""Characters of a digest."""
Masks = Mapping[str, Mapping[str, str]]
"""Folder -> name of an image -> content digest of its mask."""


Content = Callable[[Image], str]
"""The digest of an image; of one of a file of many it takes long, and is asked for once."""


def repeated(data: Iterable[DataSet], content: Content) -> set[Hashable]:
    """Contents that are there more than once, in one data set or in several, and names that a data
    set has twice: their images stand for themselves."""
    images = [dict.fromkeys([*found.train, *(s.image for s in found.samples)]) for found in data]
    contents = Counter(content(image) for own in images for image in own)
    names = Counter((number, image.name) for number, own in enumerate(images) for image in own)
    twice = {name for (_, name), times in names.items() if times > 1}
    return twice | {found for found, times in contents.items() if times > 1}


class Alike(Memo):
    """A memo of the keys of a data set in which an image stands for all that are alike; ``data``
    has no others.

    A digest stands for a list: of contents, or of the artifacts of the images that are alike, in
    one order; what is no image's (a round) stands for itself. Which of a list is said in bits.
    """

    def __init__(
        self, data: DataSet, masks: Masks, content: Content, repeated: set[Hashable]
    ) -> None:
        super().__init__()
        self._trained, self._masks = tuple(data.train), masks
        self._labelled = {sample.image: sample for sample in data.known}
        self._alike = _alike(data, masks, content, repeated)
        self._place = {
            image: (group[0], i) for group in self._alike.values() for i, image in enumerate(group)
        }
        self._areas = {first: list(map(area, group)) for first, group in self._alike.items()}
        self._contents: dict[str, list[str]] = {}
        self._made_by: dict[str, tuple[Scope, Ref]] = {}
        self._every: dict[str, int] = {}
        self._digests_of: dict[str, str] = {}
        self.data = DataSet(
            tuple(image for image in data.train if image in self._alike),
            tuple(sample for sample in data.samples if sample.image in self._alike),
            tuple(sample for sample in data.train_samples if sample.image in self._alike),
        )
        self.content = {
            first: self._token([content(image) for image in group])
            for first, group in self._alike.items()
        }.__getitem__
        self.area = {first: sum(areas) for first, areas in self._areas.items()}.__getitem__

    def _token(self, contents: list[str]) -> str:
        """One digest that stands for several, of an image each."""
        found = contents[0] if len(contents) == 1 else digest(contents)
        self._contents[found] = contents
        return found

    def mask(self, folder: str, name: str) -> str:
        """What stands for the mask files of images; empty for images that have none."""
        group = next(group for first, group in self._alike.items() if first.name == name)
        found = [self._masks[folder].get(image.name, "") for image in group]
        return self._token(found) if any(found) else ""

    def truth(self, sample: Sample) -> Truth:
        if sample.image not in self._truths:
            whose = [self._labelled[image] for image in self._alike[sample.image]]
            token = self._token([one.truth_digest() or "" for one in whose])
            self._truths[sample.image] = Truth(token, sample)
        return self._truths[sample.image]

    def number(self, train: Sequence[Image]) -> int:
        return len(self._trained)

    def add(self, key: Key, chain: Scope, ref: Ref) -> Key:
        if key.digest not in self._made_by:
            self._made_by[key.digest] = chain, ref
            self._every[key.digest] = (1 << len(self._alike.get(ref.image, (None,)))) - 1
        return super().add(key, chain, ref)

    def every(self, digest: str) -> int:
        """All artifacts that a key stands for, as bits."""
        return self._every[digest]

    def amount(self, digest: str, which: int) -> float:
        """How much work some of the artifacts of a key are."""
        whole, image = self.keys[digest].amount, self._made_by[digest][1].image
        if which == self.every(digest) or image is None:
            return whole * bool(which)
        areas = self._areas[image]
        return whole * sum(a for i, a in enumerate(areas) if which >> i & 1) / sum(areas)

    def made_from(self, digest: str, which: int) -> Iterator[tuple[str, int]]:
        """What some of the artifacts of a key are made from: keys, and which of theirs."""
        key = self.keys[digest]
        for value in key.inputs.values():
            for one in [value] if isinstance(value, str) else value:
                whole = one in self.groups or STAGES[key.stage].trains
                for found in self.groups.get(one, (one,)):
                    if found in self.keys:
                        every = self.every(found)
                        yield found, every if whole or every == 1 else which

    def stored(self, keys: Iterable[Key], store: Store) -> Iterator[tuple[str, int, str]]:
        """(key, which, digest) of each artifact that the store has of those that keys stand for."""
        folders: dict[str, set[str]] = {}
        likely: list[tuple[str, int, Key]] = []
        for key in keys:
            if key.stage not in folders:
                names = (*store.folders(key.stage), *bucket.names(store.root / key.stage))
                folders[key.stage] = {name.rpartition("-")[2] for name in names}
            if not folders[key.stage]:
                continue
            made = self._digests(key.digest)
            there = [i for i, one in enumerate(made) if one[:SHORT] in folders[key.stage]]
            likely += [(key.digest, 1 << i, own) for i, own in self._keys(key, there)]
        found = store.stored(own for _, _, own in likely)
        yield from ((key, which, own.digest) for key, which, own in likely if own.digest in found)

    def _keys(self, key: Key, which: Sequence[int]) -> Iterator[tuple[int, Key]]:
        if which:
            fields, digests = list(self._fields(key)), self._digests(key.digest)
            chain, ref = self._made_by[key.digest]
            for i in which:
                one = ref if ref.image is None else ref._replace(image=self._alike[ref.image][i])
                name = safe_name(STAGES[key.stage].label(chain, one))
                yield i, replace(key, name=name, digest=digests[i], fields=fields[i])

    def _digests(self, digest: str) -> list[str]:
        """Of all that a key stands for."""
        if digest not in self._digests_of:
            fields = self._fields(self.keys[digest])
            self._digests_of[digest] = "".join(map(text_digest, fields))
        made = self._digests_of[digest]  # as one text: of a list the memory would be twice as much
        return [made[i : i + HEX] for i in range(0, len(made), HEX)]

    def _fields(self, key: Key) -> Iterator[str]:
        count = self.every(key.digest).bit_count()
        columns: dict[str, Sequence[str | list[str]]] = {}
        for role, value in key.inputs.items():
            if isinstance(value, str):
                columns[role] = self._column(value, count)
            elif STAGES[key.stage].trains:
                columns[role] = [self._of_all(value)]
            else:
                each = (self._column(one, count) for one in value)
                columns[role] = [list(row) for row in zip(*each, strict=True)]
        rows = zip(*columns.values(), strict=True)
        return with_inputs(key, (dict(zip(columns, row, strict=True)) for row in rows))

    def _column(self, digest: str, count: int) -> list[str]:
        """What an input is for each of ``count`` artifacts."""
        if digest in self.keys:
            found = self._digests(digest)
        elif digest in self.groups:
            found = [self._group(digest)]
        else:
            found = self._contents.get(digest, [digest])
        return found * count if len(found) == 1 else found

    def _group(self, token: str) -> str:
        if token not in self._digests_of:
            self._digests_of[token] = digest(self._of_all(self.groups[token]))
        return self._digests_of[token]

    def _of_all(self, digests: Sequence[str]) -> list[str]:
        """What stands for something of each image that is trained on, of them all in order."""
        each = len(digests) // len(self.data.train)
        own = {
            first: [
                self._column(one, len(self._alike[first])) for one in digests[n * each :][:each]
            ]
            for n, first in enumerate(self.data.train)
        }
        places = map(self._place.__getitem__, self._trained)
        return [column[i] for first, i in places for column in own[first]]


def _alike(
    data: DataSet, masks: Masks, content: Content, repeated: set[Hashable]
) -> dict[Image, list[Image]]:
    """Images by the first that they are alike."""
    samples = {sample.image: sample for sample in data.samples}
    groups: dict[Hashable, list[Image]] = {}
    trained = set(data.train)
    for image in dict.fromkeys([*data.train, *samples]):
        own = repeated & {image.name, content(image)}
        labelled = image in samples and samples[image].has_truth
        used = image in trained, image in samples, labelled
        masked = tuple(bool(found.get(image.name)) for found in masks.values())
        looks = (*used, *masked, pixel_scale(image.mpp), image if own else None)
        groups.setdefault(looks, []).append(image)
    return {group[0]: group for group in groups.values()}
