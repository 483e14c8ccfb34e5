"""What lies around the nuclei of a generated tile: noise, stroma, cytoplasm, lumen, stain and
optics.

Everything before :func:`colour` is a density map (concentration of a dye, 0 = none), so that the
same tissue can be stained in any way (Beer-Lambert).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatMap = NDArray[np.float32]

# Directions in optical density (R, G, B): published vectors of Ruifrok and Macenko and, around
# them, the bluish, purple, pink and orange dyes that laboratories differ in.
HEMATOXYLIN = np.array(
    [[0.65, 0.70, 0.29], [0.56, 0.72, 0.41], [0.68, 0.62, 0.38], [0.48, 0.78, 0.36]]
)
EOSIN = np.array([[0.07, 0.99, 0.11], [0.22, 0.80, 0.56], [0.12, 0.66, 0.74], [0.16, 0.90, 0.36]])


def smooth_noise(rng: np.random.Generator, size: int, cell: float) -> FloatMap:
    """(size, size) float32 noise of about unit variance whose features are ``cell`` px wide."""
    n = int(np.ceil(size / cell)) + 3
    small = Image.fromarray(rng.standard_normal((n, n)).astype(np.float32))
    span = max(2.0, size / cell)
    y, x = rng.uniform(0.0, n - span, 2) if n > span else (0.0, 0.0)
    box = (float(x), float(y), float(x + span), float(y + span))
    noise = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return (noise / 0.7).astype(np.float32)


def fractal(
    rng: np.random.Generator, size: int, cells: tuple[float, ...], fall: float = 0.6
) -> FloatMap:
    """Sum of :func:`smooth_noise` over ``cells``, coarse first, each ``fall`` times the last."""
    weights = fall ** np.arange(len(cells))
    total = sum(w * smooth_noise(rng, size, c) for w, c in zip(weights, cells, strict=True))
    return (total / np.sqrt((weights**2).sum())).astype(np.float32)


def share_mask(field: FloatMap, share: float, soft: float) -> FloatMap:
    """Soft mask in [0, 1] of the ``share`` highest pixels of a field; ``soft`` is its ramp."""
    if share <= 0:
        return np.zeros_like(field)
    cut = np.quantile(field[::4, ::4], 1.0 - share)
    return np.clip((field - cut) / soft + 0.5, 0.0, 1.0).astype(np.float32)


def fibres(rng: np.random.Generator, size: int, angle: float) -> tuple[FloatMap, FloatMap]:
    """Wavy collagen: density in [0, 1] and its local direction (radians, along the fibre)."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    wave = rng.uniform(3, 14) * smooth_noise(rng, size, rng.uniform(30, 90))
    wave += rng.uniform(0.5, 2.5) * smooth_noise(rng, size, rng.uniform(10, 20))
    across = x * -np.sin(angle) + y * np.cos(angle) + wave
    gy, gx = np.gradient(across)
    strands = np.zeros((size, size), np.float32)
    for width, weight in ((rng.uniform(6, 14), 1.0), (rng.uniform(2.5, 5), rng.uniform(0.4, 1.0))):
        profile = rng.standard_normal(int(np.ptp(across) / width) + 3)
        knots = across.min() + width * np.arange(len(profile))
        drift = width * smooth_noise(rng, size, 40)  # strands start and end
        strands += weight * np.interp(across + drift, knots, profile).astype(np.float32)
    strands = 1 / (1 + np.exp(-1.5 * strands))
    return strands.astype(np.float32), np.arctan2(-gx, gy).astype(np.float32)


def discs(rng: np.random.Generator, size: int, count: int, low: float, high: float) -> FloatMap:
    """Soft union in [0, 1] of ``count`` irregular discs with radii in [low, high] px."""
    out = np.zeros((size, size), np.float32)
    for _ in range(count):
        radius = rng.uniform(low, high)
        cy, cx = rng.uniform(-radius / 2, size + radius / 2, 2)
        y0, y1 = int(max(0, cy - radius - 3)), int(min(size, cy + radius + 4))
        x0, x1 = int(max(0, cx - radius - 3)), int(min(size, cx + radius + 4))
        if y1 <= y0 or x1 <= x0:
            continue
        y, x = np.ogrid[y0:y1, x0:x1]
        turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.75, 1.0)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
        disc = np.clip(radius - np.hypot(u, v / squeeze), 0, 1)
        np.maximum(out[y0:y1, x0:x1], disc, out=out[y0:y1, x0:x1])
    return out


def colour(
    rng: np.random.Generator, hematoxylin: FloatMap, eosin: FloatMap, white: FloatMap
) -> NDArray[np.float64]:
    """Beer-Lambert colours in [0, 255] (H, W, 3) of two densities under random dyes.

    ``white`` in [0, 1] scales both densities down (1 = empty glass).
    """
    directions = []
    for table in (HEMATOXYLIN, EOSIN):
        mix = rng.dirichlet(np.full(len(table), 0.7)) @ table + rng.normal(0, 0.04, 3)
        mix = np.clip(mix, 0.03, None)
        directions.append(mix / np.linalg.norm(mix))
    # Thick or over-stained sections also absorb in every band.
    directions[0] = directions[0] + rng.uniform(0, 0.1)
    glass = np.array([1, 1, 1]) * rng.uniform(0.88, 0.99) + rng.normal(0, 0.012, 3)
    keep = (1 - white)[..., None]
    density = hematoxylin[..., None] * directions[0] + eosin[..., None] * directions[1]
    return 255 * np.clip(glass, 0.8, 1.0) * np.exp(-density * keep)


def optics(rng: np.random.Generator, picture: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Focus blur, scanner sharpening, sensor noise and JPEG blocks: (H, W, 3) -> uint8."""
    from scipy.ndimage import gaussian_filter

    sigma = rng.choice([rng.uniform(0.2, 0.7), rng.uniform(0.7, 1.6)], p=[0.6, 0.4])
    out = gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0))
    if rng.random() < 0.4:
        soft = gaussian_filter(out, (1.5, 1.5, 0))
        out += rng.uniform(0.3, 1.2) * (out - soft)
    grain = rng.standard_normal((*out.shape[:2], 3), dtype=np.float32)
    if rng.random() < 0.5:
        grain = gaussian_filter(grain, (0.7, 0.7, 0)) * 2.4
    out += rng.uniform(0.5, 5.0) * grain
    image = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(rng.integers(45, 96)))
        image = np.array(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    return image
