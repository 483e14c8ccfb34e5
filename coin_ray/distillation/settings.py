"""Pseudo labels, student, rounds and inference: the settings of Step 3."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from coin_ray.precision import Precision
from coin_ray.section import (
    YOUNGER,
    Batch,
    Fraction,
    Iterations,
    NotNegative,
    Positive,
    Radius,
    Scale,
    Section,
)

INTERVAL = r"^[1-9][0-9]{0,8} (epoch|step)s?$"


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
    """Network and training of one round."""

    arch: Literal["unet", "deeplabv3plus"] = "deeplabv3plus"
    width: int = Field(32, ge=4, le=4096, description="first width of the U-Net")
    encoder: Literal["resnet50", "resnet101"] = "resnet101"
    encoder_weights: Literal["imagenet", "none"] = "imagenet"
    output_stride: Literal[8, 16] = Field(
        8, description="of the encoder of DeepLabv3+", json_schema_extra=YOUNGER
    )
    shared_aspp: bool = Field(
        False,
        description="one pyramid pooling for both heads of DeepLabv3+ instead of one each",
        json_schema_extra=YOUNGER,
    )
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
    bf16: bool = Field(False, description="how 0.1 said precision: bf16")
    precision: Precision = Field("fp32", description="of the training", json_schema_extra=YOUNGER)
    deterministic: bool = Field(
        False,
        description="the same bytes from every training on the same GPU",
        json_schema_extra=YOUNGER,
    )
    channels_last: bool = Field(True, json_schema_extra={"runtime": True})
    compile: bool = Field(False, json_schema_extra={"runtime": True})

    @model_validator(mode="after")
    def _two_words_for_bf16(self) -> Student:
        said = {"bf16", "precision"} & self.model_fields_set
        if len(said) == 2 and self.bf16 != (self.precision == "bf16"):
            raise ValueError(
                f"student.bf16: {str(self.bf16).lower()} contradicts student.precision: "
                f"{self.precision}; write student.precision alone"
            )
        # Frozen for everybody else: whichever was said, both are so.
        if self.bf16:
            object.__setattr__(self, "precision", "bf16")
        object.__setattr__(self, "bf16", self.precision == "bf16")
        return self


class Rounds(Section):
    """Recursion."""

    count: int = Field(
        3, ge=0, le=1000, description="rounds of relabel and train; 0 = steps 1 and 2 only"
    )
    refresh: Annotated[int, Field(ge=1, le=1000)] | Annotated[str, Field(pattern=INTERVAL)] = Field(
        1,
        description=(
            "labels are made anew every so many rounds; or, in a continuous schedule, every `N "
            "epochs` or `N steps`, each of which is a round then"
        ),
    )
    schedule: Literal["restart", "continuous"] = Field(
        "restart",
        description=(
            "a round begins with a fresh optimiser, average and learning rate, or goes on with "
            "those of the last: all rounds are one training, with new labels in between"
        ),
        json_schema_extra=YOUNGER,
    )
    early_stop: Fraction = Field(
        0.0,
        description=(
            "label churn (1 - IoU of the labels of two rounds) below which no round trains any "
            "more; 0 = off"
        ),
    )
    checkpoint: NotNegative = Field(
        60.0,
        description="seconds between two checkpoints inside a round, or a coarse model's training",
        json_schema_extra={"runtime": True},
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
    precision: Precision = Field(
        "fp32", description="of the student as it predicts", json_schema_extra=YOUNGER
    )
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


class Relabel(Section):
    """How a student predicts what only the labels of its next round are made of."""

    scales: tuple[Scale, ...] | None = Field(
        None, min_length=1, max_length=100, description="in place of infer.scales; null = these"
    )
    crf: bool | None = Field(None, description="in place of infer.crf; null = that")

    def of(self, infer: Infer) -> Infer:
        """``infer`` with what is said here."""
        said = {name: value for name, value in self if value is not None}
        return infer.model_copy(update=said)
