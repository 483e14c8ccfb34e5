"""One cell: every stage of its chain, computed when it is asked for and missing from the store.

Asking pulls: a stage asks for its inputs only if its own artifact is not there, so a finished cell
reads its metrics and nothing else. The same object runs in process and in Ray's workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.settings import Sam
from coin_ray.confidence.windowed import window_px
from coin_ray.data.sample import Image, Sample
from coin_ray.labels import InstanceMasks, LabelMap
from coin_ray.pipeline import refs
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.segmenter import Look, Segmenter
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Array, Content, Given, Keyed, Ref
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.stages.distillation import churn, student_weights
from coin_ray.precision import Precision
from coin_ray.section import Values
from coin_ray.store.artifacts import Artifact, Done, Store
from coin_ray.store.keys import Key


@dataclass(frozen=True)
class CellRun:
    """``chain``: the cell. ``done`` hears of every artifact computed here, ``reused`` of every one
    that was there (as often as it is asked for)."""

    config: Cell
    chain: Chain
    store: Store
    segmenter: Segmenter
    device: str = "cpu"
    done: Done | None = None
    reused: Callable[[Key], None] | None = None

    @property
    def train(self) -> Sequence[Image]:
        """The images labels are made for, without ground truth."""
        return self.chain.train

    def key(
        self, stage: str, image: Image | None = None, round_: int = 0, zoom: float = 0.0
    ) -> Key:
        """The key of a stage, see ``Ref``."""
        return self.chain.key(Ref(stage, image, round_, zoom))

    def get(self, ref: Ref, *ahead: Any) -> Artifact:
        """An artifact, for which the device may have worked ``ahead``. What is trained has to be
        there (``rounds.py``)."""
        ref = self.chain.instead(ref)
        key = self.chain.key(ref)
        if STAGES[ref.stage].trains:
            return self.store.sound(key)
        if self.reused is not None and self.store.has(key):
            self.reused(key)
        stage = STAGES[ref.stage]
        return self.store.get(key, lambda: stage.compute(self.given(ref), *ahead), self.done)

    def ahead(self, asked: Sequence[Ref]) -> Iterator[tuple[Any, ...]]:
        """What the device does ahead for artifacts of one stage, in turn: arguments of ``get``."""
        asked = [self.chain.instead(ref) for ref in asked]
        missing = [not self.store.has(self.chain.key(ref)) for ref in asked]
        ahead = STAGES[asked[0].stage].ahead if any(missing) else None
        made = ahead(map(self.given, compress(asked, missing))) if ahead else iter(())
        for lacks in missing:
            yield (next(made),) if ahead and lacks else ()

    def artifact(
        self, stage: str, image: Image | None = None, round_: int = 0, zoom: float = 0.0
    ) -> Artifact:
        """``get`` by the parts of a ``Ref``."""
        return self.get(Ref(stage, image, round_, zoom))

    def array(
        self, stage: str, image: Image | None = None, round_: int = 0, zoom: float = 0.0
    ) -> Array:
        """The array of a stage that has one."""
        return self.artifact(stage, image, round_, zoom).arrays["array"]

    def given(self, ref: Ref) -> Given:
        """What the computation of a stage is handed."""
        stage = STAGES[ref.stage]

        def fetch(source: Ref | Content) -> Any:
            if isinstance(source, Content):
                return source.read()
            if source.stage == "embed" and not self.store.has(self.chain.key(source)):
                # Whoever holds the model stores what it sees.
                prompt(source, Prompts(np.zeros((0, 2))), upstream(source).precision)
            kept = STAGES[source.stage].keeps(self.chain.whole)
            kept = kept or self.store.has(self.chain.key(source))
            return self.get(source) if kept else self.given(source)

        def prompt(embed: Ref, prompts: Prompts, precision: Precision) -> InstanceMasks:
            sam = upstream(embed).section(Sam)
            scale = self.chain.scale(embed.image).read() if sam.window is not None else 1.0
            look = Look(precision, window_px(sam, scale), sam.views)
            key = self.chain.key(embed)
            return self.segmenter.masks(embed.image, key, prompts, look, self.done)

        def upstream(source: Ref) -> Keyed:
            return Keyed(source.stage, STAGES[source.stage].values(self.chain, source))

        return Given(
            stage,
            stage.values(self.chain, ref),
            self.chain.sources(ref),
            fetch,
            config=self.config,
            device=self.device,
            prompt=prompt,
            upstream=upstream,
        )

    def labels_at(self, image: Image, step: str) -> LabelMap:
        """The label map of one row of the table; see ``refs.steps``."""
        if made := self.chain.prediction(image) if refs.elsewhere(self.chain) else None:
            return made.read()
        arrays = self.get(refs.behind(self.chain, image, step)).arrays
        return arrays["label_map"] if "label_map" in arrays else arrays["array"]

    def labels(self, image: Image, round_: int) -> Artifact:
        """The pseudo labels that a round trains on."""
        return self.get(refs.labels(self.chain, image, round_))

    def masks(self, image: Image, round_: int) -> InstanceMasks:
        """The segmenter's masks of the instances that a round scores."""
        return InstanceMasks.from_arrays(self.artifact("masks", image, round_).arrays)

    def student(self, round_: int) -> Artifact:
        """Weights after a round, which must have been trained."""
        trained = self.get(Ref("round", round=round_))
        return Artifact(student_weights(trained), trained.info)

    def evaluate(self, sample: Sample, step: str) -> dict[str, float]:
        """All metrics of one step on one labelled sample. NaN: nothing to compare, skipped."""
        truth = self.chain.memo.truth(sample)
        artifact = self.get(Ref("evaluate", sample.image, step=step, truth=truth))
        return dict(zip(artifact.info["names"], artifact.arrays["values"].tolist(), strict=True))

    def info(self, ref: Ref) -> Values:
        """The small values of an artifact, without its arrays where it is stored."""
        key = self.chain.key(ref)
        return self.store.info(key) if self.store.has(key) else self.get(ref).info

    def ucis_losses(self) -> dict[str, float]:
        """``ucis_loss``, the loss at the end of the coarse model's training, and its terms by name;
        nothing for a coarse model that is not trained."""
        if self.config.ucis.trained is None:
            return {}
        log = self.store.info(self.key("ucis_model"))["log"]
        return {f"ucis_{term}": values[-1] for term, values in log.items()}

    def label_facts(self, image: Image, round_: int) -> Values:
        """How the labels that a round trains on came about."""
        return self.info(refs.labels(self.chain, image, round_))

    def round_summary(self, round_: int) -> dict[str, float]:
        """Label-free facts of the labels that a round trains on, over all training images.

        ``agreement`` with the segmenter, ``instances``, how many were ``accepted``, ``labelled``
        instances (more with a memory), the scores' mean and spread (means over images), and
        ``churn``: 1 - IoU of the label foreground with that of the refresh before, 1 at the first.
        """
        made = refs.refresh(self.chain, round_)
        scores = [self.info(Ref("score", image, made)) for image in self.train]
        chosen = [self.label_facts(image, made) for image in self.train]
        instances = sum(s["instances"] for s in scores)
        accepted = sum(s["accepted"] for s in chosen)
        return {
            "agreement": sum(s["agreement_sum"] for s in scores) / max(instances, 1),
            "instances": float(instances),
            "accepted": float(accepted),
            "accepted_fraction": accepted / max(instances, 1),
            "labelled": float(sum(s["labelled"] for s in chosen)),
            "churn": churn(chosen),
            "score_mean": float(np.mean([s["score_mean"] for s in chosen])),
            "score_std": float(np.mean([s["score_std"] for s in chosen])),
            "threshold": float(np.mean([s["threshold"] for s in chosen])),
        }
