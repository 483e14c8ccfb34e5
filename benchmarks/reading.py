"""Tiles a second a core for each data set, next to a plain loop of the usual library calls.

Writes each data set in the format of its owners, from generated tiles of its usual size, into a
temporary folder; reads every sample (image and label map) from a warm disk cache; prints one line
each. CPU time counts, so other work on the machine and threads of a decoder change nothing::

    python -m benchmarks.reading
"""

from __future__ import annotations

import csv
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from coin_ray.data import brca, coin_layout, cpm17, cryonuseg, monuseg, pannuke, tnbc
from coin_ray.data.folder import folder_samples
from coin_ray.data.outlines import trace
from coin_ray.data.sample import Sample
from coin_ray.data.synthetic import generate_tile
from coin_ray.data.write import write_coin_png, write_image, write_label_map
from coin_ray.labels import boxes, relabel

TILES = 3
REPEATS = 3
PIECE = 256


def ours(sample: Sample) -> tuple[Any, Any]:
    return sample.load_image(), sample.load_label_map()


@dataclass(frozen=True)
class Case:
    """``make`` writes a tile, ``find`` finds it, ``plain`` reads it as is usual."""

    name: str
    side: int
    make: Callable[[Path, int, Any, Any], None]
    find: Callable[[Path], list[Sample]]
    plain: Callable[[Sample], tuple[Any, Any]]
    usual: str


def rings(label_map: Any) -> list[list[tuple[float, float]]]:
    """Outer outlines as an annotator's polygons (x, y)."""
    out = []
    for i, (y0, x0, y1, x1) in enumerate(boxes(label_map).tolist()):
        polygons = trace(label_map[y0:y1, x0:x1] == i + 1)
        corners = (polygon[0][:-1].tolist() for polygon in polygons)
        out += [[(x + x0 - 0.4, y + y0 - 0.4) for x, y in ring] for ring in corners]
    return out


def make_monuseg(root: Path, k: int, image: Any, label_map: Any) -> None:
    import tifffile

    root.mkdir(exist_ok=True)
    tifffile.imwrite(root / f"t{k}.tif", image, compression="packbits", photometric="rgb")
    regions = "".join(
        "<Region><Vertices>"
        + "".join(f'<Vertex X="{x:.6f}" Y="{y:.6f}"/>' for x, y in ring)
        + "</Vertices></Region>"
        for ring in rings(label_map)
    )
    (root / f"t{k}.xml").write_text(
        f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>",
        encoding="utf-8",
    )


def plain_monuseg(sample: Sample) -> tuple[Any, Any]:
    import tifffile
    from skimage.draw import polygon

    image = tifffile.imread(sample.image.path)
    label_map = np.zeros(image.shape[:2], np.int32)
    assert sample.truth_path is not None
    for i, region in enumerate(ElementTree.parse(sample.truth_path).iter("Region")):  # our own file
        points = [(float(v.get("Y", 0)), float(v.get("X", 0))) for v in region.iter("Vertex")]
        label_map[polygon(*np.array(points).T, image.shape[:2])] = i + 1
    return image, label_map


def make_tnbc(root: Path, k: int, image: Any, label_map: Any) -> None:
    from PIL import Image

    alpha = np.full(image.shape[:2], 255, np.uint8)
    for folder, array in (
        ("Slide_01", np.dstack([image, alpha])),
        ("GT_01", (label_map > 0).astype(np.uint8) * 255),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / f"01_{k}.png")


def plain_tnbc(sample: Sample) -> tuple[Any, Any]:
    from PIL import Image
    from skimage.measure import label

    image = np.array(Image.open(sample.image.path))[..., :3]
    return image, label(np.array(Image.open(str(sample.truth_path))) > 0)


def make_cpm17(root: Path, k: int, image: Any, label_map: Any) -> None:
    from scipy.io import savemat

    write_image(root / "train" / "Images" / f"image_{k:02d}.png", image)
    (root / "train" / "Labels").mkdir(exist_ok=True)
    content = {"inst_map": label_map.astype(float)}
    savemat(root / "train" / "Labels" / f"image_{k:02d}.mat", content, do_compression=True)


def plain_cpm17(sample: Sample) -> tuple[Any, Any]:
    from PIL import Image
    from scipy.io import loadmat

    ids = loadmat(str(sample.truth_path))["inst_map"]
    return np.array(Image.open(sample.image.path)), np.unique(ids, return_inverse=True)[1]


def make_cryonuseg(root: Path, k: int, image: Any, label_map: Any) -> None:
    import tifffile

    write_label_map(
        root / cryonuseg.RATERS["biologist"] / cryonuseg.LABELS / f"Human_Skin_0{k}.tif", label_map
    )
    (root / "tissue images").mkdir(exist_ok=True)
    tifffile.imwrite(root / "tissue images" / f"Human_Skin_0{k}.tif", image, photometric="rgb")


def plain_tif(sample: Sample) -> tuple[Any, Any]:
    import tifffile

    ids = tifffile.imread(str(sample.truth_path))
    return tifffile.imread(sample.image.path), np.unique(ids, return_inverse=True)[1]


def make_pannuke(root: Path, k: int, image: Any, label_map: Any) -> None:
    folder = root / "fold1"
    folder.mkdir(exist_ok=True)
    images = np.zeros((TILES, 256, 256, 3))
    masks = np.zeros((TILES, 256, 256, 6))
    if k:
        images, masks = np.load(folder / "images.npy"), np.load(folder / "masks.npy")
    images[k] = image
    for channel in range(5):
        masks[k, ..., channel] = np.where(label_map % 5 == channel, label_map, 0)
    np.save(folder / "images.npy", images)
    np.save(folder / "masks.npy", masks)


def plain_pannuke(sample: Sample) -> tuple[Any, Any]:
    index = sample.image.index
    image = np.load(sample.image.path, mmap_mode="r")[index].astype(np.uint8)
    masks = np.load(str(sample.truth_path), mmap_mode="r")[index]
    label_map = np.zeros(image.shape[:2], np.int32)
    number = 0
    for channel in range(5):
        for value in np.unique(masks[..., channel])[1:]:
            number += 1
            label_map[masks[..., channel] == value] = number
    return image, label_map


def make_nucls(root: Path, k: int, image: Any, label_map: Any) -> None:
    write_image(root / "rgb" / f"t{k}.png", image)
    (root / "csv").mkdir(exist_ok=True)
    with (root / "csv" / f"t{k}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["raw_classification", "type", "coords_x", "coords_y"])
        for ring in rings(label_map):
            x, y = (",".join(f"{v:.0f}" for v in axis) for axis in zip(*ring, strict=True))
            table.writerow(["tumor", "polyline", x, y])


def plain_nucls(sample: Sample) -> tuple[Any, Any]:
    from PIL import Image
    from skimage.draw import polygon

    image = np.array(Image.open(sample.image.path))
    label_map = np.zeros(image.shape[:2], np.int32)
    with open(str(sample.truth_path), newline="", encoding="utf-8") as file:
        for i, row in enumerate(csv.DictReader(file)):
            x, y = ([float(v) for v in row[c].split(",")] for c in ("coords_x", "coords_y"))
            label_map[polygon(y, x, image.shape[:2])] = i + 1
    return image, label_map


def make_coin(root: Path, k: int, image: Any, label_map: Any) -> None:
    write_image(root / "MoNuSeg" / "test" / "image" / f"t{k}.tif", image)
    write_coin_png(root / "MoNuSeg" / "test" / "mask" / f"t{k}.png", label_map)


def plain_coin(sample: Sample) -> tuple[Any, Any]:
    import tifffile
    from PIL import Image

    code = np.array(Image.open(str(sample.truth_path))).astype(np.int32)
    ids = 256 * code[..., 2] + code[..., 1]
    return tifffile.imread(sample.image.path), np.unique(ids, return_inverse=True)[1]


def make_folder(root: Path, k: int, image: Any, label_map: Any) -> None:
    write_image(root / "image" / f"t{k}.png", image)
    write_label_map(root / "label" / f"t{k}.tif", label_map)


def plain_folder(sample: Sample) -> tuple[Any, Any]:
    import tifffile
    from PIL import Image

    ids = tifffile.imread(str(sample.truth_path))
    return np.array(Image.open(sample.image.path)), np.unique(ids, return_inverse=True)[1]


CASES = (
    Case("monuseg", 1000, make_monuseg, monuseg.find, plain_monuseg,
         "tifffile, ElementTree, polygon"),
    Case("tnbc", 512, make_tnbc, tnbc.find, plain_tnbc, "Pillow, skimage label"),
    Case("cpm17", 600, make_cpm17, cpm17.find, plain_cpm17, "Pillow, loadmat, unique"),
    Case("cryonuseg", 512, make_cryonuseg, cryonuseg.find, plain_tif, "tifffile, unique"),
    Case("pannuke", 256, make_pannuke, pannuke.find, plain_pannuke, "mmap, a mask a nucleus"),
    Case("brca nucls", 400, make_nucls, partial(brca.find, source="nucls"), plain_nucls,
         "Pillow, csv, polygon"),
    Case("coin_layout", 1000, make_coin, coin_layout.find, plain_coin, "tifffile, Pillow, unique"),
    Case("folder", 1000, make_folder, folder_samples, plain_folder, "Pillow, tifffile, unique"),
)  # fmt: skip


@cache
def tile(k: int, side: int) -> tuple[Any, Any]:
    """Copies of a generated tile side by side, cut to size; ids go on from copy to copy."""
    image, label_map = generate_tile(k, PIECE)
    n = -(-side // PIECE)
    rows = [
        [np.where(label_map > 0, label_map + label_map.max() * (r * n + c), 0) for c in range(n)]
        for r in range(n)
    ]
    whole = np.tile(image, (n, n, 1))
    return whole[:side, :side].copy(), relabel(np.block(rows)[:side, :side])


def tiles_a_second(read: Callable[[Sample], Any], samples: Sequence[Sample]) -> float:
    """Samples per second of CPU time, best of some repeats after one to warm up."""
    for sample in samples:
        read(sample)
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        for sample in samples:
            read(sample)
        times.append(time.process_time() - start)
    return len(samples) / min(times)


def same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    """Equal images, and equal points or label maps up to the numbering of the instances."""
    pairs = np.unique(np.stack([a[1].ravel(), b[1].ravel()]), axis=1)
    one_to_one = pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
    return bool(np.array_equal(a[0], b[0]) and one_to_one)


def main() -> None:
    """Print the table."""
    print("tiles a second a core")
    print(f"{'data set':<12} {'side':>5} {'ours':>8} {'plain':>8}  ratio  the plain loop")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            root = Path(folder) / case.name.replace(" ", "_")
            root.mkdir()
            for k in range(TILES):
                case.make(root, k, *tile(k, case.side))
            samples = case.find(root)
            assert len(samples) == TILES, case.name
            assert all(same(ours(s), case.plain(s)) for s in samples), case.name
            fast, plain = (tiles_a_second(read, samples) for read in (ours, case.plain))
            row = f"{case.name:<12} {case.side:>5} {fast:>8.1f} {plain:>8.1f}"
            print(f"{row}  {fast / plain:>5.2f}  {case.usual}", flush=True)


if __name__ == "__main__":
    main()
