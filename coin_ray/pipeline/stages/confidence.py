"""Step 2: the segmenter's embedding and masks, scores of instances, pseudo labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.settings import Mine, Sam, Select, segmenter_name
from coin_ray.imaging.settings import Instances
from coin_ray.labels import BoolArray, InstanceMasks, LabelMap
from coin_ray.pipeline import refs
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import FP32, Given, Read, Ref, Scope, Stage, Take, Together, Values
from coin_ray.pipeline.stages.coarse import EVIDENCE, STAIN_MASK
from coin_ray.precision import computing
from coin_ray.store.artifacts import Artifact
from coin_ray.ucis.settings import Ucis

if TYPE_CHECKING:
    from coin_ray.confidence.prompts import Prompts


def _embed(given: Given) -> Artifact:
    """What the segmenter needs of an image. Segmenters make it where they hold the model
    (``pipeline.segmenter``); this is the same in whatever process asks for it."""
    from coin_ray.confidence import windowed
    from coin_ray.confidence.segmenter import load_segmenter
    from coin_ray.confidence.views import seen_from

    s = given.settings
    assert given["weights"] == segmenter_name(s.model)
    model = load_segmenter(s.model, device=given.device, batch=given.runtime.sam.batch)
    scale = given["scale"] if s.window is not None else 1.0
    window = windowed.window_px(s.section(Sam), scale)
    with computing(given.device, s.precision):
        return Artifact(windowed.encode(seen_from(model, s.views), given["image"], window))


def _looking(config: Cell) -> tuple[str, float]:
    window = f" {config.sam.window} px" if config.sam.window else ""
    views = f" {config.sam.views} views" if config.sam.views > 1 else ""
    return config.sam.model + window + views, 1.0


EMBED = Stage(
    "embed",
    _embed,
    reads=(
        Read(
            "sam",
            ("model", "precision", "window", "views"),
            old={**FP32, "window": None, "views": 1},
        ),
    ),
    takes=(
        Take("image", lambda chain, ref: chain.pixels(ref.image)),
        Take("weights", lambda chain, ref: chain.weights(segmenter_name(chain.config.sam.model))),
        Take(
            "scale",
            lambda chain, ref: chain.scale(ref.image),
            when=lambda chain, ref: chain.config.sam.window is not None,
        ),
    ),
    runs="segmenter",
    large=True,
    work=lambda config, values: _looking(config),
)


def _masks(given: Given) -> Artifact:
    """The segmenter's masks of the instances that a round scores."""
    from coin_ray.confidence.prompts import make_prompts

    label_map = given.array("instances")
    prompts = beside_others(given, make_prompts(label_map, given.settings.prompt), label_map)
    return Artifact(given.prompted("embed", prompts, given.settings.precision).to_arrays())


def beside_others(given: Given, prompts: Prompts, label_map: LabelMap) -> Prompts:
    """The prompts of a label map, with points in the other instances where they are asked for."""
    from coin_ray.confidence.prompts import with_negatives

    if "scale" not in given:
        return prompts
    s = given.settings
    return with_negatives(prompts, label_map, s.negatives, s.negatives_radius * given["scale"])


def tells_others(config: Cell) -> bool:
    return config.sam.negatives > 0


NEGATIVES = Read("sam", ("negatives", "negatives_radius"), when=tells_others)
RESOLUTION = Take(
    "scale",
    lambda chain, ref: chain.scale(ref.image),
    when=lambda chain, ref: tells_others(chain.config),
)
"""What :func:`beside_others` looks at."""
SCORED = Take(
    "instances",
    refs.current,
    stages=("instances", "predict"),
)
DRAWN = Take("masks", lambda chain, ref: Ref("masks", ref.image, ref.round), stages=("masks",))

MASKS = Stage(
    "masks",
    _masks,
    reads=(Read("sam", ("prompt", "precision"), old=FP32), NEGATIVES),
    takes=(
        SCORED,
        Take("embed", lambda chain, ref: Ref("embed", ref.image), stages=("embed",)),
        RESOLUTION,
    ),
    runs="segmenter",
    work=lambda config, values: (config.sam.model, 1.0),
)


def _shows_evidence(config: Cell) -> bool:
    return bool({"regrowth", "ring_contrast"} & set(config.score.terms))


def _jitters(config: Cell) -> bool:
    return "stain_jitter" in config.score.terms


def _looks(chain: Scope, ref: Ref) -> bool:
    return _shows_evidence(chain.config) or _jitters(chain.config)


def _ranked(chain: Scope, ref: Ref) -> Values:
    """A contrast alone has no bounds, which a threshold and its cap need."""
    return {"ranked": True} if chain.config.score.terms == ("ring_contrast",) else {}


def _score(given: Given) -> Artifact:
    """Facts (N,) of the instances of a round: ``agreement`` with the segmenter (Eq. 6), ``scores``
    that selection ranks by, and what its sanity checks look at."""
    from coin_ray.confidence import consistency, scoring
    from coin_ray.confidence.prompts import prompt_points
    from coin_ray.imaging.instances import split_instances
    from coin_ray.imaging.stain import evidence_maps
    from coin_ray.ucis.stain import stain_mask

    s, label_map = given.settings, given.array("instances")
    masks = InstanceMasks.from_arrays(given["masks"].arrays)

    @cache
    def evidence() -> NDArray[np.float32]:
        sigmas = {name: s.evidence[name] for name in EVIDENCE}
        return evidence_maps(given["image"], scale=given["scale"], **sigmas).evidence

    def coarse_instances(stained: NDArray[np.uint8]) -> LabelMap:
        scale = given["scale"]
        mask = stain_mask(stained, s.coarse.section(Ucis), scale=scale)
        return split_instances(mask, s.split.section(Instances), scale=scale)

    agreement = scoring.agreement(label_map, masks)
    compute: dict[str, Callable[[], NDArray[np.float32]]] = {
        "segmenter": lambda: agreement,
        "predicted_iou": lambda: masks.predicted_iou,
        "stain_jitter": lambda: consistency.stain_jitter_agreement(
            given["image"], label_map, coarse_instances, np.random.default_rng(0)
        ),
        "regrowth": lambda: consistency.regrowth_agreement(evidence(), label_map),
        "ring_contrast": lambda: consistency.ring_contrast(evidence(), label_map),
        "ellipse": lambda: consistency.ellipse_fit(label_map),
    }
    terms = [compute[term]() for term in s.terms]
    points = prompt_points(label_map, given.made_with("masks").prompt)
    found = {
        "agreement": agreement,
        "scores": consistency.mean_rank(terms) if len(terms) > 1 or "ranked" in s else terms[0],
        "area_ratio": scoring.area_ratios(label_map, masks),
        "holds_point": scoring.holds_points(masks, points),
    }
    info = {"instances": len(agreement), "agreement_sum": float(agreement.sum(dtype=float))}
    return Artifact(found, info)


SCORE = Stage(
    "score",
    _score,
    version=2,
    reads=(
        Read("score", ("terms",)),
        Read("ucis", EVIDENCE, under="evidence", when=_shows_evidence),
        Read("ucis", STAIN_MASK, under="coarse", when=_jitters),
        Read("instances", under="split", when=_jitters),
    ),
    adds=_ranked,
    takes=(
        SCORED,
        DRAWN,
        Take("image", lambda chain, ref: chain.pixels(ref.image), when=_looks),
        Take("scale", lambda chain, ref: chain.scale(ref.image), when=_looks),
    ),
    work=lambda config, values: ("+".join(config.score.terms), 1.0),
)


Accept = Callable[[Given, InstanceMasks], tuple[BoolArray, float]]
"""Which of the instances (N,) are accepted, and the threshold."""


def select(given: Given, accept: Accept | None = None) -> Artifact:
    """``label_map`` and ``ignore`` (H, W) of the pseudo labels (Eqs. 7 to 10), and how many
    instances were accepted; what was mined is painted beside them, but for what a remembered mask
    holds already. With ``labels.memory`` also the painted masks of instances and their ``scores``,
    for the next refresh. ``accept`` in place of the cell's own rule."""
    from coin_ray.confidence.mining import completed, still_free
    from coin_ray.distillation import targets

    s = given.settings.labels
    masks = InstanceMasks.from_arrays(given["masks"].arrays)
    scores = given["score"].arrays["scores"]
    accepted, threshold = (accept or accepted_by_rule)(given, masks)
    scored = given.source("score")
    assert isinstance(scored, Ref)
    first = scored.round == 1
    earlier = None if first else given["before"].arrays
    memory = None
    if s.memory:
        memory = targets.Memory() if earlier is None else targets.Memory.from_arrays(earlier)
    labels = targets.pseudo_labels(
        given.array("instances"),
        masks,
        scores,
        accepted,
        source=s.source,
        missed_foreground=given.array("step1") if s.missed == "ignore" else None,
        memory=memory,
    )
    label_map, ignore = labels.label_map, labels.ignore
    if "mined" in given:
        mined = given.array("mined")
        if "mine" in given.settings:
            mine = given.settings.mine.section(Mine)
            mined = still_free(mined, label_map > 0, mine, scale=given["scale"])
        label_map = completed(label_map, mined)
        ignore = ignore & (label_map == 0)
    kept = labels.memory.to_arrays() if labels.memory is not None else {}
    info = {
        "instances": len(accepted),
        "accepted": int(accepted.sum()),
        "labelled": int(label_map.max(initial=0)),
        "threshold": float(threshold),
        "score_mean": float(scores.mean()) if len(accepted) else 0.0,
        "score_std": float(scores.std()) if len(accepted) else 0.0,
        **change(label_map, None if earlier is None else earlier["label_map"]),
    }
    return Artifact({"label_map": label_map, "ignore": ignore, **kept}, info)


def accepted_by_rule(given: Given, masks: InstanceMasks) -> tuple[BoolArray, float]:
    """Accepted (N,) of the image and the threshold, which all training images may share; the guard
    of ``accept`` then acts on all of them together."""
    from coin_ray.confidence import selection

    s, own = given.settings.select.section(Select), given["score"].arrays
    group, position = [own], 0
    if s.scope == "dataset":
        position = given.all("all_scores").index(given.source("score"))
        group = [score.arrays for score in given.each("all_scores")]
    scores, ratios, holds_point = (
        np.concatenate([one[name] for one in group])
        for name in ("scores", "area_ratio", "holds_point")
    )
    start = sum(len(one["scores"]) for one in group[:position])
    accepted = selection.accept(scores, s, selection.sound(ratios, holds_point, s))
    accepted = selection.without_overlaps(
        accepted[start : start + len(masks)], own["scores"], masks, s.max_overlap
    )
    return accepted, selection.threshold(scores, s)


def change(now: LabelMap, before: LabelMap | None) -> dict[str, int]:
    """Pixels of the label foreground that two refreshes share, and that either has; their churn is
    1 - shared / either. Before the first refresh there are no labels."""
    old = np.zeros(now.shape, dtype=bool) if before is None else before > 0
    return {
        "label_shared": int(np.count_nonzero((now > 0) & old)),
        "label_either": int(np.count_nonzero((now > 0) | old)),
    }


def _before(chain: Scope, ref: Ref) -> Ref:
    previous = refs.previous_refresh(chain, ref.round)
    assert previous is not None
    return refs.labels(chain, ref.image, previous)


def _remembers(chain: Scope, ref: Ref) -> bool:
    """Whether there are masks of earlier labels, which what is mined was not kept apart from."""
    earlier = refs.previous_refresh(chain, ref.round) is not None
    return chain.config.labels.memory and earlier and refs.mines(chain, refs.current(chain, ref))


def _least_of_mined(chain: Scope, ref: Ref) -> Values:
    mine = chain.config.mine
    if not _remembers(chain, ref):
        return {}
    return {"mine": {"min_free": mine.min_free, "min_area": mine.min_area}}


SELECT = Stage(
    "select",
    select,
    version=2,
    reads=(Read("select", under="select"), Read("labels", under="labels")),
    takes=(
        Take("score", lambda chain, ref: Ref("score", ref.image, ref.round), stages=("score",)),
        SCORED,
        DRAWN,
        Take(
            "before",
            _before,
            stages=("select",),
            when=lambda chain, ref: refs.previous_refresh(chain, ref.round) is not None,
        ),
        Take(
            "all_scores",
            lambda chain, ref: Together(refs.all_scores, ref.round),
            stages=("score",),
            when=lambda chain, ref: chain.config.select.scope == "dataset",
        ),
        Take(
            "step1",
            lambda chain, ref: refs.refined(chain, ref.image),
            stages=("ucis", "refine"),
            when=lambda chain, ref: chain.config.labels.missed == "ignore",
        ),
        Take(
            "mined",
            lambda chain, ref: ref._replace(stage="mine"),
            stages=("mine",),
            when=lambda chain, ref: refs.mines(chain, refs.current(chain, ref)),
        ),
        Take("scale", lambda chain, ref: chain.scale(ref.image), when=_remembers),
    ),
    adds=_least_of_mined,
)
"""Of a round that makes labels anew (``refs.labels``)."""
