"""Settings of the coarse mask M0 and of the models that draw it."""

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
    Pixels,
    Positive,
    Radius,
    Section,
    Seed,
    Sigma,
)

DETECTOR = "detector_mini"
"""Registered weights of the built-in detector."""
NARROWEST = 8
"""Channels of a residual network's first stage: with fewer, oneDNN's AVX2 kernels write beyond the
gradient of its strided 1 x 1 convolutions (PyTorch 2.13), and the process dies."""
Width = Annotated[int, Field(ge=1, le=4096)]
StageWidth = Annotated[int, Field(ge=NARROWEST, le=4096)]


class Ssa(Section):
    """Training of SSA, sparse attention that tells the magnification."""

    width: Width = Field(64, description="channels of the attention network")
    encoder: Literal["resnet18", "resnet34"] = Field("resnet34", description="of the classifier")
    encoder_width: StageWidth = Field(64, description="channels of its first stage")
    start: Literal["random", "stain"] = Field(
        "random", description="of the attention: random as published, or from the nuclear stain"
    )
    sparsity: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.07, description="share of the pixels that is attended to"
    )
    scale_equivariance: bool = Field(True, description="the loss between magnifications")
    iterations: Iterations = Field(20000, description="epoch 200 of 100 steps")
    batch: int = Field(32, ge=3, le=65_536)
    crop: int = Field(160, ge=32, le=8192)
    lr: Positive = 2e-4
    weight_decay: NotNegative = 1e-4
    lr_drops: tuple[Iterations, ...] = Field(
        (30000, 60000), max_length=100, description="steps that divide the learning rate by 10"
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the averaged weights; 0 = those of the last step (paper)"
    )
    stain_jitter: NotNegative = Field(0.03, description="HED gain, standard deviation")

    @property
    def most_workers(self) -> int:
        """Processes that the crops of a step can be shared by; each needs all magnifications."""
        return self.batch // 3


class Psm(Section):
    """Training of PSM, self-activation maps and two networks that learn from them in turn."""

    activation_encoder: Literal["res2net50_26w_4s", "res2net101_26w_4s"] = Field(
        "res2net101_26w_4s", description="the network whose activations are taken"
    )
    activation_width: StageWidth = Field(64, description="channels of its first stage")
    activation_iterations: Iterations = 3700
    activation_batch: Batch = 1
    activation_lr: Positive = 1e-4
    clusters: int = Field(
        3, ge=2, le=1000, description="of the coloured activation map, by k-means"
    )
    attempts: int = Field(
        10, ge=1, le=10_000, description="k-means runs, of which the best is taken"
    )
    max_hole: Pixels = Field(64, description="holes up to this area are filled, px")
    min_area: Pixels = Field(0, description="smaller components are dropped, px")
    encoder: Literal["resnet18", "resnet34"] = Field(
        "resnet34", description="of the point network and of the final one"
    )
    width: StageWidth = Field(64, description="channels of its first stage")
    point_iterations: Iterations = 900
    final_iterations: Iterations = 900
    batch: Batch = 4
    lr: Positive = 1e-4
    region: int | None = Field(
        512,
        ge=32,
        le=100_000,
        description="centre square of an image that is trained on, px; null = all",
    )
    crop: int = Field(512, ge=32, le=8192)
    folds: int = Field(
        10, ge=1, le=10_000, description="parts of the images; each pass leaves one out"
    )
    point_distance: int = Field(
        6, ge=1, le=1000, description="between peaks that become points, px"
    )
    point_merge: NotNegative = Field(20.0, description="points nearer to each other are one, px")
    point_radius: Radius = Field(2, description="of the disk around a point, px")
    voronoi_weight: NotNegative = 1.5

    @property
    def most_workers(self) -> int:
        """Processes that the crops of a step can be shared by: one at the published batch of 1."""
        return min(self.batch, self.activation_batch)


class Maskcut(Section):
    """MaskCut, normalised cuts on the tokens of ``uss``."""

    masks: int = Field(3, ge=1, le=1000, description="cut off a window, one after the other")
    threshold: Annotated[float, Field(ge=-1, lt=1)] = Field(
        0.15, description="cosine above which two tokens belong together"
    )
    grid: int = Field(
        32, ge=4, le=128, description="tokens a side of a window at most; more are averaged"
    )


class Detector(Section):
    """Votes of the built-in detector for the centres of nuclei, and its training on the training
    images, from what it is sure of there itself."""

    foreground: Fraction = Field(0.6, description="probability from which on a pixel votes")
    votes: NotNegative = Field(
        40.0, description="that a centre has at least, px at 0.25 um/px weighed by probability"
    )
    certainty: Fraction = Field(
        0.85, description="mean probability below which an instance is dropped"
    )
    views: Literal[1, 4, 8] = Field(
        1, description="looks at an image, turned and from the fifth on mirrored, that are averaged"
    )
    rounds: int = Field(
        0, ge=0, le=100, description="of training on the training images; 0 = as it ships"
    )
    iterations: Iterations = Field(200, description="optimiser steps of a round")
    batch: Batch = 4
    lr: Positive = 1e-4
    doubt: Fraction = Field(
        0.3,
        description=(
            "probability from which on a pixel outside of its instances is not taught as background"
        ),
    )

    @property
    def most_workers(self) -> int:
        """Processes that the windows of a step can be shared by."""
        return self.batch


class Ucis(Section):
    """Coarse mask M0 of an unsupervised model."""

    model: Literal["stain", "ssa", "psm", "maskcut", "detector", "files"] = Field(
        "stain",
        description=(
            "where the coarse mask comes from: the nuclear stain, a network that is trained on "
            "the training images first, cuts of the backbone's tokens, a network that ships with "
            "the package, or a folder of masks"
        ),
    )
    path: str | None = Field(
        None, description="folder of masks, for model: files; from the study file"
    )
    weights: Literal["imagenet", "none"] = Field(
        "imagenet", description="what the encoders of ssa and psm start from"
    )
    seed: Seed = Field(
        0, description="of the training of ssa, psm and detector, which all random seeds share"
    )
    precision: Precision = Field(
        "fp32", description="of ssa and psm, and of detector's training", json_schema_extra=YOUNGER
    )
    deterministic: bool = Field(
        False,
        description="the same bytes from every such training on the same GPU",
        json_schema_extra=YOUNGER,
    )
    ssa: Ssa = Ssa()
    psm: Psm = Psm()
    maskcut: Maskcut = Field(Maskcut(), json_schema_extra=YOUNGER)
    detector: Detector = Field(Detector(), json_schema_extra=YOUNGER)
    sigma: Sigma = Field(1.5, description="Gaussian on the nuclear stain, px at 0.25 um/px")
    contrast_sigma: Sigma = Field(12.0, description="wide Gaussian of the local-contrast gate, px")
    opening: Radius = Field(2, description="radius of the binary opening, px; 0 = off")
    max_hole: Pixels = Field(300, description="holes up to this area are filled, px")
    min_area: Pixels = Field(60, description="smaller components are dropped, px")
    min_contrast: NotNegative = Field(
        0.4, description="instances that stand out less from their surroundings are dropped, in sd"
    )
    min_share: Fraction = Field(0.2, description="and those below this share of the median area")

    @model_validator(mode="after")
    def _files_need_a_path(self) -> Ucis:
        if self.model == "files" and not self.path:
            raise ValueError("ucis.model: files needs ucis.path, the folder that holds the masks")
        return self

    @model_validator(mode="after")
    def _imagenet_weights_have_one_size(self) -> Ucis:
        trained = self.trained
        if isinstance(trained, Ssa | Psm) and self.weights == "imagenet":
            encoder, width = "resnet34", trained.width
            if isinstance(trained, Ssa):
                width = trained.encoder_width
            if (trained.encoder, width) != (encoder, 64):
                raise ValueError(
                    f"ucis.weights: imagenet needs ucis.{self.model}.encoder: {encoder} at its "
                    "width of 64; or write ucis.weights: none"
                )
        return self

    @property
    def folder(self) -> str | None:
        """The folder of masks, for a model that reads them."""
        return self.path if self.model == "files" else None

    @property
    def trained(self) -> Ssa | Psm | Detector | None:
        """The settings of the training, for a model that is trained."""
        if self.model == "detector" and self.detector.rounds:
            return self.detector
        return self.ssa if self.model == "ssa" else self.psm if self.model == "psm" else None
