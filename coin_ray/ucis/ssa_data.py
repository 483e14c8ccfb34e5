"""What SSA looks at: stain-normalised images at 40x, 20x and 10x, and random crops of them.

The 20x and 10x images are the 40x ones down-sampled by 2 and 4, since image tiles have no pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coin_ray.errors import UserError
from coin_ray.imaging.stain import MIN_TISSUE, TISSUE_OD, jitter_stain, optical_density
from coin_ray.labels import BoolArray

Image = NDArray[np.uint8]
Statistics = NDArray[np.float32]  # (2, 3): mean and deviation of L, a, b

COVER = 0.9  # share of tissue that a crop should have
_MAX_GAIN = 3.0  # of the deviation of a, b, L: noise on plain ground is no stain
_TRIES = 8  # windows drawn before the one with the most tissue is taken


class Level(NamedTuple):
    """An image at one magnification, (H, W, 3) uint8, and where it has tissue, (H, W) bool."""

    image: Image
    tissue: BoolArray


def tissue_of(image: Image) -> BoolArray:
    """Pixels with a mean optical density above that of empty glass; (H, W) bool."""
    return optical_density(image).mean(axis=2) > TISSUE_OD


def has_tissue(image: Image) -> bool:
    """Whether enough pixels are tissue to say anything of its stain."""
    return int(tissue_of(image).sum()) >= min(MIN_TISSUE, image.shape[0] * image.shape[1])


def check_tissue(images: Sequence[Image]) -> None:
    """UserError if none of the images has tissue."""
    if not any(map(has_tissue, images)):
        raise UserError(
            "there is no tissue to train on", found=f"{len(images)} images without tissue",
            do="check the training data",
        )  # fmt: skip


def at_reference(images: Sequence[Image], scales: Sequence[float] | None) -> list[Image]:
    """The images at 0.25 um/px, from their ``scales`` 0.25 / mpp (all 1 if left out)."""
    factors = scales or [1.0] * len(images)
    return [
        image if scale == 1 else resize(image, 1 / scale)
        for image, scale in zip(images, factors, strict=True)
    ]


def _lab(image: Image) -> NDArray[np.float32]:
    """CIELAB with the brightness cut at its 90th percentile.

    The publication scales that percentile to white; the scale cancels out when the deviation is
    matched, the cut remains.
    """
    from skimage.color import rgb2lab

    lab = rgb2lab(image).astype(np.float32)
    lab[..., 0] = np.minimum(lab[..., 0], np.percentile(lab[..., 0], 90))
    return lab


def stain_statistics(image: Image) -> Statistics:
    """(2, 3) float32 mean and deviation of L, a and b over the tissue of an image with some."""
    values = _lab(image)[tissue_of(image)]
    return np.stack([values.mean(axis=0), values.std(axis=0)])


def match_stain(image: Image, target: Statistics) -> Image:
    """Stain normalisation of Reinhard et al., IEEE CG&A 21 (2001): each of L, a, b shifted and
    scaled so that the tissue has the mean and deviation ``target`` (2, 3), by at most 3 times.

    (H, W, 3) uint8 with some tissue -> same.
    """
    from skimage.color import lab2rgb

    mean, deviation = stain_statistics(image)
    gain = np.minimum(target[1] / np.maximum(deviation, 1e-3), _MAX_GAIN)
    lab = (_lab(image) - mean) * gain + target[0]
    lab[..., 0] = np.clip(lab[..., 0], 0, 100)
    return np.rint(255 * np.clip(lab2rgb(lab), 0, 1)).astype(np.uint8)


def resize(image: Image, factor: float) -> Image:
    """The image with its sides multiplied by ``factor``, at least 1 px; antialiased bicubic."""
    from PIL import Image as Pillow

    size = [max(1, round(side * factor)) for side in (image.shape[1], image.shape[0])]
    return np.array(Pillow.fromarray(image).resize((size[0], size[1]), Pillow.Resampling.BICUBIC))


def pyramid(image: Image, target: Statistics) -> list[Level]:
    """The 40x, 20x and 10x version of a 40x image, stain-normalised to ``target``."""
    tissue, matched = tissue_of(image), match_stain(image, target)
    levels = [Level(matched, tissue)]
    for factor in (2, 4):
        small = _area_mean(matched, factor)
        levels.append(Level(small, tissue[::factor, ::factor]))
    return levels


def _area_mean(image: Image, factor: int) -> Image:
    from PIL import Image as Pillow

    return np.asarray(Pillow.fromarray(image).reduce(factor))


def prepare(
    images: Sequence[Image], scales: Sequence[float] | None
) -> tuple[list[list[Level]], Statistics]:
    """The three magnifications of every image with tissue, all in one stain: their median."""
    fine = at_reference(images, scales)
    check_tissue(fine)
    fine = [image for image in fine if has_tissue(image)]
    target = np.median([stain_statistics(image) for image in fine], axis=0).astype(np.float32)
    return [pyramid(image, target) for image in fine], target


def draw_crop(
    images: Sequence[list[Level]], rng: np.random.Generator, *, level: int, crop: int, jitter: float
) -> Image:
    """(crop, crop, 3) uint8: a random window of a random image at ``level`` 0 (40x) to 2 (10x).

    Windows are drawn again while less than 90 % of them is tissue (of eight, the best is taken).
    Sides shorter than the crop are mirrored. Random flips and quarter turns; HED jitter with gains
    of deviation ``jitter``.
    """
    source = images[int(rng.integers(len(images)))][level]
    height, width = source.tissue.shape
    best, cover = (0, 0), -1.0
    for _ in range(_TRIES):
        y, x = (int(rng.integers(max(side - crop, 0) + 1)) for side in (height, width))
        share = float(source.tissue[y : y + crop, x : x + crop].mean())
        if share > cover:
            best, cover = (y, x), share
        if cover >= COVER:
            break
    window = source.image[best[0] : best[0] + crop, best[1] : best[1] + crop]
    missing = [(0, crop - side) for side in window.shape[:2]]
    window = np.pad(window, (*missing, (0, 0)), mode="symmetric")
    window = np.rot90(window, int(rng.integers(4)))
    if rng.random() < 0.5:
        window = window[:, ::-1]
    return jitter_stain(np.ascontiguousarray(window), rng, sigma=jitter)
