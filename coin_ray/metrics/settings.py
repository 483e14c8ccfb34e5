"""What is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coin_ray.section import YOUNGER, Section

Neighbours = Literal[1, 2]
Step = (
    Literal["coarse", "step 1", "pseudo labels"]
    | Annotated[str, Field(pattern=r"^round [1-9][0-9]{0,3}$")]
)
"""What comes before the end: the coarse mask, its propagation (Step 1), the accepted instances as
the segmenter draws them (Step 2), the student of a round (Step 3)."""
Result = Literal["final"] | Step
"""And the end itself: the last round, or Step 1 where there is none."""


class Evaluate(Section):
    """What is measured."""

    adjacency_radius: int | None = Field(
        1,
        ge=0,
        le=100,
        description="px within which two cells are adjacent (8-connected dilation); null = "
        "no split",
    )
    adjacency_neighbours: Neighbours = Field(
        1,
        description="cells that an adjacent one is connected to at least; 2 as the supplement "
        "says, which leaves cells with exactly one out of both parts",
        json_schema_extra=YOUNGER,
    )
    adjacency_miou: bool = Field(
        False,
        description="of both parts also the IoU as the mean over nuclei and background, which is "
        "what the paper's tables call IoU",
        json_schema_extra=YOUNGER,
    )
    result: Result = Field(
        "final",
        description="the step whose label maps are the result, after which nothing is trained: "
        "final (the last round, or step 1 without one), coarse, step 1, pseudo labels (of images "
        "that are trained on), round N",
        json_schema_extra=YOUNGER,
    )
