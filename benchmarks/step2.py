"""Step 2, ours and literal: instances, prompts, scores, pseudo labels and their edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Agreement, Case, Result, equal, within
from benchmarks.inputs import Inputs, mini_segmenter, random_sam
from coin_ray.confidence.prompts import Prompts
from coin_ray.imaging.settings import Instances

CROP = 512  # px, side of the public code's training crop
SAM_PROMPTS = 64


def instances_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.imaging.instances import split_instances

    return lambda: {"labels": split_instances(inputs.coarse, Instances(keep_border=False))}


def instances_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    return lambda: {"labels": literal.instances(inputs.coarse)}


def instances_compare(ours: Result, literal: Result) -> Agreement:
    from coin_ray.metrics.aji import aji
    from coin_ray.metrics.contingency import contingency

    score = aji(contingency(literal["labels"], ours["labels"]))
    different = int((ours["labels"] != literal["labels"]).sum())
    text = f"{different} pixels differ, AJI between them {score:.4f} (allowed 0.99)"
    text = text if different else "equal"
    return score >= 0.99, text


def points_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.confidence.prompts import prompt_points

    return lambda: {"points": prompt_points(inputs.label_map, "centroid")}


def points_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    return lambda: {"points": literal.prompts(inputs.label_map)}


def embedding_ours(inputs: Inputs) -> Callable[[], Result]:
    segmenter = mini_segmenter()
    return lambda: {"embedding": segmenter.encode(inputs.image)["embedding"][:1]}


def _prompting(inputs: Inputs) -> tuple[Any, Any, Any]:
    from coin_ray.confidence.prompts import prompt_points

    segmenter = mini_segmenter()
    points = prompt_points(inputs.label_map, "centroid")
    return segmenter, segmenter.encode(inputs.image), points


def decoding_ours(inputs: Inputs) -> Callable[[], Result]:
    segmenter, embedding, points = _prompting(inputs)

    def run() -> Result:
        found = segmenter.decode(embedding, Prompts(points), inputs.image.shape[:2])
        return {"boxes": found.boxes, "crops": found.crops}

    return run


def decoding_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    segmenter, embedding, points = _prompting(inputs)
    shape = inputs.image.shape[:2]

    def run() -> Result:
        masks = literal.prompt_one_by_one(
            lambda point: segmenter.decode(embedding, Prompts(point), shape), points, shape
        )
        return {"masks": masks}

    return run


def masks_compare(ours: Result, literal: Result) -> Agreement:
    """Share of the literal masks' pixels that ours have otherwise (sums in another order)."""
    different = total = 0
    for box, crop, mask in zip(ours["boxes"], ours["crops"], literal["masks"], strict=True):
        y0, x0, y1, x1 = box.tolist()
        inside = mask[y0:y1, x0:x1]
        different += int((inside != crop).sum()) + int(mask.sum()) - int(inside.sum())
        total += int(mask.sum())
    share = different / max(total, 1)
    text = "equal" if not different else f"{100 * share:.1g} % of mask pixels differ (allowed 0.1)"
    return share <= 1e-3, text


def sam_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.confidence.sam import SamSegmenter

    segmenter = SamSegmenter(random_sam(), batch=SAM_PROMPTS)
    embedding, points = _sam_inputs(inputs)

    def run() -> Result:
        found = segmenter.decode({"embedding": embedding}, Prompts(points), inputs.image.shape[:2])
        return {"boxes": found.boxes, "crops": found.crops}

    return run


def sam_literal(inputs: Inputs) -> Callable[[], Result]:
    import torch

    from benchmarks import literal

    sam = random_sam()
    embedding, points = _sam_inputs(inputs)
    tensor = torch.from_numpy(embedding).float()[None]

    def run() -> Result:
        with torch.inference_mode():
            masks = literal.sam_one_by_one(sam, tensor, points, inputs.image.shape[:2])
        return {"masks": masks}

    return run


def _sam_inputs(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((256, 64, 64), dtype=np.float32).astype(np.float16)
    count = SAM_PROMPTS if inputs.size > 500 else 2
    return embedding, rng.integers(0, inputs.size, (count, 2)).astype(np.float64)


def _full_masks(inputs: Inputs) -> list[np.ndarray]:
    """The stage's input as the public code holds it: N full-size masks."""
    out = []
    for box, crop in zip(inputs.masks.boxes.tolist(), inputs.masks.crops, strict=True):
        full = np.zeros(inputs.image.shape[:2], dtype=bool)
        full[box[0] : box[2], box[1] : box[3]] = crop
        out.append(full)
    return out


def score_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.confidence.scoring import agreement

    return lambda: {"scores": agreement(inputs.label_map, inputs.masks)}


def score_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    masks = _full_masks(inputs)
    return lambda: {"scores": literal.scores(inputs.label_map, masks)}


def pseudo_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.distillation.targets import pseudo_labels

    def run() -> Result:
        found = pseudo_labels(
            inputs.label_map, inputs.masks, inputs.scores, inputs.accepted, source="segmenter"
        )
        return {"labels": found.label_map, "ignore": found.ignore}

    return run


def pseudo_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal
    from coin_ray.labels import relabel

    masks = _full_masks(inputs)

    def run() -> Result:
        labels, ignore = literal.pseudo_labels(
            inputs.label_map, masks, inputs.scores, inputs.accepted
        )
        return {"labels": relabel(labels), "ignore": ignore}

    return run


def edge_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.distillation.targets import edge_target

    labels = inputs.label_map[:CROP, :CROP]
    return lambda: {"edge": edge_target(labels)}


def edge_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    labels = inputs.label_map[:CROP, :CROP]
    return lambda: {"edge": literal.edge_target(labels)}


def edge_compare(ours: Result, literal: Result) -> Agreement:
    """Canny's line runs half inside, half outside the mask; ours is the inner boundary."""
    from scipy.ndimage import binary_dilation

    square = np.ones((3, 3), dtype=bool)
    far = [
        int((a & ~binary_dilation(b, square)).sum())
        for a, b in ((ours["edge"], literal["edge"]), (literal["edge"], ours["edge"]))
    ]
    return far == [0, 0], f"{sum(far)} edge pixels more than 1 px from the other's (allowed 0)"


CASES = {
    "instances": Case(
        "instances (disk 12, watershed)",
        instances_ours,
        instances_literal,
        instances_compare,
        "border peaks dropped by both; the literal distance map is float64",
    ),
    "points": Case("prompt points", points_ours, points_literal, equal("points")),
    "embedding": Case("embedding, mini promptable model", embedding_ours),
    "decoding": Case(
        "prompts, mini promptable model",
        decoding_ours,
        decoding_literal,
        masks_compare,
        "ours: 64 prompts at a time, masks as crops; literal: the same model one prompt at a "
        "time, full-size masks",
    ),
    "sam": Case(
        f"{SAM_PROMPTS} prompts, decoder of SAM (all its sizes share it)",
        sam_ours,
        sam_literal,
        masks_compare,
        "random weights and a random embedding: every mask spans the image, the worst case for "
        "masks kept as crops",
    ),
    "score": Case("score of every instance", score_ours, score_literal, within(1e-6, "scores")),
    "pseudo": Case("pseudo labels", pseudo_ours, pseudo_literal, equal("labels", "ignore")),
    "edge": Case(
        f"edge target of a {CROP}-px crop",
        edge_ours,
        edge_literal,
        edge_compare,
        "literal: OpenCV's Canny an instance where OpenCV is installed, else the same in NumPy",
    ),
}
