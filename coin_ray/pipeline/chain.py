"""The keys of a cell's stages, known before anything is computed: from the declarations alone.

ucis_model -> ucis -> features -> centroids -> similarity -> transport -> refine -> instances
     -> embed, masks -> score -> mine -> select -> round 1 .. R -> predict -> redraw -> complete
     -> evaluate; peaks, candidates -> mine, complete
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from coin_ray.data.resolution import pixel_scale
from coin_ray.data.sample import Image, Sample
from coin_ray.labels import LabelMap
from coin_ray.pipeline.memo import Memo
from coin_ray.pipeline.needs import with_cache
from coin_ray.pipeline.oracles import Oracle
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Content, Ref, Source, Together
from coin_ray.pipeline.stages import STAGES
from coin_ray.store.keys import Key, make_key
from coin_ray.store.timing import device_of


class Chain:
    """One cell as the declarations see it, and the key of every stage of it.

    ``train`` are the images that labels are made for; ``weights`` gives the content digest of a
    registered model by its name, ``coarse`` that of the mask file of an image (``ucis.model:
    files``, or ``predictions``, where it may be empty). ``device`` computes; of which kind it is
    (cpu, cuda) is part of what a stage is that runs on it. ``trained``: the device of what was
    trained, where that is another one. Cells that agree in all of these may share a ``memo``.
    """

    def __init__(
        self,
        config: Cell,
        seed: int,
        train: Sequence[Image],
        weights: Callable[[str], str],
        coarse: Callable[[str, str], str],
        memo: Memo | None = None,
        *,
        device: str = "cpu",
        trained: str | None = None,
    ) -> None:
        self.memo = memo or Memo()
        # The view tells the memo what a key depends on, so a key reads nothing around it.
        view, self.cell = self.memo.open(config, seed)
        self.config, self.train = cast(Cell, view), tuple(train)
        self._seed, self._weights, self._coarse = seed, functools.cache(weights), coarse
        self.whole, self._device = with_cache(config, device), device
        self._trained = self
        if trained is not None and trained != device:
            self._trained = Chain(config, seed, train, weights, coarse, device=trained)
        self._oracle: Oracle | None = None

    def with_oracle(self, name: str, samples: Sequence[Sample]) -> Chain:
        """The cell with the ground truth of ``samples`` in place of a stage (``pipeline.oracles``);
        the cell itself without a ``name``. The only way that a truth comes to a cell but by its
        evaluation."""
        if not name:
            return self
        found = copy.copy(self)
        found._oracle = Oracle(name, {sample.image: sample for sample in samples})
        found.cell = (*self.cell[:-1], found._oracle.number)
        apart = self._trained is not self
        found._trained = self._trained.with_oracle(name, samples) if apart else found
        return found

    def instead(self, ref: Ref, taker: str = "") -> Ref:
        """What stands for a stage in this cell, for a stage that takes it: itself, or an oracle."""
        self.memo.note("oracle")
        return ref if self._oracle is None else self._oracle.instead(self.memo.truth, ref, taker)

    @property
    def images(self) -> int:
        return self.memo.number(self.train)

    @property
    def seed(self) -> int:
        self.memo.note("seed")
        return self._seed

    def key(self, ref: Ref) -> Key:
        """The key of a stage."""
        return self.memo.get(self.cell, ("key", ref), self._key)

    def _key(self, ref: Ref) -> Key:
        ref = self.instead(ref)
        stage = STAGES[ref.stage]
        if stage.trains and self._trained is not self:
            return self._trained.key(ref)
        settings = stage.identity(self, ref)
        kind = device_of(self._device, stage.runs != "cpu" and stage.told)
        if kind != "cpu":  # version 0.1 knew no other
            settings["device"] = kind
        inputs = {role: self._digest(found) for role, found in self._inputs(ref).items()}
        # Straight from the configuration: what a stage costs is no part of what it is.
        what, amount = stage.work(self.whole, settings)
        if ref.image is not None:
            amount *= self.memo.area(ref.image)
        name, device = stage.label(self, ref), stage.runs != "cpu"
        key = make_key(
            ref.stage, stage.version, name, settings, inputs, (what, amount), on_device=device
        )
        key = key if stage.keeps(self.whole) else replace(key, kept=False)
        return self.memo.add(key, self, ref)

    def _inputs(self, ref: Ref) -> dict[str, Source]:
        found = STAGES[ref.stage].inputs(self, ref)
        if self._oracle is None:
            return found
        return {role: self._replaced(source, ref.stage) for role, source in found.items()}

    def _replaced(self, source: Source, taker: str) -> Source:
        if isinstance(source, Ref):
            return self.instead(source, taker)
        if isinstance(source, Content | Together):
            return source
        return cast(Source, [self.instead(s, taker) if isinstance(s, Ref) else s for s in source])

    def _digest(self, source: Source) -> str | list[str]:
        if isinstance(source, Ref):
            return self.key(source).digest
        if isinstance(source, Content):
            return source.digest
        if isinstance(source, Together):
            return self.memo.get(self.cell, ("together", source), self._together)
        return [cast(str, self._digest(one)) for one in source]

    def _together(self, source: Together) -> str:
        return self.memo.group([self.key(ref).digest for ref in source.refs(self, source.round)])

    def sources(self, ref: Ref) -> dict[str, Source]:
        """Where the inputs of a stage come from, by role."""
        found = self._inputs(ref)
        return {
            role: source.refs(self, source.round) if isinstance(source, Together) else source
            for role, source in found.items()
        }

    def pixels(self, image: Image) -> Content:
        return Content(self.memo.content(image), image.load)

    def scale(self, image: Image) -> Content:
        scale = pixel_scale(image.mpp)
        return Content(repr(scale), lambda: scale)

    def weights(self, name: str) -> Content:
        return Content(self._weights(name), lambda: name)

    def mask_file(self, folder: str, image: Image) -> Content:
        def find() -> Path:
            from coin_ray.ucis.mask_files import find_mask

            return find_mask(folder, image.name)

        return Content(self._coarse(folder, image.name), find)

    def prediction(self, image: Image) -> Content | None:
        def read() -> LabelMap:
            from coin_ray.data.predictions import read_prediction

            return read_prediction(self.whole.predictions, image)

        found = self._coarse(self.config.predictions.path or "", image.name)
        return Content(found, read) if found else None

    def training(self) -> tuple[str, float, tuple[float, ...]]:
        """What the rounds cost: kind and amount of a step's work, then the steps of each round."""
        from coin_ray.pipeline.needs import round_schedule

        rounds = range(1, self.config.rounds.count + 1)
        steps = (round_schedule(self.config, r, self.images)["iterations"] for r in rounds)
        return *STAGES["round"].work(self.whole, {"iterations": 1}), tuple(steps)
