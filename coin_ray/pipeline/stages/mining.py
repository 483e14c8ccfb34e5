"""Mining of missed nuclei: where the segmenter is asked, what it draws there, and which of it is
new to the labels of a round and to the result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.settings import Mine
from coin_ray.labels import BoolArray, InstanceMasks, LabelMap
from coin_ray.pipeline import refs
from coin_ray.pipeline.stage import Given, Read, Ref, Stage, Take, Values
from coin_ray.pipeline.stages.coarse import EVIDENCE
from coin_ray.pipeline.stages.confidence import DRAWN, SCORED
from coin_ray.pipeline.stages.distillation import PREDICT, predicting, student_maps
from coin_ray.store.artifacts import Artifact

AREAS = ("min_area", "max_area")
"""Settings of the section mine that candidates keep to."""
ACCEPTED = ("min_iou", "min_agreement", "min_free", "max_contained", "min_area")
"""And by which they are accepted."""


def _peaks(given: Given) -> Artifact:
    """(N, 2) yx where a student's probability is highest outside its instances."""
    from coin_ray.confidence import mining

    (maps,) = student_maps([given])
    found = mining.peaks(
        maps.probability,
        given.array("predict") == 0,
        mining.LEAST_PROBABILITY,
        given.settings.step,
        scale=given["scale"],
    )
    return Artifact({"array": found})


_ROUND = Take("round", lambda chain, ref: Ref("round", round=ref.round), stages=("round",))
_SCALE = Take("scale", lambda chain, ref: chain.scale(ref.image))
_IMAGE = Take("image", lambda chain, ref: chain.pixels(ref.image))
PEAKS = Stage(
    "peaks",
    _peaks,
    reads=(
        Read("infer", ("scales", "hflip", "precision", "tile"), under="infer"),
        Read("mine", ("step",)),
    ),
    takes=(
        Take(
            "predict",
            lambda chain, ref: ref._replace(stage="predict"),
            stages=("predict",),
        ),
        _ROUND,
        _IMAGE,
        _SCALE,
    ),
    sees=PREDICT.sees,
    runs="device",
    work=lambda config, values: predicting(config, {**values["infer"], "crf": False}),
)


def _points(given: Given) -> NDArray[np.float64]:
    """(N, 2) yx in which the segmenter is asked."""
    from coin_ray.confidence import mining

    s, scale = given.settings, given["scale"]
    if s.term == "student":
        return given.array("peaks")
    if s.term == "grid":
        return mining.grid_points(given["image"].shape[:2], s.step, scale=scale)
    sigmas = {name: s.evidence[name] for name in EVIDENCE}
    return mining.stain_points(given["image"], sigmas, s.step, scale=scale)


def _candidates(given: Given) -> Artifact:
    """The segmenter's masks in many places, those of the area of a nucleus."""
    from coin_ray.confidence import mining

    s = given.settings
    found = mining.ask(
        _points(given),
        lambda prompts: given.prompted("embed", prompts, s.precision),
        s.section(Mine),
        scale=given["scale"],
    )
    info = {"asked": len(found.points_yx), "drawn": len(found.masks)}
    return Artifact(found.to_arrays(), info)


def _term(ref: Ref) -> str:
    return "student" if ref.round else ref.step


def _asked(chain: Any, ref: Ref) -> Values:
    """The term of ``mine.points``, and what its points are made by; those of a student are made."""
    config, term = chain.config, _term(ref)
    found: Values = {"term": term}
    if term != "student":
        found["step"] = config.mine.step
    if term == "stain":
        found["evidence"] = {name: getattr(config.ucis, name) for name in EVIDENCE}
    return found


CANDIDATES = Stage(
    "candidates",
    _candidates,
    reads=(
        Read("sam", ("precision",)),
        Read("mine", AREAS),
    ),
    takes=(
        Take("embed", lambda chain, ref: Ref("embed", ref.image), stages=("embed",)),
        Take(
            "peaks",
            lambda chain, ref: ref._replace(stage="peaks"),
            stages=("peaks",),
            when=lambda chain, ref: _term(ref) == "student",
        ),
        Take(
            "image",
            lambda chain, ref: chain.pixels(ref.image),
            when=lambda chain, ref: _term(ref) != "student",
        ),
        _SCALE,
    ),
    adds=_asked,
    runs="segmenter",
    work=lambda config, values: (f"{config.sam.model} {values['term']} {config.mine.step} px", 1.0),
)


def _found(given: Given, covered: BoolArray) -> tuple[LabelMap, NDArray[np.float32]]:
    from coin_ray.confidence import mining

    every = [mining.Candidates.from_arrays(one.arrays) for one in given.each("candidates")]
    joined, s = mining.Candidates.join(every), given.settings.section(Mine)
    return mining.mined(joined, covered, s, scale=given["scale"])


def _mine(given: Given) -> Artifact:
    """Label map (H, W) of what was missed beside the instances that a round scores and the
    segmenter's masks of them, accepted or not, and the predicted IoU of each."""
    instances = given.array("instances")
    masks = InstanceMasks.from_arrays(given["masks"].arrays)
    drawn = masks.paint(instances.shape, masks.predicted_iou)
    label_map, quality = _found(given, (instances > 0) | (drawn > 0))
    return Artifact({"array": label_map, "predicted_iou": quality}, {"mined": len(quality)})


def _complete(given: Given) -> Artifact:
    """The result (H, W) with what was missed in its background, and how many these are."""
    from coin_ray.confidence.mining import completed

    label_map = given.array("result")
    found, quality = _found(given, label_map > 0)
    return Artifact({"array": completed(label_map, found)}, {"mined": len(quality)})


MINE = Stage(
    "mine",
    _mine,
    reads=(Read("mine", ACCEPTED),),
    takes=(
        SCORED,
        DRAWN,
        Take(
            "candidates",
            lambda chain, ref: refs.candidates(chain, refs.current(chain, ref)),
            stages=("candidates",),
        ),
        _SCALE,
    ),
)
COMPLETE = Stage(
    "complete",
    _complete,
    reads=(Read("mine", ACCEPTED),),
    takes=(
        Take(
            "result",
            lambda chain, ref: refs.drawn(chain, ref.image, ref.round),
            stages=("predict", "redraw"),
        ),
        Take("candidates", refs.candidates, stages=("candidates",)),
        _SCALE,
    ),
)
