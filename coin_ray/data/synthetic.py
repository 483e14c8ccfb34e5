"""Synthetic H&E tiles with the instance map of their nuclei, as a pure function of a seed.

The picture is built as dye densities (tissue, then nuclei painted one over the other), stained by
Beer-Lambert with random dyes and passed through simple optics. Diameters are those of nuclei at
0.25 um/px. Nothing is copied from real images.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coin_ray.data import synthetic_nuclei as nuclei
from coin_ray.data import synthetic_tissue as tissue
from coin_ray.errors import UserError
from coin_ray.files import SCRATCH, whole, write_text
from coin_ray.labels import relabel

if TYPE_CHECKING:
    from coin_ray.data.sample import Sample

VERSION = 1  # of the pictures: raise it when a seed gives another tile
SMALLEST = 24  # px an instance must show, else it is painted as debris and not labelled


def generate_tile(
    seed: int,
    size: int = 256,
    *,
    diameter: float | None = None,
    crowding: float | None = None,
    varied: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """One tile: image (size, size, 3) uint8 and its label map (size, size) int32, ids contiguous.

    ``diameter`` is the mean diameter in px (default: log-uniform in 14 to 34), ``crowding`` in [0,
    1] goes from a few nuclei to overlapping ones everywhere (default: random). ``varied``: with
    nuclei that are unevenly filled, large nucleoli and borders of cells. Same arguments, same tile.
    """
    if size < 32:
        raise UserError(
            "generated tiles need room for a nucleus", expected="size >= 32", found=str(size)
        )
    rng = np.random.default_rng([VERSION, seed, size])
    drawn = float(np.exp(rng.uniform(np.log(14), np.log(34))))
    diameter = drawn if diameter is None else float(diameter)
    level = rng.beta(1.1, 0.9)
    crowding = level if crowding is None else float(crowding)

    stroma = tissue.share_mask(
        tissue.smooth_noise(rng, size, rng.uniform(60, 160)), rng.choice([0, 0.3, 0.6, 1.0]), 0.5
    )
    lumen = rng.choice([0.0, rng.uniform(0.02, 0.2), rng.uniform(0.2, 0.65)], p=[0.35, 0.4, 0.25])
    white = tissue.share_mask(
        tissue.fractal(rng, size, (rng.uniform(40, 120), 16.0, 6.0), 0.45),
        lumen,
        rng.uniform(0.1, 0.5),
    )
    hematoxylin, eosin, direction = _ground(rng, size, stroma)
    if rng.random() < 0.3:
        white = np.maximum(white, tissue.discs(rng, size, int(rng.integers(2, 40)), 2, 9))

    label_map = np.zeros((size, size), np.int32)
    chromatin = nuclei.Chromatin(rng, size, varied=varied)
    canvas = nuclei.Canvas(hematoxylin, eosin, white, label_map, chromatin)
    _cells(rng, canvas, stroma, direction, diameter, crowding, varied=varied)
    ids, area = np.unique(label_map, return_counts=True)
    label_map[np.isin(label_map, ids[area < SMALLEST])] = 0
    image = tissue.optics(rng, tissue.colour(rng, hematoxylin, eosin, white))
    return image, relabel(label_map)


def _ground(
    rng: np.random.Generator, size: int, stroma: tissue.FloatMap
) -> tuple[tissue.FloatMap, tissue.FloatMap, tissue.FloatMap]:
    """Densities of the tissue without nuclei, and the direction of its fibres."""
    strands, direction = tissue.fibres(rng, size, rng.uniform(0, np.pi))
    grain = tissue.fractal(rng, size, (24.0, 9.0, 4.0, 2.0), 0.8)
    cloud = tissue.fractal(rng, size, (80.0, 30.0, 12.0), 0.7)
    strength = rng.uniform(0.12, 0.8)
    loose = strength * np.clip(0.75 + rng.uniform(0.15, 0.6) * grain + 0.3 * cloud, 0.05, None)
    contrast = rng.uniform(0.1, 0.7)
    dense = (
        strength
        * rng.uniform(0.7, 1.4)
        * (1 - contrast + contrast * strands + rng.uniform(0.05, 0.25) * grain)
    )
    eosin = loose * (1 - stroma) + np.clip(dense, 0.03, None) * stroma
    haze = rng.choice([rng.uniform(0, 0.15), rng.uniform(0.15, 0.6)], p=[0.5, 0.5])
    basophil = haze * np.clip(0.8 + 0.4 * cloud + rng.uniform(0.1, 0.7) * grain, 0, None)
    hematoxylin = basophil * (1 - 0.6 * stroma) + 0.03
    if rng.random() < 0.25:  # red cells and dense pink matter: eosin without a nucleus
        red = tissue.discs(rng, size, int(rng.integers(1, 12)), 5, 11)
        eosin = eosin * (1 - red) + red * rng.uniform(0.5, 1.5)
        hematoxylin = hematoxylin * (1 - red)
    return hematoxylin.astype(np.float32), eosin.astype(np.float32), direction


def _cells(
    rng: np.random.Generator,
    canvas: nuclei.Canvas,
    stroma: tissue.FloatMap,
    direction: tissue.FloatMap,
    diameter: float,
    crowding: float,
    *,
    varied: bool,
) -> None:
    """Debris and out-of-focus shadows (unlabelled), then the nuclei, all painted in place."""
    size = stroma.shape[0]
    unlabelled = replace(canvas, label_map=np.zeros_like(canvas.label_map))
    tone, soft = rng.uniform(0.65, 1.5), rng.uniform(0.8, 2.2)
    for _ in range(rng.poisson(6 * (size / 256) ** 2)):
        at, small = rng.uniform(0, size, 2), rng.random() < 0.6
        kind = nuclei.KINDS["lymphocyte" if small else "pale"]
        angle = rng.uniform(0, np.pi)
        if small:
            look = nuclei.Look(rng.uniform(3, 6), tone, 1.5)
        else:
            look = nuclei.Look(diameter, 0.35 * tone, rng.uniform(5, 9))
        nuclei.draw(rng, unlabelled, kind, at, angle, look)
    patches = np.clip(0.5 + 0.45 * tissue.smooth_noise(rng, size, rng.uniform(40, 120)), 0.05, 1)
    uneven = rng.uniform(0, 1)
    wish = (
        (1 - uneven + uneven * patches)
        * (1 - rng.uniform(0.3, 0.8) * stroma)
        * (1 - 0.9 * canvas.white)
    )
    gap = 1.25 - 0.6 * crowding * rng.uniform(0.7, 1.0)
    count = int(np.ceil((0.06 + 0.94 * crowding) * (size / diameter) ** 2))
    centres = nuclei.place(rng, wish.astype(np.float32), diameter / 2, max(1, count), gap)
    if varied and len(centres) > 1:
        _borders(rng, canvas, centres, diameter)
    names = list(nuclei.KINDS)
    mix = rng.dirichlet(np.array([0.5, 0.9, 0.6, 0.4, 0.35]))
    swirl = rng.uniform(0, np.pi)
    body = (
        diameter * rng.uniform(0.1, 0.8),
        rng.choice([0.0, rng.uniform(0, 0.35)]),
        rng.uniform(0, 0.35),
    )
    for index, centre in enumerate(centres, start=1):
        y, x = np.clip(centre.astype(int), 0, size - 1)
        in_stroma = stroma[y, x] > 0.5
        name = "spindle" if in_stroma and rng.random() < 0.55 else str(rng.choice(names, p=mix))
        angle = direction[y, x] if in_stroma else swirl + rng.normal(0, 1.2)
        angle += rng.normal(0, 0.15)
        look = nuclei.Look(diameter, tone * rng.uniform(0.8, 1.2), soft, body, varied)
        nuclei.draw(rng, canvas, nuclei.KINDS[name], centre, angle, look, index)
    # A nucleus takes the dye wherever it lies: no glass inside it.
    canvas.white[canvas.label_map > 0] = 0


def _borders(
    rng: np.random.Generator,
    canvas: nuclei.Canvas,
    centres: NDArray[np.float64],
    diameter: float,
) -> None:
    """Where cells meet, half way between their nuclei: clefts of glass or membranes, around cells
    that are filled or empty."""
    from scipy.spatial import cKDTree

    size = canvas.white.shape[0]
    grid = np.indices((size, size)).reshape(2, -1).T
    near, far = cKDTree(centres).query(grid, k=2)[0].T.reshape(2, size, size)
    apart = far - near + rng.uniform(0, 4) * tissue.smooth_noise(rng, size, rng.uniform(8, 20))
    line = np.exp(-((apart / rng.uniform(1.0, 3.5)) ** 2))
    cell = np.clip(rng.uniform(1.0, 2.5) - near / diameter, 0, 1)  # no cell is larger
    if rng.random() < 0.4:
        canvas.white[:] = np.maximum(canvas.white, rng.uniform(0.3, 1) * line * cell)
    elif rng.random() < 0.7:
        canvas.eosin[:] += rng.uniform(0.1, 0.8) * line * cell
        canvas.hematoxylin[:] += rng.uniform(0, 0.4) * line * cell
    if rng.random() < 0.25:
        empty = rng.uniform(0.4, 1) * cell * (1 - line)
        canvas.white[:] = np.maximum(canvas.white, empty)


def generated_samples(
    folder: str | Path, count: int, size: int = 256, seed: int = 0
) -> list[Sample]:
    """``count`` tiles written once as ``image/*.png`` and ``label/*.png`` (uint16 ids) under
    ``folder``.

    A folder that already holds exactly this set is used as it is; one that holds another set raises
    ``UserError``. Every file is complete or absent, so an interrupted call can be repeated.
    """
    from coin_ray.data.sample import file_sample

    root = Path(folder)
    wanted = {"version": VERSION, "count": count, "size": size, "seed": seed}
    note = root / "generated.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != wanted:
        raise UserError(
            "the folder holds other generated tiles", where=str(root), expected=json.dumps(wanted),
            found=note.read_text(encoding="utf-8").strip(),
            do="take another folder or remove this one",
        )  # fmt: skip
    if not note.exists():
        _refuse_foreign(root)
    samples = []
    for i in range(count):
        name = f"generated_{seed}_{i:04d}"
        image_path, mask_path = root / "image" / f"{name}.png", root / "label" / f"{name}.png"
        if not (note.exists() and image_path.exists() and mask_path.exists()):
            image, label_map = generate_tile(seed * 1_000_003 + i, size)
            _write_png(image, image_path)
            _write_png(label_map.astype(np.uint16), mask_path)
        samples.append(
            file_sample(
                name=name,
                image_path=image_path,
                mask_path=mask_path,
                dataset="generated",
                split="train",
                mpp=0.25,
            )
        )
    if not note.exists():
        write_text(note, json.dumps(wanted) + "\n")
    return samples


def _refuse_foreign(root: Path) -> None:
    """Only a new folder is taken, or one in which an earlier call was interrupted."""
    others = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if not path.name.startswith((SCRATCH, "generated_")) and path.name not in ("image", "label")
    ]
    if others or (root.exists() and not root.is_dir()):
        raise UserError(
            "the folder holds other files",
            where=str(root),
            expected="a new folder",
            found=", ".join(others[:5]) or "a file",
            do="take another folder",
        )


def _write_png(array: NDArray[np.generic], path: Path) -> None:
    from PIL import Image

    with whole(path) as part:
        Image.fromarray(array).save(part, "PNG")
