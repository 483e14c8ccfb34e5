"""One cell: every stage of its chain, computed when it is asked for and missing from the store.

Asking pulls: a stage asks for its inputs only if its own artifact is not there, so a finished cell
reads its metrics and nothing else. The same object runs in process and in Ray's workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.resolution import pixel_scale
from coin_ray.labels import BoolArray, InstanceMasks, LabelMap
from coin_ray.pipeline import stages
from coin_ray.pipeline.chain import CellKeys
from coin_ray.pipeline.keys import Key
from coin_ray.pipeline.needs import needs_coarse
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
            ucis = self.config.ucis
            source: Any = None
            if ucis.folder is not None:
                from coin_ray.ucis.files import find_mask

                source = find_mask(ucis.folder, image.name)
            elif ucis.trained is not None:
                source = self.ucis_model().arrays
            scale = pixel_scale(image.mpp)
            return stages.ucis(self.config, image.load(), scale, source, self.device)

        return self._array(self.keys.ucis(image), compute)

    def ucis_model(self) -> Artifact:
        """Weights of the coarse model; it must have been trained (``training.py``)."""
        return self.store.sound(self.keys.ucis_model())

    def features(self, image: Any, zoom: float) -> dict[str, NDArray[Any]]:
        """Window features at one zoom, fp16."""
        return self._get(
            self.keys.features(image, zoom),
            lambda: Artifact(stages.features(self.config, image.load(), zoom, self.device)),
        ).arrays

    def centroids(self, image: Any) -> list[dict[str, NDArray[Any]]]:
        """Class sums of one image, of each zoom."""

        def compute(zoom: float) -> Artifact:
            features, coarse = self.features(image, zoom), self.ucis(image)
            return Artifact(stages.class_sums(self.config, features, coarse))

        return [
            self._get(self.keys.centroids(image, zoom), partial(compute, zoom)).arrays
            for zoom in self.config.uss.zoom
        ]

    def similarity(self, image: Any) -> NDArray[np.float32]:
        """(2, H, W)."""

        def compute() -> NDArray[Any]:
            everyone = None
            if self.config.uss.centroid_scope == "dataset":
                everyone = [self.centroids(other) for other in self.train]
            features = (self.features(image, zoom) for zoom in self.config.uss.zoom)
            return stages.similarity(self.config, features, self.centroids(image), everyone)

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

    def masks(self, image: Any, round_: int) -> InstanceMasks:
        """The segmenter's masks of the instances that ``round_`` scores."""

        def compute() -> Artifact:
            points = stages.prompts(self.config, self.current(image, round_))
            masks = self.segmenter.masks(image, self.keys.embed(image), points, self.done)
            return Artifact(masks.to_arrays())

        return InstanceMasks.from_arrays(self._get(self.keys.masks(image, round_), compute).arrays)

    def score(self, image: Any, round_: int) -> Artifact:
        """``agreement``, ``scores`` and sanity facts (N,) of the instances of ``round_``."""

        def compute() -> Artifact:
            found = stages.score(
                self.config,
                image.load(),
                self.current(image, round_),
                self.masks(image, round_),
                pixel_scale(image.mpp),
            )
            agreement = found["agreement"]
            info = {"instances": len(agreement), "agreement_sum": float(agreement.sum(dtype=float))}
            return Artifact(found, info)

        return self._get(self.keys.score(image, round_), compute)

    def select(self, image: Any, round_: int) -> Artifact:
        """``label_map`` and ``ignore`` (H, W) of the pseudo labels that ``round_`` trains on, and
        how many instances were accepted."""
        refresh, previous = self.keys.refresh(round_), self.keys.previous_refresh(round_)

        def compute() -> Artifact:
            group, position = [image], 0
            if self.config.select.scope == "dataset":
                group, position = list(self.train), list(self.train).index(image)
            scored = [self.score(other, refresh).arrays for other in group]
            masks, scores = self.masks(image, refresh), scored[position]["scores"]
            accepted, threshold = stages.select(self.config, scored, position, masks)
            earlier = None if previous is None else self.select(image, previous).arrays
            labels = stages.pseudo_labels(
                self.config,
                self.current(image, refresh),
                masks,
                scores,
                accepted,
                self.refine(image) if self.config.labels.missed == "ignore" else None,
                earlier,
            )
            info = {
                "instances": len(accepted),
                "accepted": int(accepted.sum()),
                "labelled": int(labels["label_map"].max(initial=0)),
                "threshold": float(threshold),
                "score_mean": float(scores.mean()) if len(accepted) else 0.0,
                "score_std": float(scores.std()) if len(accepted) else 0.0,
                **stages.label_change(
                    labels["label_map"], None if earlier is None else earlier["label_map"]
                ),
            }
            return Artifact(labels, info)

        return self._get(self.keys.select(image, round_), compute)

    def student(self, round_: int) -> Artifact:
        """Weights after ``round_``; the round must have been trained (``rounds.py``)."""
        return self.store.sound(self.keys.round(round_))

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

    def result(self, image: Any, round_: int) -> LabelMap:
        """What the student of ``round_`` is measured by; see ``CellKeys.result``."""
        if not self.config.infer.redraw:
            return self.predict(image, round_)
        return self._array(
            self.keys.result(image, round_),
            lambda: stages.redraw(
                self.config,
                self.masks(image, round_ + 1),
                self.predict(image, round_),
                pixel_scale(image.mpp),
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
        return self.result(image, int(step.removeprefix("round_")))

    def evaluate(self, sample: Any, step: str) -> dict[str, float]:
        """All metrics of one step on one labelled sample. NaN: nothing to compare, skipped."""

        def compute() -> Artifact:
            found = self.labels_at(sample.image, step)
            metrics = stages.evaluate(self.config, sample.load_label_map(), found)
            values = np.array(list(metrics.values()), dtype=np.float64)
            return Artifact({"values": values}, {"names": list(metrics)})

        key = self.keys.evaluate(sample.image, sample.truth_digest(), step)
        artifact = self._get(key, compute)
        return dict(zip(artifact.info["names"], artifact.arrays["values"].tolist(), strict=True))

    def ucis_losses(self) -> dict[str, float]:
        """``ucis_loss``, the loss at the end of the coarse model's training, and its terms by name;
        nothing for a coarse model that is not trained."""
        if self.config.ucis.trained is None:
            return {}
        log = self.store.info(self.keys.ucis_model())["log"]
        return {f"ucis_{term}": values[-1] for term, values in log.items()}

    def score_facts(self, image: Any, round_: int) -> dict[str, Any]:
        """``score``'s small values, without its arrays where it is stored."""
        key = self.keys.score(image, round_)
        return self.store.info(key) if self.store.has(key) else self.score(image, round_).info

    def label_facts(self, image: Any, round_: int) -> dict[str, Any]:
        """``select``'s small values, without its arrays where it is stored."""
        key = self.keys.select(image, round_)
        return self.store.info(key) if self.store.has(key) else self.select(image, round_).info

    def round_summary(self, round_: int) -> dict[str, float]:
        """Label-free facts of the labels that a round trains on, over all training images.

        ``agreement`` with the segmenter, ``instances``, how many were ``accepted``, ``labelled``
        instances (more with a memory), the scores' mean and spread (means over images), and
        ``churn``: 1 - IoU of the label foreground with that of the refresh before, 1 at the first.
        """
        refresh = self.keys.refresh(round_)
        scores = [self.score_facts(image, refresh) for image in self.train]
        chosen = [self.label_facts(image, refresh) for image in self.train]
        instances = sum(s["instances"] for s in scores)
        accepted = sum(s["accepted"] for s in chosen)
        shared, either = (sum(s[f"label_{k}"] for s in chosen) for k in ("shared", "either"))
        return {
            "agreement": sum(s["agreement_sum"] for s in scores) / max(instances, 1),
            "instances": float(instances),
            "accepted": float(accepted),
            "accepted_fraction": accepted / max(instances, 1),
            "labelled": float(sum(s["labelled"] for s in chosen)),
            "churn": 1 - shared / either if either else 0.0,
            "score_mean": float(np.mean([s["score_mean"] for s in chosen])),
            "score_std": float(np.mean([s["score_std"] for s in chosen])),
            "threshold": float(np.mean([s["threshold"] for s in chosen])),
        }
