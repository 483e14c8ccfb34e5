"""The chain of stages of a cell, as keys: known before anything is computed.

    ucis -> features -> centroids -> similarity -> transport -> refine -> instances
         -> embed, score -> select -> round 1 .. R -> predict -> evaluate

Each method says what its stage depends on; ``cell.py`` computes the same stages under these keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from coin_ray.data.resolution import pixel_scale
from coin_ray.pipeline.keys import Key, digest, make_key
from coin_ray.pipeline.settings import Cell, Section, identity

VERSIONS = {
    "ucis": 1,
    "features": 1,
    "centroids": 1,
    "similarity": 1,
    "transport": 1,
    "refine": 1,
    "instances": 1,
    "embed": 1,
    "score": 1,
    "select": 1,
    "round": 1,
    "predict": 1,
    "evaluate": 1,
}
"""Raised by one when a stage's result changes for the same inputs; in the stages' order."""


class ImageLike(Protocol):
    """What a key needs of an image. It has no ground truth."""

    @property
    def name(self) -> str: ...
    @property
    def mpp(self) -> float | None: ...
    def digest(self) -> str: ...


F = TypeVar("F", bound=Callable[..., Any])


def _memo(method: F) -> F:
    """Cache a method's results on its instance, so that they go when the cell goes."""

    @functools.wraps(method)
    def cached(self: CellKeys, *args: Any) -> Any:
        call = (method.__name__, *args)
        if call not in self._memo:
            self._memo[call] = method(self, *args)
        return self._memo[call]

    return cast(F, cached)


class CellKeys:
    """Keys of every stage of one cell.

    ``train`` are the images that labels are made for; ``weights`` gives the content digest of a
    registered model by its name, ``coarse`` that of the mask file of an image (``ucis.model:
    files``).
    """

    def __init__(
        self,
        config: Cell,
        seed: int,
        train: Sequence[ImageLike],
        weights: Callable[[str], str],
        coarse: Callable[[str, str], str],
    ) -> None:
        self.config, self.seed, self.train = config, seed, tuple(train)
        self._weights, self._coarse = weights, coarse
        self._memo: dict[tuple[Any, ...], Any] = {}

    def _key(
        self,
        stage: str,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, str | list[str]],
    ) -> Key:
        return make_key(stage, VERSIONS[stage], name, settings, inputs)

    @_memo
    def _content(self, image: ImageLike) -> str:
        return image.digest()

    def _pixels(self, image: ImageLike) -> dict[str, str | list[str]]:
        return {"image": self._content(image), "scale": repr(pixel_scale(image.mpp))}

    @_memo
    def ucis(self, image: ImageLike) -> Key:
        inputs = self._pixels(image)
        settings = identity(self.config.ucis)
        if self.config.ucis.path is not None:
            inputs["mask"] = self._coarse(self.config.ucis.path, image.name)
            settings = {"model": "files"}
        return self._key("ucis", image.name, settings, inputs)

    @_memo
    def features(self, image: ImageLike) -> Key:
        uss = self.config.uss
        fields = ("family", "size", "zoom", "window", "stride", "hflip")
        inputs: dict[str, str | list[str]] = {
            "image": self._content(image),
            "weights": self._weights(f"{uss.family}_{uss.size}"),
        }
        return self._key("features", image.name, identity(uss, fields), inputs)

    @_memo
    def centroids(self, image: ImageLike) -> Key:
        inputs: dict[str, str | list[str]] = {
            "features": self.features(image).digest,
            "ucis": self.ucis(image).digest,
        }
        return self._key("centroids", image.name, identity(self.config.uss, ("normalise",)), inputs)

    @_memo
    def _all_centroids(self) -> str:
        return digest([self.centroids(image).digest for image in self.train])

    @_memo
    def similarity(self, image: ImageLike) -> Key:
        uss = self.config.uss
        fields = ("normalise", "centroid_scope", "relu", "minmax", "complement")
        inputs: dict[str, str | list[str]] = {
            "features": self.features(image).digest,
            "centroids": self.centroids(image).digest,
        }
        if uss.centroid_scope == "dataset":
            inputs["all_centroids"] = self._all_centroids()
        return self._key("similarity", image.name, identity(uss, fields), inputs)

    @_memo
    def transport(self, image: ImageLike) -> Key:
        ot = self.config.ot
        on = ("lambda", "mode", "foreground_mass", "prior", "output")
        fields = on if ot.enabled else ("threshold",)
        settings: dict[str, Any] = {"enabled": ot.enabled, **identity(ot, fields)}
        settings["complement"] = self.config.uss.complement
        inputs: dict[str, str | list[str]] = {"similarity": self.similarity(image).digest}
        if needs_coarse(self.config):
            inputs["ucis"] = self.ucis(image).digest
        return self._key("transport", image.name, settings, inputs)

    @_memo
    def refine(self, image: ImageLike) -> Key:
        """The propagated mask; the coarse mask itself when nothing is propagated."""
        if self.config.uss.family == "none":
            return self.ucis(image)
        crf = self.config.crf
        inputs: dict[str, str | list[str]] = {"transport": self.transport(image).digest}
        if crf.enabled:
            inputs["image"] = self._content(image)
        settings = identity(crf) if crf.enabled else {"enabled": False}
        return self._key("refine", image.name, settings, inputs)

    @_memo
    def instances(self, image: ImageLike, mask: Key) -> Key:
        """Instances of a mask: ``refine(image)`` for Step 1, ``ucis(image)`` for the coarse row."""
        inputs: dict[str, str | list[str]] = {
            "mask": mask.digest,
            "scale": repr(pixel_scale(image.mpp)),
        }
        return self._key("instances", image.name, identity(self.config.instances), inputs)

    @_memo
    def embed(self, image: ImageLike) -> Key:
        model = self.config.sam.model
        inputs: dict[str, str | list[str]] = {
            "image": self._content(image),
            "weights": self._weights(f"sam_{model}"),
        }
        return self._key("embed", image.name, {"model": model}, inputs)

    @_memo
    def current(self, image: ImageLike, round_: int) -> Key:
        """The label map that ``round_`` scores: Step 1 for round 1, then the last prediction."""
        if round_ == 1:
            return self.instances(image, self.refine(image))
        return self.predict(image, round_ - 1)

    @_memo
    def score(self, image: ImageLike, round_: int) -> Key:
        score = identity(self.config.score)
        inputs: dict[str, str | list[str]] = {
            "instances": self.current(image, round_).digest,
            "embed": self.embed(image).digest,
        }
        if self.config.score.kind != "segmenter":
            inputs |= self._pixels(image)
            score["instances"] = identity(self.config.instances)
        settings = {"score": score, "sam": identity(self.config.sam, ("prompt",))}
        return self._key("score", image.name, settings, inputs)

    @_memo
    def select(self, image: ImageLike, round_: int) -> Key:
        config = self.config
        inputs: dict[str, str | list[str]] = {"score": self.score(image, round_).digest}
        inputs["instances"] = self.current(image, round_).digest
        if config.select.scope == "dataset":
            inputs["all_scores"] = self._all_scores(round_)
        if config.labels.missed == "ignore":
            inputs["step1"] = self.refine(image).digest
        settings = {"select": identity(config.select), "labels": identity(config.labels)}
        return self._key("select", image.name, settings, inputs)

    @_memo
    def _all_scores(self, round_: int) -> str:
        return digest([self.score(image, round_).digest for image in self.train])

    @_memo
    def round(self, round_: int) -> Key:
        student: Section = self.config.student
        settings = identity(student) | round_schedule(self.config, round_)
        del settings["later_iterations"], settings["later_lr"]
        inputs: dict[str, str | list[str]] = {
            "images": [self._content(image) for image in self.train],
            "labels": [self.select(image, round_).digest for image in self.train],
        }
        if self.config.student.encoder_weights == "imagenet" and student_has_encoder(self.config):
            inputs["encoder"] = self._weights(f"{self.config.student.encoder}_imagenet")
        if round_ > 1:
            inputs["previous"] = self.round(round_ - 1).digest
        settings |= {"seed": self.seed, "round": round_}
        return self._key("round", f"round{round_}-seed{self.seed}", settings, inputs)

    @_memo
    def predict(self, image: ImageLike, round_: int) -> Key:
        config = self.config
        settings = {"infer": identity(config.infer), "instances": identity(config.instances)}
        if config.infer.stain_weight:
            settings["evidence"] = identity(config.ucis, ("sigma", "contrast_sigma"))
        inputs = {**self._pixels(image), "round": self.round(round_).digest}
        return self._key("predict", image.name, settings, inputs)

    def evaluated(self, image: ImageLike, step: str) -> Key:
        """The label map behind a row of the table; ``step`` is one of ``steps()``."""
        if step == "ucis":
            return self.instances(image, self.ucis(image))
        if step == "step1":
            return self.instances(image, self.refine(image))
        if step == "pseudo_labels":
            return self.select(image, 1)
        return self.predict(image, int(step.removeprefix("round_")))

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

    def evaluate(self, image: ImageLike, truth: str, step: str) -> Key:
        """``truth`` is the content digest of the ground truth."""
        inputs: dict[str, str | list[str]] = {
            "labels": self.evaluated(image, step).digest,
            "truth": truth,
        }
        return self._key("evaluate", f"{image.name}-{step}", {}, inputs)


def needs_coarse(config: Cell) -> bool:
    """True if the transport looks at the coarse mask itself."""
    return config.ot.enabled and (config.ot.foreground_mass == "coarse" or config.ot.prior > 0)


def round_schedule(config: Cell, round_: int) -> dict[str, Any]:
    """``iterations`` and ``lr`` of a round."""
    student = config.student
    first = {"iterations": student.iterations, "lr": student.lr}
    later = {"iterations": student.later_iterations, "lr": student.later_lr}
    return first | {k: v for k, v in later.items() if v is not None and round_ > 1}


def student_has_encoder(config: Cell) -> bool:
    """True if the student starts from a pretrained encoder's file."""
    return config.student.arch == "deeplabv3plus"


def needed_weights(config: Cell) -> tuple[str, ...]:
    """Registry names of every model file that a cell reads."""
    names = [f"sam_{config.sam.model}"]
    if config.uss.family != "none":
        names.append(f"{config.uss.family}_{config.uss.size}")
    if student_has_encoder(config) and config.student.encoder_weights == "imagenet":
        names.append(f"{config.student.encoder}_imagenet")
    return tuple(names)
