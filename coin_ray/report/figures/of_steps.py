"""What the steps made of one image: the chain beside each other, the pseudo masks, the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.sample import Sample
from coin_ray.errors import UserError
from coin_ray.labels import InstanceMasks, LabelMap, boxes
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.stage import Ref
from coin_ray.report.figures.panel import EMPTY, IGNORED, NUCLEUS, Kind, Panel, Window
from coin_ray.report.figures.sheet import COLUMN, Row, draw_sheet
from coin_ray.report.values.finished import stored
from coin_ray.store.artifacts import Artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Fetch = Callable[[Mapping[str, Ref]], dict[str, Artifact]]
"""What stands in the store under names for what it is."""
View = Callable[[NDArray[Any]], Window]
"""The part of an image to show, given what there is of interest at each of its pixels."""
BEST = 4
"""Instances of the highest scores that are shown, and of the lowest."""
FILLS = {"pseudo label": NUCLEUS, "ignored": IGNORED, "background": EMPTY}


@dataclass(frozen=True)
class Made:
    """An image and the finished cell that made something of it; ``values``: AJI by step."""

    sample: Sample
    run: CellRun
    fetch: Fetch
    values: Mapping[str, float]

    @property
    def truth(self) -> LabelMap | None:
        return self.sample.load_label_map() if self.sample.has_truth else None

    @property
    def is_trained_on(self) -> bool:
        return self.sample.image in self.run.train


def draw_stages(made: Made, view: View) -> Figure:
    """The chain from the tile to the result."""
    run, image, pixels = made.run, made.sample.image, made.sample.load_image()
    wanted = {"coarse mask": Ref("ucis", image)}
    if run.config.uss.family != "none":
        wanted |= {name: Ref(name, image) for name in ("similarity", "transport")}
    step = refs.final_step(run.chain)
    wanted |= {"instances": refs.step1(image), "result": refs.behind(run.chain, image, step)}
    if made.is_trained_on:
        wanted |= {"scores": Ref("score", image, 1), "labels": refs.labels(run.chain, image, 1)}
    found = made.fetch(wanted)
    instances = found["instances"].arrays["array"]
    window = view(instances > 0)

    def outlined(name: str, step: str, kind: Kind, label_map: LabelMap) -> Panel:
        return Panel((name, _aji(made, step)), pixels, window, {kind: label_map})

    mask = found["coarse mask"].arrays["array"].astype(np.int32)
    panels = [
        Panel((image.name, "image"), pixels, window),
        outlined("coarse mask", "ucis", "coarse", mask),
    ]
    for name in ("similarity", "transport"):
        if name in found:
            values = found[name].arrays["array"][1]
            part = values[window.slices]
            said = f"{part.min():.2f} to {part.max():.2f}"
            panels.append(Panel((f"{name} to nuclei", said), values, window))
    panels.append(outlined("step 1", "step1", "found", instances))
    if made.is_trained_on:
        scores = found["scores"].arrays["scores"]
        panels.append(
            Panel(("scores", "dark 0, bright 1"), _filled(instances, scores), window, limits=(0, 1))
        )
        labels = found["labels"]
        said = f"{labels.info['accepted']} of {labels.info['instances']} accepted"
        panels.append(Panel(("pseudo labels", said), _targets(labels), window))
    if step != "step1":
        result = found["result"].arrays["array"]
        panels.append(outlined(step.replace("_", " "), step, "found", result))
    if (truth := made.truth) is not None:
        title = ("truth", f"{truth.max(initial=0)} nuclei")
        panels.append(Panel(title, pixels, window, {"true": truth}))
    rows = [Row(panels[i : i + 3], mpp=image.mpp if i == 0 else None)
            for i in range(0, len(panels), 3)]  # fmt: skip
    return draw_sheet(rows, fills=FILLS if made.is_trained_on else None)


def _aji(made: Made, step: str) -> str:
    value = made.values.get(step)
    return "" if value is None else f"AJI {value:.3f}"


def _filled(label_map: LabelMap, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each instance with its score, on nothing."""
    return np.concatenate([[np.nan], scores])[label_map]


def _targets(labels: Artifact) -> NDArray[np.float64]:
    """What the loss sees: nucleus, nothing (ignored), background."""
    nucleus, ignored = labels.arrays["label_map"] > 0, labels.arrays["ignore"]
    out = np.where(ignored[..., None], IGNORED, EMPTY)
    return np.where(nucleus[..., None], NUCLEUS, out)


def draw_labels(made: Made, view: View, round_: int) -> Figure:
    """The pseudo masks that a round is trained on: binary, ignored, edges."""
    run, image, pixels = made.run, made.sample.image, made.sample.load_image()
    (labels,) = made.fetch({"labels": refs.labels(run.chain, image, round_)}).values()
    painted, ignored = labels.arrays["label_map"], labels.arrays["ignore"]
    window = view(painted > 0)
    info, shape = labels.info, painted.shape
    nothing = np.broadcast_to(np.array(EMPTY), (*shape, 3))
    panels = [
        Panel(("pseudo labels", f"of round {round_}"), pixels, window, {"coarse": painted}),
        Panel(
            ("binary mask", f"{info['accepted']} of {info['instances']} accepted"),
            np.where((painted > 0)[..., None], NUCLEUS, nothing),
            window,
        ),
        Panel(
            ("ignored", f"{ignored.mean():.1%} of the pixels"),
            np.where(ignored[..., None], IGNORED, nothing),
            window,
        ),
    ]
    if run.config.student.edge:
        edge = np.where(ignored[..., None], IGNORED, nothing)
        edge = np.where(_edges(run, painted)[..., None], NUCLEUS, edge)
        panels.append(Panel(("edge mask", run.config.student.edge_target), edge, window))
    rows = [Row(panels[:2], mpp=image.mpp), Row(panels[2:])]
    return draw_sheet(rows, fills=FILLS)


def _edges(run: CellRun, painted: LabelMap) -> NDArray[np.bool_]:
    from coin_ray.distillation.canny import canny_target
    from coin_ray.distillation.targets import edge_target

    target = canny_target if run.config.student.edge_target == "canny" else edge_target
    return target(painted)


def draw_scores(made: Made, round_: int) -> Figure:
    """Instances that a round scored highest and lowest: prompt, instance, the segmenter's mask."""
    from coin_ray.confidence.prompts import prompt_points
    from coin_ray.metrics.contingency import contingency

    run, image, pixels = made.run, made.sample.image, made.sample.load_image()
    scored = Ref("score", image, round_)
    current = refs.current(run.chain, scored)
    found = made.fetch(
        {"scores": scored, "masks": Ref("masks", image, round_), "instances": current}
    )
    instances, scores = found["instances"].arrays["array"], found["scores"].arrays["scores"]
    if not len(scores):
        raise UserError("no instance of this image was scored", where=image.name,
                        do="take another image")  # fmt: skip
    masks = InstanceMasks.from_arrays(found["masks"].arrays)
    points = prompt_points(instances, run.config.sam.prompt)
    truth, overlap = made.truth, np.zeros(len(scores))
    if truth is not None:
        table = contingency(truth, instances)
        np.maximum.at(overlap, table.predicted_index, table.jaccard)
    order = np.argsort(-scores, kind="stable")
    half = min(BEST, -(-len(order) // 2))
    shown = {"highest": order[:half], "lowest": order[half:][-BEST:]}
    extents = boxes(instances)
    side = max(
        (int(1.7 * (extents[i, 2:] - extents[i, :2]).max()) for i in order[:BEST]), default=0
    )
    side = min(max(side, 48), *pixels.shape[:2])
    rows: list[Row] = []
    for name, chosen in shown.items():
        panels = []
        for i in chosen.tolist():
            said = [f"score {scores[i]:.2f}"]
            said += [f"true IoU {overlap[i]:.2f}"] if truth is not None else []
            drawn: dict[Kind, LabelMap] = {
                "segmenter": masks.take(np.array([i])).paint(instances.shape, np.ones(1)),
                "scored": (instances == i + 1).astype(np.int32),
            }
            window = _around(points[i], side, instances.shape)
            point = points[i : i + 1] if run.config.sam.prompt != "box" else points[:0]
            panels.append(Panel(tuple(said), pixels, window, drawn, points=point))
        if panels:
            rows.append(Row(panels, side=name, mpp=image.mpp if not rows else None))
    return draw_sheet(rows, legend=("scored", "segmenter"), width=COLUMN)


def scored(
    run: CellRun, sample: Sample, round_: int, *, compute: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Of the instances (N,) that a round scored in an image: the scores, the segmenter's own
    estimates, and the IoU with the truth: of the segmenter's masks or, where the labels are made of
    the instances alone, of these."""
    image = sample.image
    at = Ref("score", image, round_)
    wanted = {"scores": at, "masks": Ref("masks", image, round_)}
    if run.config.labels.source == "prediction":
        wanted["instances"] = refs.current(run.chain, at)
    found = stored(run, wanted, compute=compute)
    masks = InstanceMasks.from_arrays(found["masks"].arrays)
    drawn = masks
    if "instances" in found:
        drawn = InstanceMasks.from_label_map(found["instances"].arrays["array"])
    iou = drawn.best_iou(sample.load_label_map())
    return found["scores"].arrays["scores"], masks.predicted_iou, iou


def _around(point: NDArray[np.float64], side: int, shape: tuple[int, ...]) -> Window:
    y, x = (
        int(np.clip(round(at - side / 2), 0, size - side))
        for at, size in zip(point, shape, strict=True)
    )
    return Window(y, x, side, side)
