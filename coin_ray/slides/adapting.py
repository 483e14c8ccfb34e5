"""A student or a detector for the slides at hand, trained on windows of them as a study trains: no
labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from coin_ray.data.sample import Image
from coin_ray.data.write import write_image
from coin_ray.errors import UserError
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.slides.method import Method
from coin_ray.slides.reading import Slide
from coin_ray.slides.run import THUMBNAIL, windows
from coin_ray.slides.tissue import tissue_mask
from coin_ray.training.world import Progress
from coin_ray.workspace import Workspace

SIDE, MOST = 512, 8
"""Of a window, px, and how many there are of all slides together, at least one of each."""


def adapt(
    method: Method, slides: Sequence[Slide], workspace: Path, progress: Progress | None = None
) -> Method:
    """The method with the student of a cell of its settings or, where the detector finds the
    nuclei, with its detector. What the cell computes is stored in ``workspace``, as of a study: the
    same slides and settings are not trained on twice. ``progress`` is told the steps."""
    votes = method.config.ucis.model == "detector"
    rounds, what = (
        (method.config.ucis.detector.rounds, "ucis.detector.rounds")
        if votes
        else (method.config.rounds.count, "rounds.count")
    )
    if not rounds:
        raise UserError("--adapt trains on the slides", where=what, expected="1 or more")
    folder = Workspace(workspace).adapt
    each = max(1, MOST // len(slides))
    images = {image.name: image for slide in slides for image in _images(slide, each, folder)}
    run = open_local(method.config, 0, list(images.values()), workspace, device=method.device)
    if votes:
        run_local(run, (), until="ucis_model", progress=progress)
        return replace(method, detector=run.artifact("ucis_model").arrays)
    run_local(run, (), progress=progress)
    return replace(method, student=run.student(rounds).arrays)


def _images(slide: Slide, most: int, folder: Path) -> list[Image]:
    """Windows of a slide as files, called after what is in them."""
    level = slide.matching_level()
    tissue = tissue_mask(slide.thumbnail(THUMBNAIL))
    if not tissue.any():
        tissue = np.ones((1, 1), dtype=bool)
    found = []
    for pixels in windows(slide, level, tissue, SIDE, most):
        name = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_image(path, np.ascontiguousarray(pixels))
        found.append(Image(name, path, mpp=slide.mpp * slide.downsample(level)))
    return found
