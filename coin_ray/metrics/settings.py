"""What is measured."""

from __future__ import annotations

from pydantic import Field

from coin_ray.section import Section


class Evaluate(Section):
    """What is measured."""

    adjacency_radius: int | None = Field(
        1,
        ge=0,
        le=100,
        description="px within which two cells are adjacent (8-connected dilation); null = "
        "no split",
    )
