"""The complete configuration of a cell, one frozen model a section.

A field is part of a stage's identity unless it is marked runtime: a runtime field (device, batch,
workers) changes how fast a result comes, never which result, and never enters a key.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from coin_ray.pipeline.coarse_settings import Ucis
from coin_ray.pipeline.section import (
    Batch,
    Fraction,
    Iterations,
    NotNegative,
    OneOrMore,
    Pixels,
    Positive,
    Radius,
    Scale,
    Section,
)


class Uss(Section):
    """Frozen self-supervised features, class centroids and similarity ."""

    family: Literal["none", "mae", "dinov1", "dinov2", "dinov2_reg"] = Field(
        "mae", description="pretraining of the backbone; none = no propagation, M0 is used as it is"
    )
    size: Literal["mini", "small", "base", "large", "huge", "giant"] = "base"
    weights: Literal["plain", "fit3d"] = Field(
        "plain", description="of the pretraining itself, or fine-tuned by FiT3D (the public code)"
    )
    layer: int = Field(
        -1, ge=-1000, le=-1, description="block whose tokens are taken, -1 = the last"
    )
    zoom: OneOrMore[Scale] = Field(
        (6.0,),
        description="magnification of a window before the backbone; similarities of several "
        "are averaged",
    )
    window: int | None = Field(
        None,
        ge=16,
        le=16_384,
        description=("window side after zoom, px; null = min(H, W), so 1/zoom of the image"),
    )
    stride: Annotated[float, Field(ge=0.01, le=1)] = Field(
        2 / 3, description="window stride as a share of its side"
    )
    hflip: bool = Field(True, description="average with the mirrored window")
    normalise: Literal["none", "standardise", "whiten"] = Field(
        "none",
        description=(
            "per image, over tokens: nothing, zero mean and unit variance, or PCA whitening"
        ),
    )
    centroid_scope: Literal["image", "dataset"] = Field(
        "dataset", description="foreground centroid per image or over all training images"
    )
    centroid_weight: Literal["pixel", "image"] = Field(
        "pixel", description="data-set centroid: every pixel counts alike, or every image"
    )
    relu: bool = Field(False, description="negative similarities to 0 (Eq. 3)")
    minmax: bool = Field(True, description="each similarity channel to [0, 1] per image")
    percentile: Annotated[float, Field(ge=0, lt=50)] = Field(
        0.0, description="minmax stretches between this and 100 minus this percentile; 0 = extremes"
    )
    complement: bool = Field(True, description="background = max(background, 1 - foreground)")
    batch: Batch = Field(8, json_schema_extra={"runtime": True})


class Ot(Section):
    """Two-class entropic optimal transport (Eq. 4)."""

    enabled: bool = True
    lambda_: Positive = Field(0.1, alias="lambda", description="entropic weight")
    mode: Literal["one_step", "converged"] = "converged"
    solver: Literal["exact", "pot"] = Field(
        "exact", description="closed form for two classes, or Sinkhorn of the POT library"
    )
    foreground_mass: Annotated[float, Field(gt=0, lt=1)] | Literal["coarse"] = Field(
        "coarse", description="share of pixels transported to foreground; coarse = that of M0"
    )
    prior: NotNegative = Field(
        0.0,
        description="log-odds that the coarse mask gives the plan's reference; 0 = none (paper)",
    )
    output: Literal["product", "plan"] = Field(
        "product", description="S^OT: plan times similarity (paper), or the plan alone"
    )
    threshold: Fraction | Literal["mean"] = Field(
        0.4, description="background similarity when transport is off (paper's ablation)"
    )


class Crf(Section):
    """Fully connected CRF; needs the extra ``crf``."""

    enabled: bool = False
    gamma: Positive = Field(1.0, description="power on the foreground map before the CRF")
    iterations: int = Field(10, ge=1, le=10_000)
    gaussian_weight: Positive = 3.0
    gaussian_sigma: Positive = 1.0
    bilateral_weight: Positive = 4.0
    bilateral_sigma: Positive = 67.0
    bilateral_rgb: Positive = 3.0


class Instances(Section):
    """Mask to instances (Eq. 5)."""

    method: Literal["watershed", "components"] = "watershed"
    footprint: int = Field(
        12, ge=1, le=200, description="radius of the peak footprint, px at 0.25 um/px"
    )
    footprint_scale: Literal["mpp", "fixed", "adaptive"] = Field(
        "mpp",
        description=(
            "footprint times 0.25 / mpp; as it is; or the median peak of the image's distance map"
        ),
    )
    sigma: Annotated[float, Field(ge=0, le=1000)] = Field(
        1.0, description="Gaussian on the distance map, px"
    )
    keep_border: bool = Field(True, description="peaks on the image border count")
    opening: Radius = Field(0, description="radius of the binary opening before, px; 0 = off")
    closing: Radius = Field(0, description="radius of the binary closing after that, px")
    min_area: Pixels = Field(0, description="smaller instances are dropped, px")


class Sam(Section):
    """The promptable segmenter that redraws each instance."""

    model: Literal["mini", "vit_b", "vit_l", "vit_h"] = "vit_h"
    prompt: Literal["centroid", "innermost"] = "centroid"
    batch: Batch = Field(64, json_schema_extra={"runtime": True})


Term = Literal["segmenter", "predicted_iou", "stain_jitter", "regrowth", "ring_contrast", "ellipse"]


class Score(Section):
    """Confidence of an instance (Eq. 6), or annotation-free scores in its place."""

    terms: OneOrMore[Term] = Field(
        ("segmenter",),
        description=(
            "IoU with the segmenter's mask (paper); its predicted IoU; agreement with the coarse "
            "mask of stain-jittered images; with a regrown instance; contrast to the ring around "
            "it; ellipse fit. Several are combined by their mean rank in the image"
        ),
    )


class Select(Section):
    """Adaptive threshold (Eq. 7) and acceptance (Eq. 8)."""

    rule: Literal["mean", "mean_plus_std", "cv", "fixed", "otsu", "top_fraction"] = "mean_plus_std"
    value: Fraction = Field(0.5, description="threshold of fixed, share kept by top_fraction")
    cap: Fraction = Field(0.9, description="upper bound of an adaptive threshold")
    scope: Literal["image", "dataset"] = "image"
    area_ratio: tuple[NotNegative, Positive] | None = Field(
        None, description="area of the segmenter's mask over that of the instance; null = any"
    )
    contains_point: bool = Field(False, description="the segmenter's mask holds its prompt point")
    max_overlap: Fraction = Field(
        1.0, description="IoU with a better accepted mask above which a mask is refused; 1 = off"
    )


class Labels(Section):
    """Pseudo labels (Eqs. 9 and 10)."""

    source: Literal["segmenter", "prediction", "intersection"] = Field(
        "segmenter", description="the mask painted for an accepted instance"
    )
    missed: Literal["background", "ignore"] = Field(
        "background", description="Step-1 foreground that the student no longer predicts"
    )
    memory: bool = Field(
        False, description="masks accepted in an earlier round stay until a better one overlaps"
    )


class Student(Section):
    """Network and training of one round ."""

    arch: Literal["unet", "deeplabv3plus"] = "deeplabv3plus"
    width: int = Field(32, ge=4, le=4096, description="first width of the U-Net")
    encoder: Literal["resnet50", "resnet101"] = "resnet101"
    encoder_weights: Literal["imagenet", "none"] = "imagenet"
    iterations: Iterations = Field(23100, description="optimiser steps of round 1")
    epochs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="steps as epochs of 100 crops an image instead, in every round",
    )
    later_iterations: Iterations | None = Field(
        None, description="of the later rounds; null = as round 1"
    )
    batch: Batch = 16
    crop: int = Field(512, ge=32, le=8192)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = Field(
        1e-3, description="of the encoder; heads (and a whole U-Net) times head_lr"
    )
    later_lr: Positive | None = Field(None, description="of the later rounds; null = as round 1")
    head_lr: Positive = 10.0
    schedule: Literal["poly", "constant"] = Field("poly", description="of the learning rate")
    weight_decay: NotNegative = 4e-5
    ema: Fraction = 0.999
    edge: bool = Field(True, description="edge head and its loss")
    edge_weight: NotNegative = 1.0
    segmentation_weight: NotNegative = 1.0
    edge_target: Literal["boundary", "canny"] = Field(
        "boundary", description="pixels that touch another id, or Canny of each instance (Eq. 10)"
    )
    scale: tuple[Scale, Scale] = Field(
        (0.5, 2.0), description="random rescale, uniform in this range"
    )
    rotate: bool = Field(False, description="quarter turns")
    color_jitter: NotNegative = Field(0.5, description="brightness, contrast, saturation")
    hue_jitter: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="share of the circle"
    )
    stain_jitter: NotNegative = Field(0.0, description="HED gain, standard deviation")
    bf16: bool = Field(
        False, description="mixed precision; faster where the processor has it, other numbers"
    )
    channels_last: bool = Field(True, json_schema_extra={"runtime": True})
    compile: bool = Field(False, json_schema_extra={"runtime": True})


class Rounds(Section):
    """Recursion."""

    count: int = Field(
        3, ge=0, le=1000, description="rounds of relabel and train; 0 = steps 1 and 2 only"
    )
    refresh: int = Field(1, ge=1, le=1000, description="labels are made anew every so many rounds")
    early_stop: Fraction = Field(
        0.0,
        description=(
            "label churn (1 - IoU of the labels of two rounds) below which no round trains any "
            "more; 0 = off"
        ),
    )


class Infer(Section):
    """Student output to instances."""

    scales: tuple[Scale, ...] = Field((1.0, 0.5, 1.5, 2.0), min_length=1, max_length=100)
    hflip: bool = True
    minmax: bool = Field(
        True, description="probability to [0, 1] per image, as the public code does"
    )
    stain_weight: NotNegative = Field(
        0.0,
        description=(
            "weight of the stain evidence added to the student's logit; 0 = student alone"
        ),
    )
    crf: bool = Field(False, description="dense CRF on the probabilities, with the section crf")
    edge_markers: bool = Field(False, description="markers from segmentation x (1 - edge)")
    fill_holes: bool = True
    opening: Radius = Field(0, description="radius of the binary opening, px")
    tile: int | None = Field(
        None, ge=64, le=100_000, description="tile side for large images, px; null = whole"
    )
    redraw: bool = Field(
        False, description="the segmenter redraws the predicted instances, surest last"
    )
    redraw_min_iou: Fraction = Field(
        0.0, description="instances that the segmenter itself expects to draw worse are dropped"
    )
    redraw_grow: Annotated[float, Field(ge=0, le=1000)] = Field(
        0.0, description="redrawn instances grow so far into the student's foreground, px"
    )


class Evaluate(Section):
    """What is measured."""

    adjacency_radius: int | None = Field(
        1,
        ge=0,
        le=100,
        description="px within which two cells are adjacent (8-connected dilation); null = "
        "no split",
    )


class Cell(Section):
    """One complete configuration."""

    ucis: Ucis = Ucis()
    uss: Uss = Uss()
    ot: Ot = Ot()
    crf: Crf = Crf()
    instances: Instances = Instances()
    sam: Sam = Sam()
    score: Score = Score()
    select: Select = Select()
    labels: Labels = Labels()
    student: Student = Student()
    rounds: Rounds = Rounds()
    infer: Infer = Infer()
    evaluate: Evaluate = Evaluate()


def dotted_fields(model: type[BaseModel] = Cell, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every settable key in the study's spelling (``ot.lambda``) with its pydantic field."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from dotted_fields(field.annotation, key + ".")
        else:
            yield key, field


def is_runtime(field: Any) -> bool:
    """True if a field changes speed only."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("runtime"))


def identity(section: Section, fields: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The values of a section that identify a result, under the study's names; ``fields``
    narrows."""
    return dict(_identity(section, fields))


@functools.lru_cache(maxsize=4096)  # a plan of a thousand cells asks for the same few sections
def _identity(section: Section, fields: tuple[str, ...] | None) -> dict[str, Any]:
    found = section.model_dump(mode="json", by_alias=True)
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if is_runtime(field) or (fields is not None and key not in fields):
            del found[key]
        elif isinstance(value, Section):
            found[key] = identity(value)
    return found


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys (``ot.lambda``); lists and scalars are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested
