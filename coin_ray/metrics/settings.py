"""What is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coin_ray.section import Section

Neighbours = Literal[1, 2]


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
    )
