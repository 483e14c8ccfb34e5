"""One picture an image that shows what each step made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coin_ray.files import whole
from coin_ray.labels import LabelMap, boundaries

COLOURS = {
    "coarse mask": (255, 221, 0),
    "accepted": (0, 200, 255),
    "prediction": (0, 255, 0),
    "truth": (255, 255, 255),
}
GAP = 6
COLUMNS = 2
LEGIBLE = 180
"""Px that the longest title is wide: narrower images are enlarged, pixel by pixel."""


def write_panels(
    path: Path,
    image: NDArray[np.uint8],
    *,
    coarse: LabelMap | None,
    accepted: LabelMap | None,
    final: LabelMap,
    truth: LabelMap | None,
) -> None:
    """PNG of four panels: the image, the coarse mask (where there is one), the accepted pseudo
    labels (where the image was trained on), the prediction with the truth's outline in white (where
    there is one).

    ``image`` (H, W, 3) uint8, label maps (H, W); small ones are enlarged. The file appears whole or
    not at all.
    """
    from PIL import Image, ImageDraw, ImageFont

    panels = [("image", image)]
    if coarse is not None:
        panels.append(("coarse mask", outlined(image, coarse, "coarse mask")))
    if accepted is not None:
        panels.append(("accepted", outlined(image, accepted, "accepted")))
    last = image if truth is None else outlined(image, truth, "truth")
    title = "prediction" if truth is None else "prediction (truth in white)"
    panels.append((title, outlined(last, final, "prediction")))
    zoom = -(-LEGIBLE // image.shape[1])
    height, width = (n * zoom for n in image.shape[:2])
    font = ImageFont.load_default(size=max(12, width // 36))  # legible when the sheet is scaled
    bar = 2 * max(12, width // 36)
    rows = -(-len(panels) // COLUMNS)
    size = (COLUMNS * (width + GAP) - GAP, rows * (height + bar + GAP) - GAP)
    sheet = Image.new("RGB", size, (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for i, (text, panel) in enumerate(panels):
        x, y = (i % COLUMNS) * (width + GAP), (i // COLUMNS) * (height + bar + GAP)
        colour = COLOURS.get(text.split(" (")[0], (230, 230, 230))
        draw.text((x + bar // 4, y + bar // 4), text, fill=colour, font=font)
        sheet.paste(Image.fromarray(panel.repeat(zoom, 0).repeat(zoom, 1)), (x, y + bar))
    with whole(path) as part:
        sheet.save(part)


def outlined(image: NDArray[np.uint8], label_map: LabelMap, kind: str) -> NDArray[np.uint8]:
    """A copy of the image with the instances' boundary pixels in the colour of ``kind``."""
    out = image.copy()
    out[boundaries(label_map)] = COLOURS[kind]
    return out
