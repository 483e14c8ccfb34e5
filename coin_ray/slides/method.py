"""How a tile becomes nuclei: the one place where the slides call the rooms of the method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence import mining
from coin_ray.confidence.consistency import best_iou
from coin_ray.confidence.prompts import Prompts, make_prompts, with_negatives
from coin_ray.imaging.instances import split_instances
from coin_ray.imaging.stain import Standard, evidence_maps, macenko_vectors
from coin_ray.labels import BoolArray, InstanceMasks, LabelMap, areas, count, means
from coin_ray.pipeline.settings import Cell
from coin_ray.precision import computing
from coin_ray.ucis.settings import DETECTOR
from coin_ray.ucis.stain import stain_mask

if TYPE_CHECKING:
    from torch import nn

    from coin_ray.pipeline.cell import CellRun
    from coin_ray.ucis.detector import VotingNetwork

Image8 = NDArray[np.uint8]
Weights = Mapping[str, NDArray[Any]]


BUILT_IN = ("ucis.model=detector", "infer.redraw=false")
"""Settings with which the models that ship find most without a student (docs/results/detector.md):
the segmenter draws no better what the detector has found."""
ADAPTED = ("ucis.detector.rounds=2",)
"""And with which they learn on the slides at hand first."""


@dataclass(frozen=True)
class Method:
    """The settings of a cell, and the ``student`` that it trained; None draws the coarse mask, or
    what the ``run`` of a study's cell without a student draws, of pictures alone. ``detector``: the
    weights of one that has learnt on; None is as it ships.

    A slide in several tiles is measured by its ``standard`` and by the ``typical`` area of its
    nuclei, px of the level; without them a tile is measured by itself, as in a study.
    """

    config: Cell
    device: str = "cpu"
    student: Weights | None = field(default=None, repr=False)
    run: CellRun | None = field(default=None, repr=False)
    detector: Weights | None = field(default=None, repr=False)
    standard: Standard | None = None
    typical: float | None = None

    @cached_property
    def network(self) -> nn.Module:
        """The student, ready: of a slide's tiles the first one builds it."""
        from coin_ray.distillation.network import student_from_weights

        assert self.student is not None
        return student_from_weights(self.student, self.config.student, self.device)

    @cached_property
    def voting(self) -> VotingNetwork:
        """The detector, ready."""
        from coin_ray.ucis.detector import detector_of, load_detector

        if self.detector is None:
            return load_detector(DETECTOR, self.device)
        return detector_of(self.detector, self.device)

    @property
    def name(self) -> str:
        """What draws the nuclei, in words."""
        if self.run is not None:
            return "a cell that trains no student"
        if self.student is not None:
            return "a student"
        drawn = "the detector" if self.config.ucis.model == "detector" else "coarse mask"
        if self.detector is not None:
            drawn += ", trained on these images"
        return drawn + (", redrawn" if self.redraws else "")

    def __getstate__(self) -> dict[str, Any]:
        """To another process the weights go, and it builds the networks itself."""
        return {k: v for k, v in vars(self).items() if k not in ("network", "voting")}

    @property
    def redraws(self) -> bool:
        """Whether the promptable segmenter has the last word."""
        own = self.student is not None or self.config.ucis.model == "detector"
        return self.config.infer.redraw or not own

    @property
    def prompts(self) -> bool:
        """Whether it is asked at all."""
        return self.redraws or bool(self.config.mine.points)


def calibrated(method: Method, sample: Image8, scale: float) -> Method | None:
    """The method for the tiles of a slide of which ``sample`` (H, W, 3) shows what is typical; None
    if it shows no nuclear stain. What a study does by image is by slide then, or not at all."""
    ucis = method.config.ucis
    standard = evidence_maps(
        sample, sigma=ucis.sigma, contrast_sigma=ucis.contrast_sigma, scale=scale
    ).standard
    if standard is None:
        return None
    infer = method.config.infer.model_copy(update={"minmax": False})
    config = method.config.model_copy(update={"infer": infer})
    typical = 0.0
    if ucis.model == "stain":  # alone compares what it finds with what is typical
        found = areas(_coarse(sample, replace(method, standard=standard), scale)[0])
        typical = float(np.median(found)) if len(found) else 0.0
    return replace(method, config=config, standard=standard, typical=typical)


def separates(sample: Image8) -> bool:
    """Whether an image shows two stains with the colours of hematoxylin and eosin."""
    vectors = macenko_vectors(sample)
    if vectors is None:
        return False
    blue_over_green = vectors[:, 2] > vectors[:, 1]  # absorbs blue: DAB and other browns
    angle = np.degrees(np.arccos(np.clip(vectors[0] @ vectors[1], -1, 1)))
    return bool(angle > 6 and not blue_over_green.any())


def segment(
    image: Image8, method: Method, scale: float
) -> tuple[LabelMap, NDArray[np.floating[Any]]]:
    """Label map (H, W) and score (N,) of the nuclei of a tile.

    The score of a nucleus is how well the segmenter's drawing and the instance that it was asked to
    draw agree (the best IoU, after COIN's Eq. 6); without a segmenter the network's mean
    probability. Of one that was mined it is the IoU that the segmenter expects of itself.
    """
    seen = None
    if method.student is None:
        drawn, score = _coarse(image, method, scale)
    else:
        drawn, probability = _by_student(image, method, scale)
        seen = probability, drawn == 0
        score = means(probability, drawn, count(drawn))
    draw = cache(lambda: _segmenter(image, method, scale))
    found = drawn
    if method.redraws and drawn.any():
        found = _redrawn(drawn, method, draw(), scale)
        score = best_iou(found, drawn)
    if not method.config.mine.points:
        return found, score
    mine = method.config.mine
    every = [
        mining.ask(places, draw(), mine, scale=scale)
        for places in _places(image, method, scale, seen)
    ]
    new, sure = mining.mined(mining.Candidates.join(every), found > 0, mine, scale=scale)
    return mining.completed(found, new), np.concatenate([score, sure])


def _coarse(image: Image8, method: Method, scale: float) -> tuple[LabelMap, NDArray[np.floating]]:
    """Instances (H, W) of the detector with their mean probability (N,), or of the coarse mask from
    the stain, of which all are as good."""
    ucis = method.config.ucis
    if ucis.model == "detector":
        from coin_ray.ucis.detection import detect

        return detect(image, method.voting, ucis.detector, scale=scale, min_area=ucis.min_area)
    mask = stain_mask(image, ucis, scale=scale, standard=method.standard, typical=method.typical)
    found = split_instances(mask, method.config.instances, scale=scale)
    return found, np.ones(count(found))


def _by_student(
    image: Image8, method: Method, scale: float
) -> tuple[LabelMap, NDArray[np.float32]]:
    """Instances (H, W) and foreground probability (H, W) of the student."""
    from coin_ray.distillation.inference import predict_probability
    from coin_ray.pipeline.stages.distillation import drawn

    config = method.config
    infer, ucis = config.infer, config.ucis
    evidence = None
    if infer.stain_weight:
        evidence = evidence_maps(
            image,
            sigma=ucis.sigma,
            contrast_sigma=ucis.contrast_sigma,
            scale=scale,
            standard=method.standard,
        ).evidence
    maps = predict_probability(method.network, image, infer, method.device)
    crf = config.crf if infer.crf else None
    found = drawn(maps, image, infer, config.instances, crf=crf, evidence=evidence, scale=scale)
    return found, maps[0]


Draw = Callable[[Prompts], InstanceMasks]
"""The segmenter's masks of N prompts of a tile."""


def _segmenter(image: Image8, method: Method, scale: float) -> Draw:
    from coin_ray.confidence import windowed
    from coin_ray.confidence.segmenter import load_segmenter
    from coin_ray.confidence.views import seen_from

    sam = method.config.sam
    segmenter = load_segmenter(sam.model, device=method.device, batch=sam.batch)
    model = seen_from(segmenter, sam.views)
    window = windowed.window_px(sam, scale)
    with computing(method.device, sam.precision):
        seen = windowed.encode(model, image, window)

    def draw(prompts: Prompts) -> InstanceMasks:
        with computing(method.device, sam.precision):
            return windowed.decode(model, seen, prompts, image.shape[:2])

    return draw


def _redrawn(drawn: LabelMap, method: Method, draw: Draw, scale: float) -> LabelMap:
    from coin_ray.pipeline.stages.distillation import redrawn

    config, sam = method.config, method.config.sam
    prompts = make_prompts(drawn, sam.prompt)
    if sam.negatives:
        radius = sam.negatives_radius * scale
        prompts = with_negatives(prompts, drawn, sam.negatives, radius)
    masks = draw(prompts)
    return redrawn(masks, drawn > 0, config.infer, min_area=config.instances.min_area, scale=scale)


def _places(
    image: Image8,
    method: Method,
    scale: float,
    seen: tuple[NDArray[np.float32], BoolArray] | None,
) -> Iterator[mining.Points]:
    """Where the segmenter is asked for what was missed; ``seen``: the student's probability and
    where it has no instance."""
    ucis, step = method.config.ucis, method.config.mine.step
    for term in method.config.mine.points:
        if term == "grid":
            yield mining.grid_points(image.shape[:2], step, scale=scale)
        elif term == "stain":
            sigmas = {"sigma": ucis.sigma, "contrast_sigma": ucis.contrast_sigma}
            yield mining.stain_points(image, sigmas, step, scale=scale, standard=method.standard)
        elif seen is not None:
            yield mining.peaks(*seen, mining.LEAST_PROBABILITY, step, scale=scale)
