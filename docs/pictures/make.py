"""Draws ``step_*.png``, the pictures of docs/algorithm.md: ``python docs/pictures/make.py``.

One of the generated tiles of the shipped default profile, after every step of it. Takes two minutes
the first time (the student is trained on four tiles), seconds after that: the cell is kept in the
workspace ``.coin-ray/pictures``.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from coin_ray.data.synthetic import generated_samples
from coin_ray.distillation.inference import predict_probability
from coin_ray.distillation.network import student_from_weights
from coin_ray.distillation.targets import edge_target
from coin_ray.imaging.instances import distance_map, find_markers
from coin_ray.imaging.stain import evidence_maps
from coin_ray.labels import InstanceMasks, centroids
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.report.panels import COLOURS

HERE = Path(__file__).parent
MAPS = "viridis"
COARSE, LABEL, FOUND, TRUTH = (tuple(c / 255 for c in colour) for colour in COLOURS.values())
IGNORED, NUCLEUS, BACKGROUND = (0.62, 0.62, 0.62), (0.0, 0.45, 0.70), (0.96, 0.96, 0.96)
STYLE = {"font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 8.5}
Draw = Callable[[Axes], Any]
Array = NDArray[Any]


def main(
    pictures: Path = HERE,
    workspace: Path = Path(".coin-ray/pictures"),
    *,
    size: int = 256,
    shown: int = 0,
    view: slice = slice(56, 200),
    **student: Any,
) -> None:
    """All pictures into a folder; ``student`` replaces settings of that section."""
    profile = yaml.safe_load((HERE.parents[1] / "search_spaces" / "mini.yaml").read_text())
    profile["baseline"]["student"] |= student
    cell = Cell.model_validate(profile["baseline"])
    samples = generated_samples(workspace / "tiles", 4, size=size, seed=11)
    run = open_local(cell, 0, [s.image for s in samples], workspace)
    run_local(run, samples)
    for name, panels in steps(run, samples[shown], view).items():
        save(pictures / f"step_{name}.png", panels)


def steps(run: CellRun, sample: Any, view: slice) -> dict[str, list[tuple[str, Draw]]]:
    """Picture -> (title, what draws it) of its panels."""
    config, image = run.config, sample.image
    pixels, truth = image.load(), sample.load_label_map()
    tile, ucis = on(view, pixels), config.ucis
    evidence = evidence_maps(pixels, sigma=ucis.sigma, contrast_sigma=ucis.contrast_sigma).evidence
    coarse, similarity = run.array("ucis", image), run.array("similarity", image)
    alone = config.model_copy(update={"ot": config.ot.model_copy(update={"prior": 0.0})})
    other = open_local(alone, 0, run.train, run.store.root.parent)
    plan, bare = run.array("transport", image), other.array("transport", image)
    mask, labels, last = (
        run.array("refine", image),
        run.array("instances", image),
        config.rounds.count,
    )
    depth = distance_map(mask, sigma=config.instances.sigma)
    peaks = centroids(
        find_markers(depth, mask, config.instances.model_copy(update={"keep_border": True}))
    )
    masks, selected = run.masks(image, 1), run.labels(image, 1)
    drawn, pseudo = redrawn(masks, labels), selected.arrays
    scores = run.artifact("score", image, 1).arrays["scores"]
    seg, edge = probabilities(run, pixels)
    found, result = run.array("predict", image, last), run.labels_at(image, f"round_{last}")
    first = run.labels_at(image, "ucis")
    aji = {step: run.evaluate(sample, step)["aji"] for step in ("ucis", f"round_{last}")}
    return {
        "1_coarse": [
            ("generated tile", tile),
            ("nuclear evidence of the stain", heat(view, evidence)),
            ("coarse mask M0", on(view, pixels, (coarse, COARSE))),
        ],
        "2_similarity": [
            ("cosine to the background centroid", heat(view, similarity[0])),
            ("cosine to the nuclear centroid", heat(view, similarity[1])),
            ("their difference", heat(view, similarity[1] - similarity[0])),
        ],
        "3_transport": [
            ("share that goes to nuclei", heat(view, bare[1], (0, 1))),
            ("the same, M0 as its reference", heat(view, plan[1], (0, 1))),
            (
                "arg-max: first blue, second green",
                on(view, pixels, (bare[1] > bare[0], LABEL), (mask, FOUND)),
            ),
        ],
        "4_instances": [
            ("propagated mask", flat(view, np.where(mask[..., None], NUCLEUS, BACKGROUND))),
            ("distance map and its peaks", heat(view, depth, dots=peaks)),
            ("instances", flat(view, coloured(labels))),
        ],
        "5_scores": [
            ("instance, segmenter's mask (blue)",
             on(view, pixels, (labels, COARSE), (drawn, LABEL))),
            ("score of each instance", scored(view, labels, scores)),
            ("scores and threshold",
             ranked(scores, selected.info["threshold"])),
        ],
        "6_labels": [
            ("accepted: the segmenter's masks", flat(view, coloured(pseudo["label_map"]))),
            ("nucleus, background, ignored (grey)", flat(view, targets(pseudo))),
            ("edge target", flat(view, edges(pseudo))),
        ],
        "7_student": [
            ("probability of nucleus", heat(view, seg, (0, 1))),
            ("probability of edge", heat(view, edge, (0, 1))),
            ("prediction", on(view, pixels, (found, FOUND))),
        ],
        "8_result": [
            (f"coarse, AJI {aji['ucis']:.2f}", on(view, pixels, (first, COARSE))),
            (f"redrawn, AJI {aji[f'round_{last}']:.2f}", on(view, pixels, (result, FOUND))),
            ("truth, of the evaluation alone", on(view, pixels, (truth, TRUTH))),
        ],
    }  # fmt: skip


def probabilities(run: CellRun, pixels: Array) -> tuple[Array, Array]:
    """Nucleus and edge probability of the last student."""
    student, infer = run.config.student, run.config.infer
    model = student_from_weights(run.student(run.config.rounds.count).arrays, student)
    seg, edge = predict_probability(model, pixels, infer)
    assert edge is not None
    return seg, edge


def redrawn(masks: InstanceMasks, labels: Array) -> Array:
    return masks.paint(labels.shape, masks.predicted_iou)


def coloured(labels: Array) -> Array:
    """Neighbouring ids in hues far apart."""
    hues = [colorsys.hsv_to_rgb(i * 0.618 % 1, 0.6, 0.85) for i in range(labels.max(initial=0))]
    return np.array([BACKGROUND, *hues])[labels]


def targets(pseudo: dict[str, Array]) -> Array:
    out = np.where((pseudo["label_map"] > 0)[..., None], NUCLEUS, BACKGROUND)
    return np.where(pseudo["ignore"][..., None], IGNORED, out)


def edges(pseudo: dict[str, Array]) -> Array:
    line = edge_target(pseudo["label_map"])
    out = np.where(line[..., None], NUCLEUS, BACKGROUND)
    return np.where((pseudo["ignore"] & ~line)[..., None], IGNORED, out)


def on(view: slice, pixels: Array, *outlines: tuple[Array, Any]) -> Draw:
    """The tile with the outlines of masks or label maps."""

    def draw(ax: Axes) -> None:
        ax.imshow(pixels[view, view], interpolation="bilinear")
        for shape, colour in outlines:
            labels = shape[view, view].astype(int)
            for i in np.unique(labels[labels > 0]):
                ax.contour(labels == i, [0.5], colors=[colour], linewidths=1.1)

    return draw


def flat(view: slice, colours: Array) -> Draw:
    return lambda ax: ax.imshow(colours[view, view], interpolation="nearest")


def heat(
    view: slice, values: Array, limits: tuple[float, float] | None = None, dots: Any = None
) -> Draw:
    """A map in the viridis scale with its colour bar; ``dots`` (N, 2) yx on it."""

    def draw(ax: Axes) -> None:
        shown = values[view, view]
        low, high = limits or (shown.min(), shown.max())
        picture = ax.imshow(shown, cmap=MAPS, vmin=low, vmax=high)
        ticks, beside = MaxNLocator(4, steps=[1, 2, 5, 10]), ax.inset_axes((1.03, 0, 0.045, 1))
        bar = ax.figure.colorbar(picture, cax=beside, ticks=ticks)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
        if dots is not None:
            inside = ((dots >= view.start) & (dots < view.stop)).all(axis=1)
            y, x = dots[inside].T - view.start
            ax.scatter(x, y, s=14, c="white", edgecolors="black", linewidths=0.6)

    return draw


def scored(view: slice, labels: Array, scores: Array) -> Draw:
    return heat(view, np.ma.masked_equal(np.concatenate([[-1], scores])[labels], -1), (0, 1))


def ranked(scores: Array, threshold: float) -> Draw:
    """All scores of the tile in order, with the line that the accepted ones exceed."""

    def draw(ax: Axes) -> None:
        order = np.sort(scores)[::-1]
        accepted = order > threshold
        rank = np.arange(1, len(order) + 1)
        for which, colour, name in (
            (accepted, NUCLEUS, "accepted"),
            (~accepted, IGNORED, "ignored"),
        ):
            ax.bar(rank[which], order[which], color=colour, width=0.8, label=name)
        ax.axhline(threshold, color="black", linewidth=0.8, linestyle="--")
        ax.set(ylim=(0, 1), box_aspect=1, xticks=[])
        ax.yaxis.tick_right()
        ax.spines[["top", "left"]].set_visible(False)
        ax.legend(frameon=False, loc="upper right", fontsize=7.5)

    return draw


def save(path: Path, panels: Sequence[tuple[str, Draw]]) -> None:
    """The panels in a row, as a PNG of 192 colours (half the size)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.15), dpi=130)
        axes = figure.subplots(1, len(panels))
        figure.subplots_adjust(left=0.01, right=0.93, bottom=0.02, top=0.9, wspace=0.3)
        for ax, (title, draw) in zip(axes, panels, strict=True):
            draw(ax)
            ax.set_title(title, loc="left")
            if ax.images:
                ax.set_axis_off()
        raw = io.BytesIO()
        figure.savefig(raw, format="png")
    picture = Image.open(raw).convert("RGB").quantize(192, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
