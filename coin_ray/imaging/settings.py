"""How a mask becomes instances."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coin_ray.section import Pixels, Radius, Section


class Instances(Section):
    """Mask to instances (Eq. 5)."""

    method: Literal["watershed", "components", "whole"] = Field(
        "watershed", description="whole: all foreground is one instance, as before it is split"
    )
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
