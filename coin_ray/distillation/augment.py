"""One random training crop of an image with its targets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.distillation.targets import PseudoLabels, edge_target
from coin_ray.imaging.stain import jitter_stain
from coin_ray.labels import BoolArray

Image = NDArray[np.uint8]
_TRIES = 4  # windows drawn before one without any labelled nucleus is taken
_PAD = (124, 116, 104)  # ImageNet mean: zero after normalisation
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=np.float32
)


def sample_crop(
    image: Image,
    pseudo: PseudoLabels,
    rng: np.random.Generator,
    *,
    crop: int,
    scale: tuple[float, float],
    rotate: bool,
    color_jitter: float,
    stain_jitter: float,
    hue_jitter: float = 0.0,
) -> tuple[Image, BoolArray, BoolArray, BoolArray]:
    """Image crop (c, c, 3) uint8, foreground, edge and ignore (c, c) bool, all from ``rng``.

    Random rescale, uniform in ``scale`` (bicubic, labels nearest), both flips with probability .5,
    quarter turns with ``rotate``, stain jitter (standard deviation of the HED gain), colour jitter
    with probability .5 (brightness, contrast, saturation uniform in 1 +- ``color_jitter``, hue
    rotated by up to ``hue_jitter`` turns). Up to four windows are drawn until one holds a labelled
    nucleus: on sparse tissue most windows hold none and teach nothing about Dice. A rescaled image
    smaller than the crop is placed at random, and the rest is ignored. The edge target is taken on
    the resampled label map: a resampled contour would be torn when shrinking and thick when
    growing.
    """
    factor = rng.uniform(*scale)
    height, width = pseudo.label_map.shape
    side = max(1, round(crop / factor))
    window_h, window_w = min(side, height), min(side, width)
    for _ in range(_TRIES):
        y = int(rng.integers(height - window_h + 1))
        x = int(rng.integers(width - window_w + 1))
        window = (slice(y, y + window_h), slice(x, x + window_w))
        if pseudo.label_map[window].any():
            break
    # A side that was cut off by the image keeps its scale; a full one fills the crop exactly.
    new_h = crop if window_h == side else min(crop, max(1, round(window_h * factor)))
    new_w = crop if window_w == side else min(crop, max(1, round(window_w * factor)))
    picture = _resize(image[window], new_h, new_w)
    nearest = np.ix_(_nearest(window_h, new_h), _nearest(window_w, new_w))
    labels, ignore = pseudo.label_map[window][nearest], pseudo.ignore[window][nearest]
    if (new_h, new_w) != (crop, crop):
        picture, labels, ignore = _pad(picture, labels, ignore, crop, rng)
    turns = int(rng.integers(4)) if rotate else 0
    flips = rng.random(2) < 0.5
    picture, labels, ignore = (_turn(a, turns, flips) for a in (picture, labels, ignore))
    if stain_jitter > 0:
        picture = jitter_stain(picture, rng, sigma=stain_jitter)
    if (color_jitter > 0 or hue_jitter > 0) and rng.random() < 0.5:
        picture = _jitter_colour(picture, rng, color_jitter, hue_jitter)
    return picture, labels > 0, edge_target(labels), ignore


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)


def _resize(image: Image, height: int, width: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Pillow.Resampling.BICUBIC))


def _pad(
    picture: Image,
    labels: NDArray[np.int32],
    ignore: BoolArray,
    crop: int,
    rng: np.random.Generator,
) -> tuple[Image, NDArray[np.int32], BoolArray]:
    height, width = labels.shape
    y, x = int(rng.integers(crop - height + 1)), int(rng.integers(crop - width + 1))
    place = (slice(y, y + height), slice(x, x + width))
    out = np.empty((crop, crop, 3), dtype=np.uint8)
    out[:] = _PAD
    new_labels = np.zeros((crop, crop), dtype=labels.dtype)
    new_ignore = np.ones((crop, crop), dtype=bool)
    out[place], new_labels[place], new_ignore[place] = picture, labels, ignore
    return out, new_labels, new_ignore


def _turn(array: NDArray, turns: int, flips: NDArray[np.bool_]) -> NDArray:
    array = np.rot90(array, turns)
    if flips[0]:
        array = array[::-1]
    if flips[1]:
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _jitter_colour(image: Image, rng: np.random.Generator, strength: float, hue: float) -> Image:
    brightness, contrast, saturation = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=3)
    angle = 2 * np.pi * rng.uniform(-hue, hue)
    x = image.astype(np.float32) * brightness
    mean = float((x @ _LUMA).mean())
    # Saturation and hue act on the chroma plane of YIQ: one 3x3 matrix for both.
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=np.float32)
    matrix = np.linalg.inv(_YIQ) @ chroma @ _YIQ
    x = (mean + (x - mean) * contrast) @ matrix.T.astype(np.float32)
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)
