"""One cell: every stage of its chain, computed when it is asked for and missing from the store.

Asking pulls: a stage asks for its inputs only if its own artifact is not there, so a finished cell
reads its metrics and nothing else. The same object runs in process and in Ray's workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.resolution import pixel_scale
from coin_ray.labels import BoolArray, InstanceMasks, LabelMap
from coin_ray.pipeline import stages
from coin_ray.pipeline.chain import CellKeys, needs_coarse
from coin_ray.pipeline.keys import Key
from coin_ray.pipeline.segmenter import Segmenter
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.store import Artifact, Done, Store


@dataclass(frozen=True)
class CellRun:
    """``train``: the images labels are made for, without ground truth. ``done`` hears of every
    artifact computed here, ``found`` of every one that was there (as often as it is asked for)."""

    config: Cell
    seed: int
    train: Sequence[Any]
    store: Store
    keys: CellKeys
    segmenter: Segmenter
    device: str = "cpu"
    done: Done | None = None
    found: Callable[[Key], None] | None = None

    def _get(self, key: Key, compute: Callable[[], Artifact]) -> Artifact:
        if self.found is not None and self.store.has(key):
            self.found(key)
        return self.store.get(key, compute, self.done)

    def _array(self, key: Key, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        return self._get(key, lambda: Artifact({"array": compute()})).arrays["array"]

    def ucis(self, image: Any) -> BoolArray:
        """Coarse mask (H, W)."""

        def compute() -> NDArray[Any]:
            path = None
            if self.config.ucis.path is not None:
                from coin_ray.ucis.files import find_mask

                path = find_mask(self.config.ucis.path, image.name)
            return stages.ucis(self.config, image.load(), pixel_scale(image.mpp), path)

        return self._array(self.keys.ucis(image), compute)

    def features(self, image: Any) -> dict[str, NDArray[Any]]:
        """Window features, fp16."""
        return self._get(
            self.keys.features(image),
            lambda: Artifact(stages.features(self.config, image.load(), self.device)),
        ).arrays

    def centroids(self, image: Any) -> dict[str, NDArray[Any]]:
        """Class sums of one image."""
        return self._get(
            self.keys.centroids(image),
            lambda: Artifact(
                stages.class_sums(self.config, self.features(image), self.ucis(image))
            ),
        ).arrays

    def similarity(self, image: Any) -> NDArray[np.float32]:
        """(2, H, W)."""

        def compute() -> NDArray[Any]:
            everyone = None
            if self.config.uss.centroid_scope == "dataset":
                everyone = [self.centroids(other) for other in self.train]
            own = self.centroids(image)
            return stages.similarity(self.config, self.features(image), own, everyone)

        return self._array(self.keys.similarity(image), compute)

    def transport(self, image: Any) -> NDArray[np.float32]:
        """S^OT (2, H, W)."""

        def compute() -> NDArray[Any]:
            coarse = self.ucis(image) if needs_coarse(self.config) else None
            return stages.transport(self.config, self.similarity(image), coarse)

        return self._array(self.keys.transport(image), compute)

    def refine(self, image: Any) -> BoolArray:
        """Propagated mask (H, W); the coarse mask when nothing is propagated."""
        if self.config.uss.family == "none":
            return self.ucis(image)
        return self._array(
            self.keys.refine(image),
            lambda: stages.refine(self.config, image.load(), self.transport(image)),
        )

    def instances(self, image: Any, *, coarse: bool = False) -> LabelMap:
        """Instances of Step 1, or of the coarse mask."""
        mask = self.keys.ucis(image) if coarse else self.keys.refine(image)

        def compute() -> NDArray[Any]:
            foreground = self.ucis(image) if coarse else self.refine(image)
            return stages.instances(self.config, foreground, pixel_scale(image.mpp))

        return self._array(self.keys.instances(image, mask), compute)

    def current(self, image: Any, round_: int) -> LabelMap:
        """The label map that ``round_`` scores."""
        return self.instances(image) if round_ == 1 else self.predict(image, round_ - 1)

    def score(self, image: Any, round_: int) -> Artifact:
        """The segmenter's masks, ``agreement`` and ``scores`` of the instances of ``round_``."""

        def compute() -> Artifact:
            label_map = self.current(image, round_)
            points = stages.prompts(self.config, label_map)
            masks = self.segmenter.masks(image, self.keys.embed(image), points, self.done)
            scale = pixel_scale(image.mpp)
            found = stages.score(self.config, image.load(), label_map, masks, scale)
            agreement = found["agreement"]
            info = {"instances": len(masks), "agreement_sum": float(agreement.sum(dtype=float))}
            return Artifact({**masks.to_arrays(), **found}, info)

        return self._get(self.keys.score(image, round_), compute)

    def select(self, image: Any, round_: int) -> Artifact:
        """``label_map`` and ``ignore`` (H, W) of the pseudo labels, and how many were accepted."""

        def compute() -> Artifact:
            scored = self.score(image, round_).arrays
            group, position = [scored["scores"]], 0
            if self.config.select.scope == "dataset":
                group = [self.score(other, round_).arrays["scores"] for other in self.train]
                position = list(self.train).index(image)
            accepted, threshold = stages.select(self.config, group, position)
            step1 = self.refine(image) if self.config.labels.missed == "ignore" else None
            labels = stages.pseudo_labels(
                self.config,
                self.current(image, round_),
                InstanceMasks.from_arrays(scored),
                scored["scores"],
                accepted,
                step1,
            )
            info = {
                "instances": len(accepted),
                "accepted": int(accepted.sum()),
                "threshold": float(threshold),
                "score_mean": float(scored["scores"].mean()) if len(accepted) else 0.0,
                "score_std": float(scored["scores"].std()) if len(accepted) else 0.0,
            }
            return Artifact({"label_map": labels.label_map, "ignore": labels.ignore}, info)

        return self._get(self.keys.select(image, round_), compute)

    def student(self, round_: int) -> Artifact:
        """Weights after ``round_``; the round must have been trained (``rounds.py``)."""
        return self.store.load(self.keys.round(round_))

    def predict(self, image: Any, round_: int) -> LabelMap:
        """Label map of the student after ``round_``."""
        return self._array(
            self.keys.predict(image, round_),
            lambda: stages.predict(
                self.config,
                self.student(round_).arrays,
                image.load(),
                pixel_scale(image.mpp),
                self.device,
            ),
        )

    def labels_at(self, image: Any, step: str) -> LabelMap:
        """The label map of one row of the table; see ``CellKeys.steps``."""
        if step == "ucis":
            return self.instances(image, coarse=True)
        if step == "step1":
            return self.instances(image)
        if step == "pseudo_labels":
            return self.select(image, 1).arrays["label_map"]
        return self.predict(image, int(step.removeprefix("round_")))

    def evaluate(self, sample: Any, step: str) -> dict[str, float]:
        """All metrics of one step on one labelled sample. NaN: nothing to compare, skipped."""

        def compute() -> Artifact:
            metrics = stages.evaluate(sample.load_label_map(), self.labels_at(sample.image, step))
            values = np.array(list(metrics.values()), dtype=np.float64)
            return Artifact({"values": values}, {"names": list(metrics)})

        key = self.keys.evaluate(sample.image, sample.truth_digest(), step)
        artifact = self._get(key, compute)
        return dict(zip(artifact.info["names"], artifact.arrays["values"].tolist(), strict=True))

    def round_summary(self, round_: int) -> dict[str, float]:
        """Label-free facts of a round's labels: agreement, accepted, instances, score spread."""
        scores = [self.store.info(self.keys.score(image, round_)) for image in self.train]
        chosen = [self.store.info(self.keys.select(image, round_)) for image in self.train]
        instances = sum(s["instances"] for s in scores)
        accepted = sum(s["accepted"] for s in chosen)
        return {
            "agreement": sum(s["agreement_sum"] for s in scores) / max(instances, 1),
            "instances": float(instances),
            "accepted": float(accepted),
            "accepted_fraction": accepted / max(instances, 1),
            "score_mean": float(np.mean([s["score_mean"] for s in chosen])),
            "score_std": float(np.mean([s["score_std"] for s in chosen])),
            "threshold": float(np.mean([s["threshold"] for s in chosen])),
        }
