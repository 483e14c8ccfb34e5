"""What a list of cells would compute: unique stages, and which of them the store has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coin_ray.errors import UserError
from coin_ray.pipeline.chain import VERSIONS, CellKeys, needed_weights
from coin_ray.pipeline.keys import Key
from coin_ray.pipeline.store import Store


@dataclass(frozen=True)
class StageCount:
    """``naive``: stages if every cell ran alone; ``unique`` after sharing; ``stored`` of those."""

    naive: int
    unique: int
    stored: int


@dataclass(frozen=True)
class Plan:
    """``stages`` in the chain's order; ``weights`` and ``masks`` are the digests the keys hold."""

    stages: Mapping[str, StageCount]
    weights: Mapping[str, str]
    masks: Mapping[tuple[str, str], Mapping[str, str]]

    @property
    def unique(self) -> int:
        return sum(c.unique for c in self.stages.values())

    @property
    def stored(self) -> int:
        return sum(c.stored for c in self.stages.values())

    @property
    def to_compute(self) -> dict[str, int]:
        """Stage -> unique stages that the store lacks; stages with none left out."""
        return {s: c.unique - c.stored for s, c in self.stages.items() if c.unique > c.stored}


def plan_cells(cells: Sequence[Any], data: Mapping[str, Any], workspace: Path) -> Plan:
    """Plan ``StudyCell``s on their resolved data. UserError if weights or mask files are
    missing."""
    from coin_ray.weights import registry

    names = sorted({name for cell in cells for name in needed_weights(cell.config)})
    missing = [n for n in names if not registry.path_of(registry.entry(n)).is_file()]
    if len(missing) > 1:
        raise UserError(
            f"{len(missing)} weight files are missing: {', '.join(missing)}",
            do=f"`coin-ray models fetch {' '.join(missing)}`; without them: `--profile mini`",
        )
    weights = {name: registry.identity(name) for name in names}
    masks = {
        (cell.config.ucis.path, cell.data.name): _masks(cell.config.ucis.path, data[cell.data.name])
        for cell in cells
        if cell.config.ucis.path is not None
    }
    store = Store(workspace / "store")
    naive: Counter[str] = Counter()
    unique: dict[str, Key] = {}
    for cell in cells:
        resolved = data[cell.data.name]
        coarse = masks.get((cell.config.ucis.path or "", cell.data.name), {})
        keys = CellKeys(
            cell.config, cell.seed, resolved.train, weights.__getitem__, _lookup(coarse)
        )
        own = {key.digest: key for key in cell_stages(keys, resolved)}
        naive.update(key.stage for key in own.values())
        unique |= own
    total = Counter(key.stage for key in unique.values())
    stored = Counter(key.stage for key in unique.values() if store.has(key))
    stages = {s: StageCount(naive[s], total[s], stored[s]) for s in VERSIONS if total[s]}
    return Plan(stages, weights, masks)


def _lookup(digests: Mapping[str, str]) -> Callable[[str, str], str]:
    return lambda folder, name: digests[name]


def cell_stages(keys: CellKeys, data: Any) -> Iterator[Key]:
    """Every stage that a finished cell has gone through (some of them twice)."""
    config = keys.config
    rounds = config.rounds.count
    evaluated = [s.image for s in data.samples]
    for image in dict.fromkeys([*data.train, *evaluated]):
        yield keys.ucis(image)
        if config.uss.family != "none":
            yield keys.features(image)
            yield keys.centroids(image)
            yield keys.similarity(image)
            yield keys.transport(image)
            yield keys.refine(image)
        yield keys.instances(image, keys.refine(image))
    for image in data.train:
        yield keys.embed(image)
        for round_ in range(1, rounds + 2):
            yield keys.current(image, round_)
            yield keys.score(image, round_)
            if round_ <= max(1, rounds):
                yield keys.select(image, round_)
    for round_ in range(1, rounds + 1):
        yield keys.round(round_)
    for sample in data.samples:
        image = sample.image
        yield keys.instances(image, keys.ucis(image))
        if rounds:
            yield keys.predict(image, rounds)
        if sample.has_truth:
            for step in keys.steps(image):
                yield keys.evaluated(image, step)
                yield keys.evaluate(image, sample.truth_digest(), step)


def mask_digest(folder: str, name: str) -> str:
    """Content digest of the coarse mask file of an image. UserError if there is none."""
    from coin_ray.ucis.files import find_mask
    from coin_ray.weights.registry import file_digest

    return file_digest(find_mask(folder, name))


def _masks(folder: str, data: Any) -> dict[str, str]:
    images = dict.fromkeys([*data.train, *(s.image for s in data.samples)])
    return {image.name: mask_digest(folder, image.name) for image in images}
