"""One training crop after the other in NumPy and Pillow: what batches on a device are held to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.distillation.settings import Student
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
    student: Student,
    contours: BoolArray | None = None,
) -> tuple[Image, BoolArray, BoolArray, BoolArray]:
    """Image crop (c, c, 3) uint8, foreground, edge and ignore (c, c) bool, all from ``rng``.

    Random rescale, uniform in ``scale`` (bicubic, labels nearest), both flips with probability .5,
    quarter turns with ``rotate``, stain jitter (standard deviation of the HED gain), colour jitter
    with probability .5 (brightness, contrast, saturation uniform in 1 +- ``color_jitter``, hue
    rotated by up to ``hue_jitter`` turns). Up to four windows are drawn until one holds a labelled
    nucleus: on sparse tissue most windows hold none and teach nothing about Dice. A rescaled image
    smaller than the crop is placed at random, and the rest is ignored. The edge target is cut out
    of ``contours`` (H, W), or is the boundary of the resampled label map, which is one pixel wide
    at every scale.
    """
    crop, factor = student.crop, rng.uniform(*student.scale)
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
    layers: list[NDArray] = [
        picture,
        pseudo.label_map[window][nearest],
        pseudo.ignore[window][nearest],
    ]
    if contours is not None:
        layers.append(_resize_lines(contours[window], new_h, new_w))
    if (new_h, new_w) != (crop, crop):
        layers = _pad(layers, crop, rng)
    turns = int(rng.integers(4)) if student.rotate else 0
    flips = rng.random(2) < 0.5
    picture, labels, ignore, *lines = (_turn(a, turns, flips) for a in layers)
    if student.stain_jitter > 0:
        picture = jitter_stain(picture, rng, sigma=student.stain_jitter)
    if (student.color_jitter > 0 or student.hue_jitter > 0) and rng.random() < 0.5:
        picture = _jitter_colour(picture, rng, student.color_jitter, student.hue_jitter)
    return picture, labels > 0, lines[0] if lines else edge_target(labels), ignore


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)


def _resize(image: Image, height: int, width: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Pillow.Resampling.BICUBIC))


def _resize_lines(lines: BoolArray, height: int, width: int) -> BoolArray:
    """Nearest pixels, and every line pixel where it lands: no line tears when it shrinks."""
    old_h, old_w = lines.shape
    out = lines[np.ix_(_nearest(old_h, height), _nearest(old_w, width))]
    y, x = np.nonzero(lines)
    out[(2 * y + 1) * height // (2 * old_h), (2 * x + 1) * width // (2 * old_w)] = True
    return out


def _pad(layers: list[NDArray], crop: int, rng: np.random.Generator) -> list[NDArray]:
    """Picture, labels, ignore and perhaps contours at one random place of the crop."""
    height, width = layers[0].shape[:2]
    y, x = int(rng.integers(crop - height + 1)), int(rng.integers(crop - width + 1))
    out = []
    for layer, beyond in zip(layers, (_PAD, 0, True, False), strict=False):
        padded = np.empty((crop, crop, *layer.shape[2:]), dtype=layer.dtype)
        padded[:] = beyond
        padded[y : y + height, x : x + width] = layer
        out.append(padded)
    return out


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
