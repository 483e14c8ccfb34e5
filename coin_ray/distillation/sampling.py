"""Which crop a step trains on, and all that is random about it: set by (seed, round, step, index),
whatever the worker count and the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coin_ray.distillation.settings import Student
from coin_ray.imaging.stain import draw_stain
from coin_ray.labels import LabelMap
from coin_ray.training.draws import generator, torch_seed

# Separates the streams that share (seed, round): crops, image order, network noise.
_CROP, _ORDER, _TORCH = 0, 1, 2
_TRIES = 4  # windows drawn before one without any labelled nucleus is taken
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=np.float32
)
Place = tuple[int, int]
"""The seed and the round."""


@dataclass(frozen=True)
class Crop:
    """All that is drawn of one crop; no pixel has been read for it but the labels' of its window.

    The window (``y``, ``x``, ``height``, ``width``) of an ``image`` is resampled to ``size``, lies
    at ``place`` of the crop; its axes are then ``swapped``, and run the ``ways`` 1 or -1.
    ``stain``: as of :func:`coin_ray.imaging.stain.draw_stain`. ``colour`` (6, 3): a colour times
    its first three rows, and the crop's mean colour times the others, are the new one.
    """

    image: int
    y: int
    x: int
    height: int
    width: int
    size: tuple[int, int]
    place: tuple[int, int]
    swapped: bool
    ways: tuple[int, int]
    stain: NDArray[np.float32] | None
    colour: NDArray[np.float64] | None


def crop_generator(place: Place, step: int, index: int) -> np.random.Generator:
    """Generator of one crop, ``index`` in the global batch."""
    return generator(_CROP, *place, step, index)


def image_index(place: Place, position: int, n_images: int) -> int:
    """Image of a round's ``position``-th crop: shuffled passes, so every image counts alike."""
    lap, index = divmod(position, n_images)
    return int(generator(_ORDER, *place, lap).permutation(n_images)[index])


def network_seed(place: Place, step: int, rank: int) -> int:
    """Seed of torch's generator (initial weights at step -1, dropout at a step)."""
    return torch_seed(_TORCH, *place, step + 1, rank)


def draw_crops(
    label_maps: Sequence[LabelMap],
    student: Student,
    place: Place,
    step: int,
    share: Iterable[int],
) -> list[Crop]:
    """The ``share`` (indices) of a step's global batch: its union over the workers is the same for
    every number of them."""
    crops = []
    for index in share:
        image = image_index(place, step * student.batch + index, len(label_maps))
        rng = crop_generator(place, step, index)
        crops.append(draw_crop(image, label_maps[image], rng, student))
    return crops


def draw_crop(image: int, label_map: LabelMap, rng: np.random.Generator, student: Student) -> Crop:
    """One crop of an ``image`` with this ``label_map``.

    Random rescale, uniform in ``scale``, both flips with probability .5, quarter turns with
    ``rotate``, stain jitter (standard deviation of the HED gain), colour jitter with probability
    .5 (brightness, contrast, saturation uniform in 1 +- ``color_jitter``, hue rotated by up to
    ``hue_jitter`` turns). Up to four windows are drawn until one holds a labelled nucleus: on
    sparse tissue most windows hold none and teach nothing about Dice. A rescaled image smaller than
    the crop is placed at random.
    """
    crop, factor = student.crop, rng.uniform(*student.scale)
    height, width = label_map.shape
    side = max(1, round(crop / factor))
    window_h, window_w = min(side, height), min(side, width)
    for _ in range(_TRIES):
        y = int(rng.integers(height - window_h + 1))
        x = int(rng.integers(width - window_w + 1))
        if label_map[y : y + window_h, x : x + window_w].any():
            break
    # A side that was cut off by the image keeps its scale; a full one fills the crop exactly.
    new_h = crop if window_h == side else min(crop, max(1, round(window_h * factor)))
    new_w = crop if window_w == side else min(crop, max(1, round(window_w * factor)))
    place = (0, 0)
    if (new_h, new_w) != (crop, crop):
        place = (int(rng.integers(crop - new_h + 1)), int(rng.integers(crop - new_w + 1)))
    turns = int(rng.integers(4)) if student.rotate else 0
    # A quarter turn is a swap of the axes and the first one turned round.
    flips = (rng.random(2) < 0.5) ^ np.array([turns in (1, 2), turns in (2, 3)])
    ways = (-1 if flips[0] else 1, -1 if flips[1] else 1)
    stain = draw_stain(rng, sigma=student.stain_jitter) if student.stain_jitter > 0 else None
    colour = None
    if (student.color_jitter > 0 or student.hue_jitter > 0) and rng.random() < 0.5:
        colour = _draw_colour(rng, student.color_jitter, student.hue_jitter)
    return Crop(
        image, y, x, window_h, window_w, (new_h, new_w), place,
        bool(turns % 2), ways, stain, colour,
    )  # fmt: skip


def _draw_colour(rng: np.random.Generator, strength: float, hue: float) -> NDArray[np.float64]:
    brightness, contrast, saturation = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=3)
    angle = 2 * np.pi * rng.uniform(-hue, hue)
    # Saturation and hue act on the chroma plane of YIQ: one 3x3 matrix for both.
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=np.float32)
    matrix = (np.linalg.inv(_YIQ) @ chroma @ _YIQ).T.astype(np.float32).astype(np.float64)
    # Contrast is about the crop's mean luma, which is grey.
    grey = np.outer(brightness * _LUMA, (1 - contrast) * matrix.sum(axis=0))
    return np.concatenate([brightness * contrast * matrix, grey])
