"""The chain of stages of a cell, as keys: known before anything is computed.

    ucis_model -> ucis -> features -> centroids -> similarity -> transport -> refine -> instances
         -> embed, masks -> score -> select -> round 1 .. R -> predict -> redraw -> evaluate

Each method says what its stage depends on; ``cell.py`` computes the same stages under these keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from coin_ray.data.resolution import pixel_scale
from coin_ray.pipeline.keys import Key, make_key
from coin_ray.pipeline.ledger import work
from coin_ray.pipeline.memo import Memo, remembered
from coin_ray.pipeline.needs import (
    coarse_weights,
    needs_coarse,
    round_schedule,
    student_has_encoder,
)
from coin_ray.pipeline.section import Section
from coin_ray.pipeline.settings import Cell, identity
from coin_ray.weights.registry import backbone_name

VERSIONS = {
    "ucis_model": 1,
    "ucis": 1,
    "features": 1,
    "centroids": 1,
    "similarity": 1,
    "transport": 1,
    "refine": 1,
    "instances": 1,
    "embed": 1,
    "masks": 1,
    "score": 2,
    "select": 2,
    "round": 1,
    "predict": 1,
    "redraw": 1,
    "evaluate": 1,
}
"""Raised by one when a stage's result changes for the same inputs; in the stages' order."""


EVIDENCE = ("sigma", "contrast_sigma")
"""Settings of the section ucis that the signed stain evidence is made with."""
STAIN_MASK = (*EVIDENCE, "opening", "max_hole", "min_area", "min_contrast", "min_share")
"""And those of a coarse mask from the stain."""


REDRAW = ("redraw", "redraw_min_iou", "redraw_grow")
"""Settings of the section infer that act after the prediction."""


class ImageLike(Protocol):
    """What a key needs of an image. It has no ground truth."""

    @property
    def name(self) -> str: ...
    @property
    def mpp(self) -> float | None: ...
    def digest(self) -> str: ...
    def shape(self) -> tuple[int, int]: ...


class CellKeys:
    """Keys of every stage of one cell.

    ``train`` are the images that labels are made for; ``weights`` gives the content digest of a
    registered model by its name, ``coarse`` that of the mask file of an image (``ucis.model:
    files``). Cells that agree in these three may share a ``memo``.
    """

    def __init__(
        self,
        config: Cell,
        seed: int,
        train: Sequence[ImageLike],
        weights: Callable[[str], str],
        coarse: Callable[[str, str], str],
        memo: Memo | None = None,
    ) -> None:
        self.memo = memo or Memo()
        # The view tells the memo what a key depends on, so a key reads nothing around it.
        view, self.cell = self.memo.open(config, seed)
        self.config, self.train = cast(Cell, view), tuple(train)
        self._seed, self._weights, self._coarse = seed, functools.cache(weights), coarse
        self._content = self.memo.content
        # Straight from the configuration: what a stage costs is no part of what it is.
        self._work = functools.cache(lambda stage: work(stage, config))

    @property
    def seed(self) -> int:
        self.memo.note("seed")
        return self._seed

    def _key(
        self,
        stage: str,
        image: ImageLike | None,
        settings: dict[str, Any],
        inputs: dict[str, str | list[str]],
        *,
        name: str = "",
    ) -> Key:
        kind, amount = self._work(stage)
        amount *= settings.get("iterations", 1) * settings.get("zoom", 1) ** 2
        if image is not None:
            name, amount = name or image.name, amount * self.memo.area(image)
        key = make_key(stage, VERSIONS[stage], name, settings, inputs, (kind, amount))
        return self.memo.keys.setdefault(key.digest, key)

    def _pixels(self, image: ImageLike) -> dict[str, str | list[str]]:
        return {"image": self._content(image), "scale": repr(pixel_scale(image.mpp))}

    @remembered
    def ucis_model(self) -> Key:
        """The network of a coarse model that is trained: one for all random seeds."""
        ucis = self.config.ucis
        assert ucis.trained is not None
        settings = identity(ucis, ("model", "weights", "seed")) | identity(ucis.trained)
        inputs: dict[str, str | list[str]] = {
            "images": [self._content(image) for image in self.train],
            "scales": [repr(pixel_scale(image.mpp)) for image in self.train],
        }
        for name in coarse_weights(ucis):
            inputs["encoder"] = self._weights(name)
        return self._key("ucis_model", None, settings, inputs, name=ucis.model)

    @remembered
    def ucis(self, image: ImageLike) -> Key:
        inputs, ucis = self._pixels(image), self.config.ucis
        settings = identity(ucis, ("model",))
        if ucis.folder is not None:
            inputs["mask"] = self._coarse(ucis.folder, image.name)
        elif ucis.trained is not None:
            inputs["network"] = self.ucis_model().digest
        else:
            settings = identity(ucis, ("model", "path", *STAIN_MASK))
        return self._key("ucis", image, settings, inputs)

    @remembered
    def features(self, image: ImageLike, zoom: float) -> Key:
        """Of one zoom, so that lists of zooms share what they have in common."""
        uss = self.config.uss
        fields = ("family", "size", "weights", "layer", "window", "stride", "hflip")
        inputs: dict[str, str | list[str]] = {
            "image": self._content(image),
            "weights": self._weights(backbone_name(uss.family, uss.size, uss.weights)),
        }
        return self._key("features", image, identity(uss, fields) | {"zoom": zoom}, inputs)

    @remembered
    def centroids(self, image: ImageLike, zoom: float) -> Key:
        inputs: dict[str, str | list[str]] = {
            "features": self.features(image, zoom).digest,
            "ucis": self.ucis(image).digest,
        }
        return self._key("centroids", image, identity(self.config.uss, ("normalise",)), inputs)

    @remembered
    def _all_centroids(self) -> str:
        zooms = self.config.uss.zoom
        keys = [self.centroids(image, zoom) for image in self.train for zoom in zooms]
        return self.memo.group([key.digest for key in keys])

    @remembered
    def similarity(self, image: ImageLike) -> Key:
        uss = self.config.uss
        fields = ["normalise", "centroid_scope", "relu"]
        if self.config.ot.enabled:  # without it, raw cosines are thresholded
            fields += ["minmax", "percentile", "complement"]
        inputs: dict[str, str | list[str]] = {
            "features": [self.features(image, zoom).digest for zoom in uss.zoom],
            "centroids": [self.centroids(image, zoom).digest for zoom in uss.zoom],
        }
        if uss.centroid_scope == "dataset":
            fields.append("centroid_weight")
            inputs["all_centroids"] = self._all_centroids()
        return self._key("similarity", image, identity(uss, tuple(fields)), inputs)

    @remembered
    def transport(self, image: ImageLike) -> Key:
        ot = self.config.ot
        on = ("lambda", "mode", "solver", "foreground_mass", "prior", "output")
        fields = on if ot.enabled else ("threshold",)
        settings: dict[str, Any] = {"enabled": ot.enabled, **identity(ot, fields)}
        if ot.enabled:
            settings["complement"] = self.config.uss.complement
        inputs: dict[str, str | list[str]] = {"similarity": self.similarity(image).digest}
        if needs_coarse(self.config):
            inputs["ucis"] = self.ucis(image).digest
        return self._key("transport", image, settings, inputs)

    @remembered
    def refine(self, image: ImageLike) -> Key:
        """The propagated mask; the coarse mask itself when nothing is propagated."""
        if self.config.uss.family == "none":
            return self.ucis(image)
        crf = self.config.crf
        inputs: dict[str, str | list[str]] = {"transport": self.transport(image).digest}
        if crf.enabled:
            inputs["image"] = self._content(image)
        settings = identity(crf) if crf.enabled else {"enabled": False}
        return self._key("refine", image, settings, inputs)

    @remembered
    def instances(self, image: ImageLike, mask: Key) -> Key:
        """Instances of a mask: ``refine(image)`` for Step 1, ``ucis(image)`` for the coarse row."""
        inputs: dict[str, str | list[str]] = {
            "mask": mask.digest,
            "scale": repr(pixel_scale(image.mpp)),
        }
        return self._key("instances", image, identity(self.config.instances), inputs)

    @remembered
    def embed(self, image: ImageLike) -> Key:
        model = self.config.sam.model
        inputs: dict[str, str | list[str]] = {
            "image": self._content(image),
            "weights": self._weights(f"sam_{model}"),
        }
        return self._key("embed", image, {"model": model}, inputs)

    def current(self, image: ImageLike, round_: int) -> Key:
        """The label map that ``round_`` scores: Step 1 for round 1, then the last prediction."""
        if round_ == 1:
            return self.instances(image, self.refine(image))
        return self.predict(image, round_ - 1)

    @remembered
    def masks(self, image: ImageLike, round_: int) -> Key:
        """The segmenter's masks of the instances that ``round_`` scores."""
        inputs: dict[str, str | list[str]] = {
            "instances": self.current(image, round_).digest,
            "embed": self.embed(image).digest,
        }
        settings = identity(self.config.sam, ("prompt",))
        return self._key("masks", image, settings, inputs)

    @remembered
    def score(self, image: ImageLike, round_: int) -> Key:
        config, terms = self.config, self.config.score.terms
        settings: dict[str, Any] = {"terms": list(terms)}
        inputs: dict[str, str | list[str]] = {
            "instances": self.current(image, round_).digest,
            "masks": self.masks(image, round_).digest,
        }
        evidence = {"regrowth", "ring_contrast"} & set(terms)
        if evidence or "stain_jitter" in terms:
            inputs |= self._pixels(image)
        if evidence:
            settings["evidence"] = identity(config.ucis, EVIDENCE)
        if "stain_jitter" in terms:
            settings["coarse"] = identity(config.ucis, STAIN_MASK)
            settings["split"] = identity(config.instances)
        return self._key("score", image, settings, inputs)

    def refresh(self, round_: int) -> int:
        """The round in which the labels that ``round_`` trains on were made."""
        return round_ - (round_ - 1) % self.config.rounds.refresh

    def previous_refresh(self, round_: int) -> int | None:
        """The round whose labels were replaced by those of ``round_``."""
        previous = self.refresh(round_) - self.config.rounds.refresh
        return previous if previous > 0 else None

    @remembered
    def select(self, image: ImageLike, round_: int) -> Key:
        """The labels that ``round_`` trains on."""
        config, round_, previous = self.config, self.refresh(round_), self.previous_refresh(round_)
        inputs: dict[str, str | list[str]] = {"score": self.score(image, round_).digest}
        inputs["instances"] = self.current(image, round_).digest
        inputs["masks"] = self.masks(image, round_).digest
        if previous is not None:
            inputs["before"] = self.select(image, previous).digest
        if config.select.scope == "dataset":
            inputs["all_scores"] = self._all_scores(round_)
        if config.labels.missed == "ignore":
            inputs["step1"] = self.refine(image).digest
        settings = {"select": identity(config.select), "labels": identity(config.labels)}
        return self._key("select", image, settings, inputs)

    @remembered
    def _all_scores(self, round_: int) -> str:
        return self.memo.group([self.score(image, round_).digest for image in self.train])

    @remembered
    def round(self, round_: int) -> Key:
        student: Section = self.config.student
        settings = identity(student) | round_schedule(self.config, round_, len(self.train))
        for name in ("epochs", "later_iterations", "later_lr"):
            del settings[name]
        inputs: dict[str, str | list[str]] = {
            "images": [self._content(image) for image in self.train],
            "labels": [self.select(image, round_).digest for image in self.train],
        }
        if self.config.student.encoder_weights == "imagenet" and student_has_encoder(self.config):
            inputs["encoder"] = self._weights(f"{self.config.student.encoder}_imagenet")
        if round_ > 1:
            inputs["previous"] = self.round(round_ - 1).digest
        if self.previous_refresh(round_) is not None:
            settings["early_stop"] = self.config.rounds.early_stop
        settings |= {"seed": self.seed, "round": round_}
        return self._key("round", None, settings, inputs, name=f"round{round_}-seed{self.seed}")

    def training(self) -> tuple[Any, ...]:
        """What the rounds cost: kind and amount of a step's work, then the steps of each round."""
        rounds = range(1, self.config.rounds.count + 1)
        steps = (round_schedule(self.config, r, len(self.train))["iterations"] for r in rounds)
        return *self._work("round"), *steps

    @remembered
    def predict(self, image: ImageLike, round_: int) -> Key:
        config = self.config
        infer = identity(config.infer)
        for name in REDRAW:
            del infer[name]
        settings = {"infer": infer, "instances": identity(config.instances)}
        if config.infer.stain_weight:
            settings["evidence"] = identity(config.ucis, EVIDENCE)
        if config.infer.crf:
            settings["crf"] = {k: v for k, v in identity(config.crf).items() if k != "enabled"}
        inputs = {**self._pixels(image), "round": self.round(round_).digest}
        return self._key("predict", image, settings, inputs)

    def result(self, image: ImageLike, round_: int) -> Key:
        """What the student of ``round_`` is measured by: its prediction, redrawn if asked for.

        The next round scores the prediction itself: a mask of the segmenter would agree with the
        segmenter whatever the student saw.
        """
        if not self.config.infer.redraw:
            return self.predict(image, round_)
        inputs: dict[str, str | list[str]] = {
            "masks": self.masks(image, round_ + 1).digest,
            "scale": repr(pixel_scale(image.mpp)),
        }
        if self.config.infer.redraw_grow:
            inputs["predict"] = self.predict(image, round_).digest
        settings = identity(self.config.instances, ("min_area",))
        settings |= identity(self.config.infer, REDRAW)
        return self._key("redraw", image, settings, inputs)

    def evaluated(self, image: ImageLike, step: str) -> Key:
        """The label map behind a row of the table; ``step`` is one of ``steps()``."""
        if step == "ucis":
            return self.instances(image, self.ucis(image))
        if step == "step1":
            return self.instances(image, self.refine(image))
        if step == "pseudo_labels":
            return self.select(image, 1)
        return self.result(image, int(step.removeprefix("round_")))

    def steps(self, image: ImageLike) -> tuple[str, ...]:
        """``ucis``, ``step1``, ``pseudo_labels``, ``round_1`` .. ``round_R``.

        Only an image that is trained on has pseudo labels.
        """
        labels = ("pseudo_labels",) if image in self.train else ()
        rounds = (f"round_{r + 1}" for r in range(self.config.rounds.count))
        return ("ucis", "step1", *labels, *rounds)

    def final_step(self) -> str:
        """The step whose label maps are the cell's result."""
        rounds = self.config.rounds.count
        return f"round_{rounds}" if rounds else "step1"

    @remembered
    def evaluate(self, image: ImageLike, truth: str, step: str) -> Key:
        """``truth`` is the content digest of the ground truth."""
        inputs: dict[str, str | list[str]] = {
            "labels": self.evaluated(image, step).digest,
            "truth": truth,
        }
        settings = identity(self.config.evaluate)
        return self._key("evaluate", image, settings, inputs, name=f"{image.name}-{step}")
