"""The segmenter, the scores and the selection: the settings of Step 2."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from coin_ray.precision import Precision
from coin_ray.section import (
    YOUNGER,
    Batch,
    Fraction,
    NotNegative,
    OneOrMore,
    Pixels,
    Positive,
    Section,
    ZeroOrMore,
)

SMALL = ("mini", "mini_2")  # the built-in segmenters: one network, other weights
SMALL_WINDOW = 256  # px that they see at once


class Sam(Section):
    """The promptable segmenter that redraws each instance."""

    model: Literal[
        "mini",
        "mini_2",
        "vit_b",
        "vit_l",
        "vit_h",
        "sam2_hiera_t",
        "sam2_hiera_s",
        "sam2_hiera_b",
        "sam2_hiera_l",
    ] = Field(
        "vit_h",
        description=(
            "built in (mini_2 has learnt longer than mini), SAM, or SAM 2.1 of the extra sam2 (the "
            "public code: sam2_hiera_l)"
        ),
    )
    prompt: Literal["centroid", "innermost", "box", "mask"] = Field(
        "centroid",
        description=(
            "what it is told of an instance: a point, its box, or its mask and the innermost point"
        ),
    )
    window: int | None = Field(
        None,
        ge=32,
        le=16_384,
        description=(
            "side of the windows that SAM looks at one by one, px at 0.25 um/px: they fill its "
            "1024 px, so that nuclei are larger; null = the whole tile (paper)"
        ),
        json_schema_extra=YOUNGER,
    )
    views: Literal[1, 2, 4, 8] = Field(
        1,
        description=(
            "from how many sides it looks, turned and mirrored: a mask is what most of them hold"
        ),
        json_schema_extra=YOUNGER,
    )
    negatives: int = Field(
        0,
        ge=0,
        le=64,
        description=(
            "so many of the nearest other instances are told it as points outside of this one; "
            "0 = none (paper)"
        ),
        json_schema_extra=YOUNGER,
    )
    negatives_radius: Positive = Field(
        80.0,
        description="from the one's innermost pixel to the other's, at most, px at 0.25 um/px",
        json_schema_extra=YOUNGER,
    )
    precision: Precision = Field(
        "fp32", description="of its encoder and its decoder", json_schema_extra=YOUNGER
    )
    batch: Batch = Field(64, json_schema_extra={"runtime": True})

    @model_validator(mode="after")
    def _small_segmenter_is_asked_as_it_was_trained(self) -> Sam:
        if self.model not in SMALL:
            return self
        other = f"needs a sam.model other than {' and '.join(SMALL)}, which"
        if self.prompt in ("box", "mask"):
            raise ValueError(f"sam.prompt: {self.prompt} {other} were trained with points alone")
        if self.negatives:
            raise ValueError(
                f"sam.negatives {other} were trained with points inside of nuclei alone"
            )
        if self.window is not None:
            raise ValueError(f"sam.window {other} look at windows of {SMALL_WINDOW} px")
        return self


def segmenter_name(model: str) -> str:
    """Its entry in the registry of weights."""
    return model if model.startswith("sam2_") else f"sam_{model}"


Term = Literal["segmenter", "predicted_iou", "stain_jitter", "regrowth", "ring_contrast", "ellipse"]


class Score(Section):
    """Confidence of an instance (Eq. 6), or annotation-free scores in its place."""

    terms: OneOrMore[Term] = Field(
        ("segmenter",),
        description=(
            "IoU with the segmenter's mask (paper); its predicted IoU; agreement with the coarse "
            "mask of stain-jittered images; with a regrown instance; contrast to the ring around "
            "it; ellipse fit. Several are combined by their mean rank in the image, and a contrast "
            "alone, which has no bounds, is its rank"
        ),
    )


class Mine(Section):
    """Mining of missed nuclei: masks of many prompts, of which those stay that the segmenter is
    sure of, that neighbouring prompts agree on and that lie where no instance is."""

    points: ZeroOrMore[Literal["grid", "stain", "student"]] = Field(
        (),
        description=(
            "where the segmenter is asked: on a grid, at peaks of the stain evidence, at peaks of "
            "the student's probability where it has no instance (after a round); empty = off"
        ),
    )
    step: int = Field(
        8, ge=1, le=1000, description="of the grid, and radius in which a peak is the highest, px"
    )
    min_iou: Fraction = Field(0.85, description="least predicted IoU of a mined mask")
    min_agreement: Fraction = Field(
        0.0,
        description="least mean IoU with the masks of the other prompts that lie in it; 0 = off",
    )
    min_free: Fraction = Field(
        0.7, description="least share of a mined mask that no instance covers"
    )
    max_contained: Fraction = Field(
        0.3,
        description=(
            "share of the smaller of two mined masks, above which the one that is less sure goes"
        ),
    )
    min_area: Pixels = Field(60, description="of a mined mask and of its free part, px")
    max_area: Pixels = Field(4000, description="of a mined mask, px")

    @model_validator(mode="after")
    def _each_once(self) -> Mine:
        if len(set(self.points)) < len(self.points):
            raise ValueError("mine.points has a word twice")
        return self


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
