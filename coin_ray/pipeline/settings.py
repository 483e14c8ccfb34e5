"""The complete configuration of a cell, one frozen model a section.

A field is part of a stage's identity unless it is marked runtime: a runtime field (device, batch,
workers) changes how fast a result comes, never which result, and never enters a key.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Ucis(Section):
    """Coarse mask M0 of an unsupervised model."""

    model: Literal["stain", "files"] = Field(
        "stain", description="where the coarse mask comes from"
    )
    path: str | None = Field(None, description="folder of masks, for model: files")
    sigma: Positive = Field(1.5, description="Gaussian on the nuclear stain, px at 0.25 um/px")
    contrast_sigma: Positive = Field(
        12.0, description="wide Gaussian of the local-contrast gate, px"
    )
    opening: int = Field(2, ge=0, description="radius of the binary opening, px; 0 = off")
    max_hole: int = Field(300, ge=0, description="holes up to this area are filled, px")
    min_area: int = Field(60, ge=0, description="smaller components are dropped, px")
    min_contrast: Annotated[float, Field(ge=0)] = Field(
        0.4, description="instances that stand out less from their surroundings are dropped, in sd"
    )
    min_share: Fraction = Field(0.2, description="and those below this share of the median area")

    @model_validator(mode="after")
    def _files_need_a_path(self) -> Ucis:
        if self.model == "files" and not self.path:
            raise ValueError("ucis.model: files needs ucis.path, the folder that holds the masks")
        return self


class Uss(Section):
    """Frozen self-supervised features, class centroids and similarity ."""

    family: Literal["none", "mae", "dinov1", "dinov2", "dinov2_reg"] = Field(
        "mae", description="pretraining of the backbone; none = no propagation, M0 is used as it is"
    )
    size: Literal["mini", "small", "base", "large", "huge", "giant"] = "base"
    zoom: Positive = Field(6.0, description="magnification of a window before the backbone")
    window: int | None = Field(
        None,
        ge=16,
        description=("window side after zoom, px; null = min(H, W), so 1/zoom of the image"),
    )
    stride: Fraction = Field(2 / 3, description="window stride as a share of its side")
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
    relu: bool = False
    minmax: bool = Field(True, description="each similarity channel to [0, 1] per image")
    complement: bool = Field(True, description="background = max(background, 1 - foreground)")
    batch: int = Field(8, ge=1, json_schema_extra={"runtime": True})


class Ot(Section):
    """Two-class entropic optimal transport (Eq. 4)."""

    enabled: bool = True
    lambda_: Positive = Field(0.1, alias="lambda", description="entropic weight")
    mode: Literal["one_step", "converged"] = "converged"
    foreground_mass: Annotated[float, Field(gt=0, lt=1)] | Literal["coarse"] = Field(
        "coarse", description="share of pixels transported to foreground; coarse = that of M0"
    )
    prior: Annotated[float, Field(ge=0)] = Field(
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
    iterations: int = Field(10, ge=1)
    gaussian_weight: Positive = 3.0
    gaussian_sigma: Positive = 1.0
    bilateral_weight: Positive = 4.0
    bilateral_sigma: Positive = 67.0
    bilateral_rgb: Positive = 3.0


class Instances(Section):
    """Mask to instances (Eq. 5)."""

    method: Literal["watershed", "components"] = "watershed"
    footprint: int = Field(12, ge=1, description="radius of the peak footprint, px at 0.25 um/px")
    sigma: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Gaussian on the distance map, px"
    )
    keep_border: bool = Field(True, description="peaks on the image border count")
    opening: int = Field(0, ge=0, description="radius of the binary opening before, px; 0 = off")
    min_area: int = Field(0, ge=0, description="smaller instances are dropped, px")


class Sam(Section):
    """The promptable segmenter that redraws each instance."""

    model: Literal["mini", "vit_b", "vit_l", "vit_h"] = "vit_h"
    prompt: Literal["centroid", "innermost"] = "centroid"
    batch: int = Field(64, ge=1, json_schema_extra={"runtime": True})


class Score(Section):
    """Consistency of an instance (Eq. 6), or an annotation-free score in its place."""

    kind: Literal["segmenter", "stain_jitter", "combined"] = Field(
        "segmenter",
        description=(
            "IoU with the segmenter's mask; agreement with the coarse mask of stain-jittered and "
            "zoomed images; or the mean rank of these, regrowth, ring contrast and ellipse fit"
        ),
    )


class Select(Section):
    """Adaptive threshold (Eq. 7) and acceptance (Eq. 8)."""

    rule: Literal["mean", "mean_plus_std", "cv", "fixed", "top_fraction"] = "mean_plus_std"
    value: Fraction = Field(0.5, description="threshold of fixed, share kept by top_fraction")
    cap: Fraction = Field(0.9, description="upper bound of an adaptive threshold")
    scope: Literal["image", "dataset"] = "image"


class Labels(Section):
    """Pseudo labels (Eqs. 9 and 10)."""

    source: Literal["segmenter", "prediction", "intersection"] = Field(
        "segmenter", description="the mask painted for an accepted instance"
    )
    missed: Literal["background", "ignore"] = Field(
        "background", description="Step-1 foreground that the student no longer predicts"
    )


class Student(Section):
    """Network and training of one round ."""

    arch: Literal["unet", "deeplabv3plus"] = "deeplabv3plus"
    width: int = Field(32, ge=4, description="first width of the U-Net")
    encoder: Literal["resnet50", "resnet101"] = "resnet101"
    encoder_weights: Literal["imagenet", "none"] = "imagenet"
    iterations: int = Field(23100, ge=1, description="optimiser steps of round 1")
    later_iterations: int | None = Field(
        None, ge=1, description="of the later rounds; null = as round 1"
    )
    batch: int = Field(16, ge=1)
    crop: int = Field(512, ge=32)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = Field(
        1e-3, description="of the encoder; heads (and a whole U-Net) times head_lr"
    )
    later_lr: Positive | None = Field(None, description="of the later rounds; null = as round 1")
    head_lr: Positive = 10.0
    weight_decay: Annotated[float, Field(ge=0)] = 4e-5
    ema: Fraction = 0.999
    edge: bool = Field(True, description="edge head and its loss")
    edge_weight: Annotated[float, Field(ge=0)] = 1.0
    scale: tuple[Positive, Positive] = Field(
        (0.5, 2.0), description="random rescale, uniform in this range"
    )
    rotate: bool = Field(False, description="quarter turns")
    color_jitter: Annotated[float, Field(ge=0)] = Field(
        0.5, description="brightness, contrast, saturation"
    )
    hue_jitter: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="share of the circle"
    )
    stain_jitter: Annotated[float, Field(ge=0)] = Field(
        0.0, description="HED gain, standard deviation"
    )
    bf16: bool = Field(
        False, description="mixed precision; faster where the processor has it, other numbers"
    )


class Rounds(Section):
    """Recursion."""

    count: int = Field(3, ge=0, description="rounds of relabel and train; 0 = steps 1 and 2 only")


class Infer(Section):
    """Student output to instances."""

    scales: tuple[Positive, ...] = (1.0, 0.5, 1.5, 2.0)
    hflip: bool = True
    minmax: bool = Field(
        True, description="probability to [0, 1] per image, as the public code does"
    )
    stain_weight: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description=(
            "weight of the stain evidence added to the student's logit; 0 = student alone"
        ),
    )
    edge_markers: bool = Field(False, description="markers from segmentation x (1 - edge)")
    fill_holes: bool = True
    opening: int = Field(0, ge=0, description="radius of the binary opening, px")
    tile: int | None = Field(
        None, ge=64, description="tile side for large images, px; null = whole"
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
    dumped = section.model_dump(mode="json", by_alias=True)
    keep = {
        (f.alias or name)
        for name, f in type(section).model_fields.items()
        if not is_runtime(f) and (fields is None or (f.alias or name) in fields)
    }
    return {name: value for name, value in dumped.items() if name in keep}
