"""Step 1: features, class sums, similarity, transport, the propagated mask and its instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.settings import Instances
from coin_ray.pipeline import refs
from coin_ray.pipeline.needs import needs_coarse
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import FP32, Given, Read, Ref, Stage, Take, Together
from coin_ray.propagation.settings import Crf, Ot, Uss, backbone_name
from coin_ray.store.artifacts import Artifact

if TYPE_CHECKING:
    from coin_ray.propagation.features import WindowFeatures


def _extracted(given: Given) -> WindowFeatures:
    """Window features at one zoom, or what the segmenter saw."""
    if "embed" in given:
        return _seen(given)
    from coin_ray.propagation.backbones import load_backbone
    from coin_ray.propagation.features import extract_features

    uss, zoom = given.settings.section(Uss), given.settings["zoom"]
    assert given["weights"] == backbone_name(uss)
    backbone = load_backbone(given["weights"], layer=uss.layer, device=given.device)
    batch = given.runtime.uss.batch
    return extract_features(given["image"], backbone, uss, zoom=zoom, batch=batch)


def _seen(given: Given) -> WindowFeatures:
    """The tokens of the segmenter's embedding."""
    from coin_ray.confidence.tokens import token_windows
    from coin_ray.propagation.features import WindowFeatures

    shape = given["image"].shape[:2]
    found = token_windows(given.made_with("embed").model, given["embed"].arrays, shape)
    geometry = np.array([*found.window, *shape], dtype=np.int64)
    arrays: dict[str, NDArray[Any]] = {"tokens": found.tokens, "origins": found.origins}
    return WindowFeatures.from_arrays(arrays | {"geometry": geometry}, given.device)


def _own_backbone(config: Cell) -> bool:
    return config.uss.family != "sam"


def _pass(config: Cell, zoom: float) -> tuple[str, float]:
    """What the backbone costs at one zoom."""
    uss = config.uss
    if not _own_backbone(config):
        return f"sam {config.sam.model}", 1.0
    return f"{uss.family} {uss.size}", (1 + uss.hflip) / uss.stride**2 * zoom**2


FEATURES = Stage(
    "features",
    lambda given: Artifact(_extracted(given).to_arrays()),
    reads=(
        Read(
            "uss",
            ("family", "size", "weights", "layer", "window", "stride", "hflip"),
            when=_own_backbone,
        ),
        Read("uss", ("precision",), old=FP32, when=_own_backbone),
    ),
    takes=(
        Take("image", lambda chain, ref: chain.pixels(ref.image)),
        Take(
            "weights",
            lambda chain, ref: chain.weights(backbone_name(chain.config.uss)),
            when=lambda chain, ref: _own_backbone(chain.config),
        ),
        Take(
            "embed",
            lambda chain, ref: Ref("embed", ref.image),
            stages=("embed",),
            when=lambda chain, ref: not _own_backbone(chain.config),
        ),
    ),
    # Of one zoom, so that lists of zooms share what they have in common.
    adds=lambda chain, ref: {"zoom": ref.zoom} if _own_backbone(chain.config) else {},
    runs="device",
    large=True,
    # What the segmenter saw is stored once, as its embedding.
    keeps=lambda config: config.uss.cache == "tokens" and _own_backbone(config),
    work=lambda config, values: _pass(config, values.get("zoom", 0.0)),
)
"""Their token grids (fp16), where they are stored."""


def _with_pass(config: Cell, share: float) -> tuple[str, float]:
    """What a stage costs that takes features of a ``share`` of the zooms, which it makes itself
    where they are not stored."""
    if FEATURES.keeps(config):
        return "", 1.0
    passes = [_pass(config, zoom) for zoom in refs.zooms(config)]
    return passes[0][0], share * sum(amount for _, amount in passes)


def _centroids(given: Given) -> Artifact:
    """Sums (2, D) and pixel counts (2,) of the unit features in background and foreground."""
    from coin_ray.propagation.centroids import class_sums

    features = _normalised(given, given["features"])
    sums = class_sums(features, given.array("ucis"))
    return Artifact(vars(sums))


def window_features(found: Artifact | Given, device: str) -> WindowFeatures:
    """The features that a stage takes: stored, or made on the way."""
    from coin_ray.propagation.features import WindowFeatures

    if isinstance(found, Artifact):
        return WindowFeatures.from_arrays(found.arrays, device)
    return _extracted(found)


def _normalised(given: Given, found: Artifact | Given) -> WindowFeatures:
    from coin_ray.propagation.features import normalise_features

    return normalise_features(window_features(found, given.device), given.settings.normalise)


CENTROIDS = Stage(
    "centroids",
    _centroids,
    reads=(Read("uss", ("normalise",)),),
    takes=(
        Take(
            "features",
            lambda chain, ref: Ref("features", ref.image, zoom=ref.zoom),
            stages=("features",),
        ),
        Take("ucis", lambda chain, ref: Ref("ucis", ref.image), stages=("ucis",)),
    ),
    runs="device",
    told=False,
    grows=False,
    work=lambda config, values: _with_pass(config, 1 / len(refs.zooms(config))),
)


STRETCH = ("minmax", "percentile", "complement")
"""Settings of the section uss that similarities are stretched by for the transport."""


def _transports(config: Cell) -> bool:
    return bool(config.ot.enabled)


def _of_each_zoom(stage: str) -> Callable[..., list[Ref]]:
    return lambda chain, ref: [Ref(stage, ref.image, zoom=z) for z in refs.zooms(chain.config)]


def _similarity(given: Given) -> Artifact:
    """(2, H, W) cosine to the background and foreground centroid (Eq. 3), the zooms' mean. Without
    transport these are raw: the paper's ablation thresholds cosines."""
    from coin_ray.propagation.centroids import ClassSums, centroids, merge
    from coin_ray.propagation.similarity import similarity_map, stretched

    s = given.settings
    own = [ClassSums(**sums.arrays) for sums in given.each("centroids")]
    everyone: list[Any] = []
    if s.centroid_scope == "dataset":
        everyone = [ClassSums(**sums.arrays) for sums in given.each("all_centroids")]

    def pairs() -> Iterator[tuple[Any, NDArray[np.float64]]]:
        for zoom, found in enumerate(given.each("features")):
            of_all = None
            if everyone:
                of_all = merge(everyone[zoom :: len(own)], s.centroid_weight)
            yield _normalised(given, found), centroids(own[zoom], of_all)

    maps = similarity_map(pairs(), relu=s.relu)
    if any(name in s for name in STRETCH):
        maps = stretched(maps, s.section(Uss))
    return Artifact({"array": maps})


SIMILARITY = Stage(
    "similarity",
    _similarity,
    reads=(
        Read("uss", ("normalise", "centroid_scope", "relu")),
        Read("uss", STRETCH, when=_transports),
        Read("uss", ("centroid_weight",), when=lambda c: c.uss.centroid_scope == "dataset"),
    ),
    takes=(
        Take("features", _of_each_zoom("features"), stages=("features",)),
        Take("centroids", _of_each_zoom("centroids"), stages=("centroids",)),
        Take(
            "all_centroids",
            lambda chain, ref: Together(refs.all_centroids),
            stages=("centroids",),
            when=lambda chain, ref: chain.config.uss.centroid_scope == "dataset",
        ),
    ),
    runs="device",
    told=False,
    work=lambda config, values: _with_pass(config, 1.0),
)


def _transport(given: Given) -> Artifact:
    """S^OT (2, H, W) (Eq. 4), or the paper's thresholded map when transport is off."""
    from coin_ray.propagation.transport import transport, without_transport

    ot, similarity = given.settings.section(Ot), given.array("similarity")
    if not ot.enabled:
        return Artifact({"array": without_transport(similarity, ot.threshold)})
    coarse = given.array("ucis") if needs_coarse(ot) else None
    found = transport(similarity, ot, coarse, complement=given.settings.complement)
    return Artifact({"array": found})


TRANSPORT = Stage(
    "transport",
    _transport,
    reads=(
        Read("ot", ("enabled",)),
        Read("ot", but=("enabled", "threshold"), old={"slack": 0.0}, when=_transports),
        Read("uss", ("complement",), when=_transports),
        Read("ot", ("threshold",), when=lambda config: not config.ot.enabled),
    ),
    takes=(
        Take("similarity", lambda chain, ref: Ref("similarity", ref.image), stages=("similarity",)),
        Take(
            "ucis",
            lambda chain, ref: Ref("ucis", ref.image),
            stages=("ucis",),
            when=lambda chain, ref: needs_coarse(chain.config.ot),
        ),
    ),
)


def _refine(given: Given) -> Artifact:
    """Propagated mask (H, W): arg-max of S^OT, after the dense CRF if that is on."""
    s, transported = given.settings, given.array("transport")
    if s.enabled:
        from coin_ray.propagation.crf import dense_crf, with_gamma

        maps = with_gamma(transported, s.gamma)
        transported = dense_crf(given["image"], maps, s.section(Crf))
    return Artifact({"array": transported[1] > transported[0]})


REFINE = Stage(
    "refine",
    _refine,
    reads=(
        Read("crf", ("enabled",)),
        Read("crf", but=("enabled",), when=lambda config: config.crf.enabled),
    ),
    takes=(
        Take("transport", lambda chain, ref: Ref("transport", ref.image), stages=("transport",)),
        Take(
            "image",
            lambda chain, ref: chain.pixels(ref.image),
            when=lambda chain, ref: chain.config.crf.enabled,
        ),
    ),
    work=lambda config, values: ("crf" if config.crf.enabled else "", 1.0),
)


def _instances(given: Given) -> Artifact:
    """Label map (H, W) of a mask (Eq. 5); of a coarse mask that was made of instances, these."""
    from coin_ray.imaging.instances import split_instances

    made = given["mask"].arrays
    if "label_map" in made:
        return Artifact({"array": made["label_map"]})
    instances = given.settings.section(Instances)
    found = split_instances(made["array"], instances, scale=given["scale"])
    return Artifact({"array": found})


INSTANCES = Stage(
    "instances",
    _instances,
    reads=(Read("instances"),),
    takes=(
        Take(
            "mask",
            lambda chain, ref: (
                Ref("ucis", ref.image) if ref.step == "ucis" else refs.refined(chain, ref.image)
            ),
            stages=("ucis", "refine"),
        ),
        Take("scale", lambda chain, ref: chain.scale(ref.image)),
    ),
)
"""Of Step 1, or (``step`` "ucis") of the coarse mask."""
