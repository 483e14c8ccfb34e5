"""The coarse mask, and the network that draws it where one is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray
from coin_ray.pipeline import refs
from coin_ray.pipeline.needs import coarse_weights
from coin_ray.pipeline.stage import FP32, Given, Read, Ref, Stage, Take, Values
from coin_ray.pipeline.stages.propagation import window_features
from coin_ray.precision import arithmetic, computing
from coin_ray.store.artifacts import Artifact
from coin_ray.training.checkpoint import Checkpoint
from coin_ray.training.world import Progress, World
from coin_ray.ucis.settings import DETECTOR, Detector, Maskcut, Psm, Ssa, Ucis

EVIDENCE = ("sigma", "contrast_sigma")
"""Settings of the section ucis that the signed stain evidence is made with."""
STAIN_MASK = (*EVIDENCE, "opening", "max_hole", "min_area", "min_contrast", "min_share")
"""And those of a coarse mask from the stain."""
VOTES = ("foreground", "votes", "certainty", "views")
"""Settings of the section ucis.detector that the detector draws with."""
INSTANCES = ("maskcut", "detector")
"""Coarse models that find instances, by networks."""
PARTS = 100
"""Values kept of a loss; each is the mean over as many steps."""


def _is(model: str) -> Any:
    return lambda config: config.ucis.model == model


def _train(
    given: Given, world: World, progress: Progress | None, checkpoint: Checkpoint
) -> Artifact:
    """Train the network; every process of ``world`` gets the same weights. The artifact's ``log``
    has each loss by its name, over the ``steps`` that it was computed in."""
    settings, images = given.settings, list(given.each("images"))
    scales = list(given.each("scales"))
    if "encoder" in given:
        assert given["encoder"] == f"{settings.encoder}_imagenet"
    world = replace(
        world,
        device=given.device,
        precision=settings.precision,
        deterministic=settings.deterministic,
    )
    how: dict[str, Any] = {
        "seed": settings.seed,
        "world": world,
        "checkpoint": checkpoint,
        "progress": progress,
    }
    with arithmetic(world.device, world.precision, deterministic=world.deterministic):
        if settings.model == "ssa":
            from coin_ray.ucis.ssa import train_ssa

            how |= {"weights": settings.weights, "scales": scales}
            weights, log = train_ssa(images, settings.section(Ssa), **how)
        elif settings.model == "detector":
            from coin_ray.ucis.self_training import train_detector
            from coin_ray.ucis.ssa_data import at_reference

            how |= {"weights": given["weights"], "min_area": settings.min_area}
            fine = at_reference(images, scales)
            weights, log = train_detector(fine, settings.detector.section(Detector), **how)
        else:
            from coin_ray.ucis.psm import train_psm

            how |= {"weights": settings.weights, "scales": scales}
            weights, log = train_psm(images, settings.section(Psm), **how)
    info = {
        "log": {term: _means(values) for term, values in log.items()},
        "steps": {term: len(values) for term, values in log.items()},
    }
    return Artifact(weights, info)


def _means(values: list[float]) -> list[float]:
    parts = np.array_split(np.array(values), min(PARTS, len(values)))
    return [float(part.mean()) for part in parts]


def _training(ucis: Ucis, values: Values) -> tuple[str, float]:
    if ucis.model == "detector":
        found = ucis.detector
        return "detector", float(found.batch * found.iterations * found.rounds)
    if ucis.model == "psm":
        psm = ucis.psm
        crops = psm.activation_iterations * psm.activation_batch
        crops += (psm.point_iterations + psm.final_iterations) * psm.batch
        kind = f"psm {psm.activation_encoder} {psm.activation_width} {psm.encoder} {psm.width}"
        return kind, float(crops * psm.crop**2)
    ssa = ucis.ssa
    kind = f"ssa {ssa.width} {ssa.encoder} {ssa.encoder_width}"
    return kind, float(ssa.batch * ssa.crop**2) * values["iterations"]


UCIS_MODEL = Stage(
    "ucis_model",
    _train,
    reads=(
        Read("ucis", ("model", "seed")),
        Read("ucis", ("weights",), when=lambda config: config.ucis.model != "detector"),
        Read("ucis", ("precision", "deterministic"), old={**FP32, "deterministic": False}),
        Read("ucis.ssa", when=_is("ssa")),
        Read("ucis.psm", when=_is("psm")),
        Read("ucis.detector", under="detector", when=_is("detector")),
        Read("ucis", ("min_area",), when=_is("detector")),
    ),
    takes=(
        Take("images", lambda chain, ref: [chain.pixels(image) for image in chain.train]),
        Take("scales", lambda chain, ref: [chain.scale(image) for image in chain.train]),
        Take(
            "encoder",
            lambda chain, ref: chain.weights(*coarse_weights(chain.config.ucis)),
            when=lambda chain, ref: (
                not _is("detector")(chain.config) and bool(coarse_weights(chain.config.ucis))
            ),
        ),
        Take(
            "weights",
            lambda chain, ref: chain.weights(DETECTOR),
            when=lambda chain, ref: _is("detector")(chain.config),
        ),
    ),
    runs="device",
    trains=True,
    grows=False,
    work=lambda config, values: _training(config.ucis, values),
    label=lambda chain, ref: chain.config.ucis.model,
)
"""One network for all random seeds."""


def _mask(given: Given) -> Artifact:
    """Coarse mask M0 (H, W) bool; of a model that finds instances also their ``label_map``."""
    settings = given.settings
    if settings.model == "maskcut":
        return _cut(given)
    image, scale = given["image"], given["scale"]
    if settings.model == "files":
        from coin_ray.data.label_files import read_foreground

        return _one(read_foreground(given["mask"], image.shape[:2]))
    if settings.model == "detector":
        return _detected(given)
    if settings.model != "stain":
        return _one(_drawn(given, image, scale))
    from coin_ray.ucis.stain import stain_mask

    return _one(stain_mask(image, settings.section(Ucis), scale=scale))


def _cut(given: Given) -> Artifact:
    from coin_ray.ucis.maskcut import maskcut

    s = given.settings
    found = window_features(given["features"], given.device)
    tokens = (window.cpu().numpy() for window in found.tokens())
    label_map = maskcut(
        tokens, found.origins, found.window, found.shape, s.maskcut.section(Maskcut),
        min_area=s.min_area * given["scale"] ** 2,
    )  # fmt: skip
    return Artifact({"array": label_map > 0, "label_map": label_map})


def _detected(given: Given) -> Artifact:
    """The mask has a gap where instances touch, so that Step 1 can still tell them apart."""
    from coin_ray.ucis.detection import detect, separated
    from coin_ray.ucis.detector import detector_of, load_detector

    s = given.settings
    if "network" in given:
        network = detector_of(given["network"].arrays, given.device)
    else:
        network = load_detector(given["weights"], given.device)
    label_map, _ = detect(
        given["image"],
        network,
        s.detector.section(Detector),
        scale=given["scale"],
        min_area=s.min_area,
    )
    return Artifact({"array": separated(label_map), "label_map": label_map})


def _drawn(given: Given, image: NDArray[np.uint8], scale: float) -> BoolArray:
    weights, built = given["network"].arrays, given.made_with("network")
    with computing(given.device, built.precision):
        if given.settings.model == "ssa":
            from coin_ray.ucis.ssa_prediction import ssa_mask

            return ssa_mask(weights, image, built.section(Ssa), scale=scale, device=given.device)
        from coin_ray.ucis.psm import psm_mask

        return psm_mask(weights, image, built.section(Psm), scale=scale, device=given.device)


def _one(array: NDArray[Any]) -> Artifact:
    return Artifact({"array": array})


def _drawing(ucis: Ucis) -> tuple[str, float]:
    if ucis.model == "maskcut":
        return f"maskcut {ucis.maskcut.grid}", float(ucis.maskcut.masks)
    if ucis.model == "detector":
        return "detector", float(ucis.detector.views)
    width = f" {ucis.trained.width}" if isinstance(ucis.trained, Ssa | Psm) else ""
    return ucis.model + width, 1.0


UCIS = Stage(
    "ucis",
    _mask,
    reads=(
        Read("ucis", ("model",)),
        Read("ucis", STAIN_MASK, when=_is("stain"), former={"path": None}),
        Read("ucis.maskcut", under="maskcut", when=_is("maskcut")),
        Read("ucis.detector", VOTES, under="detector", when=_is("detector")),
        Read("ucis", ("min_area",), when=lambda config: config.ucis.model in INSTANCES),
    ),
    takes=(
        Take(
            "image",
            lambda chain, ref: chain.pixels(ref.image),
            when=lambda chain, ref: chain.config.ucis.model != "maskcut",
        ),
        Take("scale", lambda chain, ref: chain.scale(ref.image)),
        Take(
            "mask",
            lambda chain, ref: chain.mask_file(chain.config.ucis.folder or "", ref.image),
            when=lambda chain, ref: chain.config.ucis.folder is not None,
        ),
        Take(
            "network",
            lambda chain, ref: Ref("ucis_model"),
            stages=("ucis_model",),
            when=lambda chain, ref: chain.config.ucis.trained is not None,
        ),
        Take(
            "weights",
            lambda chain, ref: chain.weights(DETECTOR),
            when=lambda chain, ref: (
                _is("detector")(chain.config) and chain.config.ucis.trained is None
            ),
        ),
        Take(
            "features",
            lambda chain, ref: Ref("features", ref.image, zoom=refs.zooms(chain.config)[0]),
            stages=("features",),
            when=lambda chain, ref: chain.config.ucis.model == "maskcut",
        ),
    ),
    runs="device",
    on_card=lambda config: config.ucis.trained is not None or config.ucis.model in INSTANCES,
    work=lambda config, values: _drawing(config.ucis),
)
