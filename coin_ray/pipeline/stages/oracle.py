"""Stages that the ground truth stands in for (``pipeline.oracles``): ceilings, never results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coin_ray.labels import BoolArray, InstanceMasks, count
from coin_ray.pipeline.stage import Given, Read, Ref, Stage, Take
from coin_ray.pipeline.stages.confidence import (
    MASKS,
    NEGATIVES,
    RESOLUTION,
    SELECT,
    accepted_by_rule,
    beside_others,
    change,
    select,
)
from coin_ray.pipeline.stages.measure import true_label_map
from coin_ray.store.artifacts import Artifact

_TRUTH = Take("truth", lambda chain, ref: true_label_map(ref))


def _foreground(given: Given) -> Artifact:
    """True foreground (H, W) bool."""
    return Artifact({"array": given["truth"] > 0})


COARSE = Stage("oracle_coarse", _foreground, takes=(_TRUTH,))
FOREGROUND = Stage("oracle_foreground", _foreground, takes=(_TRUTH,))


def _split(given: Given) -> Artifact:
    """The foreground of a label map, split as the truth has it, (H, W)."""
    from coin_ray.imaging.true_split import split_as

    return Artifact({"array": split_as(given["truth"], given.array("labels") > 0)})


SPLIT = Stage(
    "oracle_split",
    _split,
    takes=(
        Take(
            "labels",
            lambda chain, ref: (
                Ref("predict", ref.image, ref.round, step=ref.step, own=True)
                if ref.round
                else Ref("instances", ref.image, step=ref.step, own=True)
            ),
            stages=("instances", "predict"),
        ),
        _TRUTH,
    ),
)


def _prompts(given: Given) -> Artifact:
    """The segmenter's masks of the true centres, one a true nucleus."""
    from coin_ray.confidence.prompts import Prompts, prompt_points

    s, truth = given.settings, given["truth"]
    centres = beside_others(given, Prompts(prompt_points(truth, s.prompt)), truth)
    masks = given.prompted("embed", centres, s.precision)
    return Artifact(masks.to_arrays())


PROMPTS = Stage(
    "oracle_prompts",
    _prompts,
    reads=(Read("sam", ("prompt", "precision")), NEGATIVES),
    takes=(*(take for take in MASKS.takes if take.role == "embed"), _TRUTH, RESOLUTION),
    runs="segmenter",
    work=MASKS.work,
)


def _prompted(given: Given) -> Artifact:
    """These masks in one label map (H, W), the surest on top."""
    masks, drawn = InstanceMasks.from_arrays(given["masks"].arrays), given.source("masks")
    assert isinstance(drawn, Ref)
    return Artifact({"array": masks.paint(drawn.image.shape(), masks.predicted_iou)})


PROMPTED = Stage(
    "oracle_prompted",
    _prompted,
    takes=(
        Take(
            "masks",
            lambda chain, ref: Ref("oracle_prompts", ref.image, truth=ref.truth),
            stages=("oracle_prompts",),
        ),
    ),
)


def _masks(given: Given) -> Artifact:
    """Of each instance whose prompt lies in a nucleus that nucleus, of others the segmenter's
    mask."""
    from coin_ray.confidence.prompts import prompt_points

    drawn, truth = InstanceMasks.from_arrays(given["masks"].arrays), given["truth"]
    at = prompt_points(given.array("instances"), given.settings.prompt).astype(np.int64)
    hit = truth[at[:, 0], at[:, 1]]
    either = InstanceMasks.join([drawn, InstanceMasks.from_label_map(truth)])
    which = np.where(hit > 0, len(drawn) + hit - 1, np.arange(len(drawn)))
    return Artifact(either.take(which).to_arrays())


_OWN_MASKS = Take(
    "masks",
    lambda chain, ref: ref._replace(stage="masks", truth=None, own=True),
    stages=("masks",),
)
TRUE_MASKS = Stage(
    "oracle_masks",
    _masks,
    reads=(Read("sam", ("prompt",)),),
    takes=(*(take for take in MASKS.takes if take.role == "instances"), _OWN_MASKS, _TRUTH),
)


def _accepted(given: Given, masks: InstanceMasks) -> tuple[BoolArray, float]:
    """As many instances as the cell's rule accepts, those of the best true IoU; of several that
    match one nucleus best, the best alone."""
    from coin_ray.distillation.targets import drawn_masks
    from coin_ray.metrics.contingency import best_matches

    accepted, threshold = accepted_by_rule(given, masks)
    painted = drawn_masks(given.array("instances"), masks, given.settings.labels.source)
    iou, nucleus = best_matches(given["truth"], painted)
    found, taken = np.zeros_like(accepted), set[int]()
    for i in np.argsort(-iou, kind="stable").tolist():
        if found.sum() < accepted.sum() and iou[i] > 0 and nucleus[i] not in taken:
            found[i] = True
            taken.add(int(nucleus[i]))
    return found, threshold


ACCEPT = replace(
    SELECT,
    name="oracle_accept",
    version=1,
    compute=lambda given: select(given, _accepted),
    takes=(*SELECT.takes, _TRUTH),
)


def _labels(given: Given) -> Artifact:
    """The truth in place of pseudo labels; nothing is ignored."""
    truth = given["truth"]
    n = count(truth)
    info = {
        **dict.fromkeys(("instances", "accepted", "labelled"), n),
        "threshold": 0.0,
        "score_mean": 1.0,
        "score_std": 0.0,
        **change(truth, None),
    }
    return Artifact({"label_map": truth, "ignore": np.zeros(truth.shape, dtype=bool)}, info)


LABELS = Stage("oracle_labels", _labels, takes=(_TRUTH,))

ORACLES = (COARSE, FOREGROUND, SPLIT, PROMPTS, PROMPTED, TRUE_MASKS, ACCEPT, LABELS)
