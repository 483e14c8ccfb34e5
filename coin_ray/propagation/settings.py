"""Frozen features, optimal transport and dense CRF: the settings of Step 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from coin_ray.precision import Precision
from coin_ray.section import (
    YOUNGER,
    Batch,
    Fraction,
    NotNegative,
    OneOrMore,
    Positive,
    Scale,
    Section,
)


class Uss(Section):
    """Frozen self-supervised features, class centroids and similarity."""

    family: Literal["none", "mae", "dinov1", "dinov2", "dinov2_reg", "sam"] = Field(
        "mae",
        description=(
            "pretraining of the backbone; sam = what the encoder of sam.model has seen already; "
            "none = no propagation, M0 is used as it is"
        ),
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
    precision: Precision = Field("fp32", description="of the backbone", json_schema_extra=YOUNGER)
    batch: Batch = Field(8, json_schema_extra={"runtime": True})
    cache: Literal["tokens", "none"] | None = Field(
        None,
        description="tokens are stored, or made again by whoever needs them; null = the cheaper",
        json_schema_extra={"runtime": True},
    )


OF_A_BACKBONE = ("size", "weights", "layer", "zoom", "window", "stride", "hflip", "precision")
"""Settings of ``uss`` that say how a backbone looks at an image; ``family: sam`` has none of them,
its tokens are those that ``sam`` asks for."""


def backbone_name(uss: Uss) -> str:
    """Its entry in the registry of weights; others than the plain ones are named at the end."""
    return f"{uss.family}_{uss.size}" + ("" if uss.weights == "plain" else f"_{uss.weights}")


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
    slack: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0,
        description=(
            "share of the mass that stays untransported, of pixels like neither class; it becomes "
            "background. 0 = none (paper)"
        ),
        json_schema_extra=YOUNGER,
    )
    output: Literal["product", "plan"] = Field(
        "product", description="S^OT: plan times similarity (paper), or the plan alone"
    )
    threshold: Fraction | Literal["mean"] = Field(
        0.4, description="background similarity when transport is off (paper's ablation)"
    )

    @model_validator(mode="after")
    def _slack_is_of_the_converged_plan(self) -> Ot:
        if self.slack and self.mode == "one_step":
            raise ValueError(
                "ot.slack needs ot.mode: converged; one_step is the public code's two iterations, "
                "which meet the masses of Eq. 4"
            )
        return self


class Crf(Section):
    """Fully connected CRF; needs the extra ``crf``."""

    enabled: bool = False
    gamma: Positive = Field(1.0, description="power on the foreground map before the CRF of step 1")
    iterations: int = Field(10, ge=1, le=10_000)
    gaussian_weight: Positive = 3.0
    gaussian_sigma: Positive = 1.0
    bilateral_weight: Positive = 4.0
    bilateral_sigma: Positive = 67.0
    bilateral_rgb: Positive = 3.0
