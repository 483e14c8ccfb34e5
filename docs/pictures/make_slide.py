"""Draws ``slide.jpg`` of the README: a generated slide after ``coin-ray segment``.

``python docs/pictures/make_slide.py`` says how long the command took; a minute and a half of CPU.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from coin_ray.data.synthetic import generate_tile
from coin_ray.data.write import overlay

HERE = Path(__file__).parent
SIDE, CROP, GLASS, YELLOW = 3072, 320, 243, (255, 255, 0)
ZOOMED = ((900, 1300), (1900, 1700))
"""Corners (y, x) of what is shown at full resolution."""


def tissue() -> NDArray[np.uint8]:
    """A piece of tissue with an uneven edge on glass."""
    image, _ = generate_tile(4, SIDE, diameter=24, crowding=0.55)
    y, x = (np.mgrid[:SIDE, :SIDE] - SIDE / 2) / (SIDE / 2)
    rough = gaussian_filter(np.random.default_rng(1).normal(size=(SIDE // 16,) * 2), 8)
    rough = np.asarray(Image.fromarray(rough / rough.std()).resize((SIDE, SIDE)))
    inside = gaussian_filter((np.hypot(x, 1.15 * y) + 0.08 * rough < 0.8) * 1.0, 3)[..., None]
    return np.rint(image * inside + GLASS * (1 - inside)).astype(np.uint8)


def main(folder: Path) -> None:
    image, slide, out = tissue(), folder / "slide.tif", folder / "results"
    tifffile.imwrite(
        slide, image, photometric="rgb", tile=(512, 512), compression="zlib",
        resolution=(40_000, 40_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    started = time.perf_counter()
    asked = ["segment", str(slide), "--out", str(out), "--formats", "labels", "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "coin_ray.cli", *asked], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{(SIDE * 0.25 / 1000) ** 2:.2f} mm2 in {time.perf_counter() - started:.0f} s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of CPU"
    )
    label_map = tifffile.imread(out / "slide.labels.ome.tif").astype(np.int32)
    whole = Image.open(out / "slide.overlay.jpg").resize((2 * CROP, 2 * CROP), Image.Resampling.BOX)
    shown = Image.new("RGB", (3 * CROP + 8, 2 * CROP), "white")
    shown.paste(whole, (0, 0))
    for i, (y, x) in enumerate(ZOOMED):
        part = (slice(y, y + CROP), slice(x, x + CROP))
        drawn = overlay(image[part], label_map[part], color=YELLOW)
        shown.paste(Image.fromarray(drawn), (2 * CROP + 8, i * CROP))
    shown.save(HERE / "slide.jpg", quality=88)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
