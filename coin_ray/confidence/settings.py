"""The segmenter, the scores and the selection: the settings of Step 2."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coin_ray.precision import Precision
from coin_ray.section import Batch, Fraction, NotNegative, OneOrMore, Positive, Section


class Sam(Section):
    """The promptable segmenter that redraws each instance."""

    model: Literal["mini", "vit_b", "vit_l", "vit_h"] = "vit_h"
    prompt: Literal["centroid", "innermost"] = "centroid"
    precision: Precision = Field("fp32", description="of its encoder and its decoder")
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
