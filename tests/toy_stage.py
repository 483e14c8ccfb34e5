"""A stage of one module, as docs/development.md says how to add one: it opens the mask of Step 1
before instances are made of it."""

from __future__ import annotations

from dataclasses import replace

from coin_ray.pipeline.stage import Given, Read, Ref, Stage, Take
from coin_ray.pipeline.stages import STAGES
from coin_ray.store.artifacts import Artifact


def _smooth(given: Given) -> Artifact:
    from skimage.morphology import disk, opening

    mask = given.array("refine")
    return Artifact({"array": opening(mask, disk(1 + (given.settings.footprint > 5)))})


SMOOTH = Stage(
    "smooth",
    _smooth,
    reads=(Read("instances", ("footprint",)),),
    takes=(Take("refine", lambda chain, ref: Ref("refine", ref.image), stages=("refine",)),),
)


def hook() -> None:
    """Add it, in this process, before the stage that takes it."""
    made = STAGES["instances"]
    mask = Take("mask", lambda chain, ref: Ref("smooth", ref.image), stages=("smooth",))
    taken = (*(take for take in made.takes if take.role != "mask"), mask)
    STAGES["smooth"] = SMOOTH
    STAGES["instances"] = replace(made, takes=taken)
