"""The nuclei of a generated tile: where they lie, their outline, and how they take up the dye."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.synthetic_tissue import FloatMap, smooth_noise


@dataclass(frozen=True)
class Kind:
    """How one kind of nucleus looks; pairs are ranges that a nucleus draws from.

    ``size`` scales the tile's mean diameter, ``aspect`` is short over long axis, ``density`` the
    hematoxylin of the body, ``rim`` the extra of the membrane, ``pale`` how much the centre lacks,
    ``texture`` the chromatin contrast, ``nucleoli`` the largest number of them.
    """

    size: tuple[float, float]
    aspect: tuple[float, float]
    density: tuple[float, float]
    rim: tuple[float, float]
    pale: tuple[float, float]
    texture: tuple[float, float]
    nucleoli: int


KINDS = {
    "lymphocyte": Kind((0.7, 0.95), (0.8, 1.0), (1.2, 2.2), (0, 0.1), (0, 0.1), (0.05, 0.25), 0),
    "medium": Kind((0.85, 1.2), (0.65, 0.95), (0.75, 1.6), (0, 0.3), (0, 0.25), (0.1, 0.4), 1),
    "vesicular": Kind(
        (1.0, 1.45), (0.65, 1.0), (0.45, 0.9), (0.2, 0.6), (0.2, 0.6), (0.15, 0.45), 3
    ),
    "pale": Kind((0.9, 1.35), (0.6, 0.95), (0.35, 0.6), (0.05, 0.35), (0, 0.4), (0.2, 0.6), 2),
    "spindle": Kind((0.65, 1.1), (0.22, 0.5), (0.8, 1.8), (0, 0.2), (0, 0.2), (0.05, 0.3), 0),
}


def place(
    rng: np.random.Generator, wish: FloatMap, radius: float, count: int, gap: float
) -> NDArray[np.float64]:
    """(N <= count, 2) yx centres, more where ``wish`` (0 to 1) is high, ``gap`` x 2 radii apart."""
    size = wish.shape[0]
    tries = rng.uniform(-radius / 2, size + radius / 2, (count * 12, 2))
    y, x = np.clip(tries.astype(int), 0, size - 1).T
    tries = tries[rng.random(len(tries)) < wish[y, x]]
    apart = (2 * radius * gap * rng.uniform(0.75, 1.25, len(tries))) ** 2
    found = np.empty((count, 2))
    n = 0
    for yx, least in zip(tries, apart, strict=True):
        if n == count:
            break
        offset = found[:n] - yx
        if n and np.einsum("ij,ij->i", offset, offset).min() < least:
            continue
        found[n] = yx
        n += 1
    return found[:n]


def outline(
    rng: np.random.Generator,
    height: FloatMap,
    width: FloatMap,
    radius: float,
    aspect: float,
    angle: float,
    rough: float,
) -> FloatMap:
    """Distance from the centre, 1 = on the outline, at the offsets (height, width)."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = width * cos + height * sin
    v = height * cos - width * sin
    long, short = np.float32(radius / np.sqrt(aspect)), np.float32(radius * np.sqrt(aspect))
    bend = rng.normal(0, 0.18) * (1 - aspect)  # spindles are often curved
    v = v + np.float32(bend / long) * (u * u)
    plane = u / long + 1j * (v / short)
    distance = np.abs(plane)
    # Ripples cos(k phi + shift), k = 2 to 5, as powers of the unit complex number.
    turn = plane / np.maximum(distance, 1e-6)
    power, ripple = turn, np.ones_like(distance)
    for k in (2, 3, 4, 5):
        power = power * turn
        weight = rng.normal(0, rough / k) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        ripple += (np.complex64(weight) * power).real
    return (distance / np.maximum(ripple, 0.5)).astype(np.float32)


class Chromatin:
    """Coarse and fine texture maps of a tile, and clumps of a varied one; each nucleus reads its
    own place of them."""

    def __init__(self, rng: np.random.Generator, size: int, *, varied: bool = False) -> None:
        self.coarse = smooth_noise(rng, size + 96, rng.uniform(3.0, 6.0))
        self.fine = smooth_noise(rng, size + 96, rng.uniform(1.5, 2.5))
        self.clumps = smooth_noise(rng, size + 96, rng.uniform(6.0, 12.0)) if varied else None

    def read(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatMap:
        h, w = shape
        y = rng.integers(0, self.coarse.shape[0] - h + 1)
        x = rng.integers(0, self.coarse.shape[1] - w + 1)
        found = 0.6 * self.coarse[y : y + h, x : x + w] + 0.3 * self.fine[y : y + h, x : x + w]
        if self.clumps is not None:
            found = found + rng.uniform(0, 2.5) * self.clumps[y : y + h, x : x + w]
        return found


@dataclass(frozen=True)
class Canvas:
    """What nuclei are painted on: densities of a tile, ``white`` (1 = empty glass), their ids."""

    hematoxylin: FloatMap
    eosin: FloatMap
    white: FloatMap
    label_map: NDArray[np.int32]
    chromatin: Chromatin


def _uneven(rng: np.random.Generator, height: FloatMap, width: FloatMap) -> FloatMap:
    """What a nucleus has more of the dye at one side, and in large nucleoli; offsets in short
    radii."""
    lean = rng.normal(0, 0.2, 2)
    more = lean[0] * height + lean[1] * width
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.6, 0.2, 0.1, 0.1]))):
        at, radius = rng.normal(0, 0.3, 2), rng.uniform(0.1, 0.3)
        spot = ((height - at[0]) ** 2 + (width - at[1]) ** 2) / radius**2
        more = more + rng.uniform(0.4, 1.6) * np.exp(-(spot**2))
    return more.astype(np.float32)


@dataclass(frozen=True)
class Look:
    """What nuclei of a tile have in common: mean ``diameter``, ``tone`` that scales the
    hematoxylin, ``soft``, the width of an edge in px, ``cytoplasm``, how far the cell body reaches
    in px and the hematoxylin and eosin that it adds; ``varied`` ones are ragged, unevenly filled
    and may have large nucleoli."""

    diameter: float
    tone: float
    soft: float
    cytoplasm: tuple[float, float, float] = (0, 0, 0)
    varied: bool = False


def draw(
    rng: np.random.Generator,
    canvas: Canvas,
    kind: Kind,
    centre: NDArray[np.float64],
    angle: float,
    look: Look,
    index: int = 0,
) -> None:
    """Paint one nucleus, in place."""
    hematoxylin, eosin, white = canvas.hematoxylin, canvas.eosin, canvas.white
    label_map, chromatin, cytoplasm = canvas.label_map, canvas.chromatin, look.cytoplasm
    size = label_map.shape[0]
    radius = 0.5 * look.diameter * rng.uniform(*kind.size)
    aspect = rng.uniform(*kind.aspect)
    reach = int(np.ceil(1.3 * radius / np.sqrt(aspect) + 1.4 * cytoplasm[0])) + 3
    y0, y1 = int(max(0, centre[0] - reach)), int(min(size, centre[0] + reach + 1))
    x0, x1 = int(max(0, centre[1] - reach)), int(min(size, centre[1] + reach + 1))
    if y1 - y0 < 2 or x1 - x0 < 2:
        return
    box = np.s_[y0:y1, x0:x1]
    height = (np.arange(y0, y1)[:, None] - centre[0]).astype(np.float32)
    width = (np.arange(x0, x1)[None] - centre[1]).astype(np.float32)
    rough = rng.uniform(0.01, 0.2 if look.varied else 0.1)
    r = outline(rng, height, width, radius, aspect, angle, rough)
    short = float(radius * np.sqrt(aspect))
    alpha = np.clip((1 - r) * short / look.soft + 0.5, 0, 1).astype(np.float32)
    density = rng.uniform(*kind.density) * look.tone
    body = 1 - rng.uniform(*kind.pale) * np.clip(1.15 - r, 0, 1) * 1.1
    rim_width = max(0.12, 1.2 / short)
    body += rng.uniform(*kind.rim) * np.exp(-(((r - 0.95 + rim_width / 2) / rim_width) ** 2))
    body += rng.uniform(*kind.texture) * chromatin.read(rng, r.shape)
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        at = rng.normal(0, 0.35, 2) * short
        spot = np.hypot(height - at[0], width - at[1]) / rng.uniform(1.0, 2.2)
        body += rng.uniform(0.3, 1.0) * np.exp(-(spot**2)) / max(0.5, density)
    if look.varied:
        body += _uneven(rng, height / short, width / short) / max(0.5, density)
    stain = np.clip(density * body, 0.05, 3.5)
    below = np.where(label_map[box] > 0, rng.uniform(0.0, 0.45), 0.8) * hematoxylin[box]
    if cytoplasm[0] > 0:
        across = (r - 1) * short / (aspect * cytoplasm[0]) + 0.2 * chromatin.read(rng, r.shape)
        cell = np.clip(1 - across, 0, 1) ** 0.7
        hematoxylin[box] += cell * cytoplasm[1] * (label_map[box] == 0)
        eosin[box] += cell * cytoplasm[2] * (label_map[box] == 0)
        white[box] *= 1 - cell
    if rng.random() < 0.15:  # cytoplasm that shrank away leaves a bright ring
        halo = (
            rng.uniform(0.2, 0.6)
            * np.exp(-(((r - 1.12) * short / 1.6) ** 2))
            * (label_map[box] == 0)
        )
        hematoxylin[box] *= 1 - halo
        eosin[box] *= 1 - halo
    hematoxylin[box] = hematoxylin[box] * (1 - alpha) + alpha * (stain + below)
    eosin[box] *= 1 - alpha * rng.uniform(0.0, 0.5)
    label_map[box][r <= 1] = index
