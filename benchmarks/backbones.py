"""Do the tokens of a backbone tell nuclei from the rest? By ROC AUC over the pixels of labelled
tiles, beside the same network untrained and the stain mask's own evidence.

    python -m benchmarks.backbones dinov1_mini mine_a --data monuseg_train --tiles TCGA-38-6178

A backbone is a name of ``coin-ray models list``, or ``untrained:NAME`` for its network with random
weights. A checkpoint is entered first: ``coin-ray models add mine_a a.safetensors --licence mine
--like dinov1_mini``. Labels are read to measure, and for nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import random_backbone
from coin_ray.imaging.stain import evidence_maps
from coin_ray.propagation.backbones import Backbone, load_backbone
from coin_ray.propagation.centroids import centroids, class_sums
from coin_ray.propagation.features import extract_features, normalise_features
from coin_ray.propagation.settings import Uss
from coin_ray.propagation.similarity import similarity_map
from coin_ray.ucis.settings import Ucis
from coin_ray.ucis.stain import stain_mask
from coin_ray.weights.registry import entry

MINI = Ucis(opening=2, max_hole=300, min_area=60)  # the coarse mask of the profile
Image = NDArray[np.uint8]


def auc(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a pixel inside scores above one outside, ties half."""
    from scipy.stats import rankdata

    inside = int(truth.sum())
    ranks = rankdata(score.ravel())[truth.ravel()].sum()
    return float((ranks - inside * (inside + 1) / 2) / (inside * (truth.size - inside)))


def separation(
    image: Image, coarse: NDArray[np.bool_], backbone: Backbone, uss: Uss
) -> NDArray[np.float32]:
    """(H, W) cosine to the foreground centroid minus that to the background's."""
    found = extract_features(image, backbone, uss, zoom=uss.zoom[0], batch=uss.batch)
    features = normalise_features(found, uss.normalise)
    vectors = centroids(class_sums(features, coarse))
    background, foreground = similarity_map([(features, vectors)], relu=False)
    return foreground - background


def tiles(folder: Path, names: Sequence[str], side: int) -> Iterator[tuple[str, Image, Image]]:
    """Name, image and truth of the upper left ``side`` px of each tile; all tiles without names."""
    from PIL import Image as Reader

    for path in sorted((folder / "image").glob("*.png")):
        if not names or any(path.stem.startswith(name) for name in names):
            label = np.asarray(Reader.open(folder / "label" / path.name))
            image = np.asarray(Reader.open(path).convert("RGB"))
            yield path.stem, image[:side, :side], label[:side, :side] > 0


def named(name: str) -> Backbone:
    """A registered one; ``untrained:NAME`` is its network with random weights."""
    if not name.startswith("untrained:"):
        return load_backbone(name, layer=-1)
    build = entry(name.removeprefix("untrained:")).build
    backbone: Backbone = random_backbone(build["model"], build["overrides"])
    return backbone


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("backbones", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder with image/ and label/")
    parser.add_argument("--tiles", nargs="*", default=(), help="beginnings of names; default all")
    parser.add_argument("--side", type=int, default=512, help="of the corner that is measured, px")
    parser.add_argument("--zoom", type=float, nargs="+", default=[2.0])
    parser.add_argument("--normalise", nargs="+", default=["whiten"])
    asked = parser.parse_args(arguments)
    chosen = list(tiles(asked.data, asked.tiles, asked.side))
    coarse = [stain_mask(image, MINI) for _, image, _ in chosen]
    print(f"{len(chosen)} tiles: {', '.join(name for name, _, _ in chosen)}\n")
    print(
        "| backbone | zoom | tokens | AUC | least | most |\n"
        "| --- | ---: | --- | ---: | ---: | ---: |"
    )

    def row(name: str, zoom: str, mode: str, score: Callable[[int], NDArray[np.floating]]) -> None:
        found = [auc(score(i), truth) for i, (_, _, truth) in enumerate(chosen)]
        ends = " | ".join(f"{v:.3f}" for v in (np.mean(found), min(found), max(found)))
        print(f"| {name} | {zoom} | {mode} | {ends} |", flush=True)

    widths = {"sigma": MINI.sigma, "contrast_sigma": MINI.contrast_sigma}
    row("stain evidence", "", "", lambda i: evidence_maps(chosen[i][1], **widths).evidence)
    for name in asked.backbones:
        backbone = named(name)
        for zoom in asked.zoom:
            for mode in asked.normalise:
                uss = Uss(window=256, hflip=False, zoom=(zoom,), normalise=mode)
                seen = [
                    separation(im, mask, backbone, uss)
                    for (_, im, _), mask in zip(chosen, coarse, strict=True)
                ]
                row(name, f"{zoom:g}", mode, seen.__getitem__)


if __name__ == "__main__":
    main()
