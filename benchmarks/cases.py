"""The stages: how each side is set up and run, and when their results count as the same.

``ours`` and ``literal`` take the inputs and return the function that is measured; what they do
before returning it is set-up and not measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.inputs import (
    MINI,
    Inputs,
    mini_backbone,
    mini_segmenter,
    random_backbone,
    random_sam,
)

Result = dict[str, Any]
Side = Callable[[Inputs], Callable[[], Result]]
Agreement = tuple[bool, str]
PASSES = 2 * 81  # of a square tile at zoom 6: 9 x 9 windows, each with its mirror image
CROP = 512  # px, side of the public code's training crop
SAM_PROMPTS = 64


@dataclass(frozen=True)
class Case:
    """``compare`` takes both results (ours first); ``note`` goes under the table.

    With ``passes`` the figures are seconds of one of the runs that the result counts, and the row
    is repeated for that many, marked as extrapolated. ``needs_gb`` of free memory are asked for
    before the literal side of a 1000-px tile; ``limit_mb`` bounds the peak of ours.
    """

    title: str
    ours: Side
    literal: Side | None = None
    compare: Callable[[Result, Result], Agreement] | None = None
    note: str = ""
    passes: int = 0
    needs_gb: float = 0.0
    limit_mb: float = 0.0


def _within(bound: float, *names: str) -> Callable[[Result, Result], Agreement]:
    def compare(ours: Result, literal: Result) -> Agreement:
        worst = max(float(np.abs(ours[k] - literal[k]).max(initial=0)) for k in names)
        return worst <= bound, f"max difference {worst:.1g} (allowed {bound:g})"

    return compare


def _equal(*names: str) -> Callable[[Result, Result], Agreement]:
    def compare(ours: Result, literal: Result) -> Agreement:
        same = all(np.array_equal(ours[k], literal[k]) for k in names)
        return same, "equal" if same else "DIFFERENT"

    return compare


# Step 1


def coarse_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.ucis.stain import stain_mask

    return lambda: {"mask": stain_mask(inputs.image)}


def _step1(features: Any, coarse: np.ndarray) -> Result:
    from coin_ray.propagation.centroids import centroids, class_sums
    from coin_ray.propagation.similarity import similarity_map

    vectors = centroids(class_sums(features, coarse))
    return {"centroids": vectors, "maps": similarity_map(features, vectors)}


def _literal_step1(features: Any, coarse: np.ndarray) -> Result:
    from benchmarks import literal

    vectors = literal.centroids([features], [coarse], 0)
    return {"centroids": vectors.numpy(), "maps": literal.similarity(features, vectors)}


def mini_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.propagation.features import extract_features

    backbone = mini_backbone()
    return lambda: _step1(extract_features(inputs.image, backbone, **MINI), inputs.coarse)


def mini_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    backbone = mini_backbone()
    side = int(MINI["window"] / MINI["zoom"])

    def run() -> Result:
        parts = _literal_windows(inputs.image, backbone, MINI["zoom"], side, MINI["hflip"])
        features = literal.accumulate(parts, inputs.image.shape[:2], side, backbone.dim)
        return _literal_step1(features, inputs.coarse)

    return run


def _literal_windows(
    image: np.ndarray, backbone: Any, zoom: float, side: int, hflip: bool
) -> Iterator[Any]:
    from benchmarks import literal

    return literal.window_tokens(
        image,
        backbone.tokens,
        zoom=zoom,
        side=side,
        stride=int(side * 2 / 3),
        patch=backbone.patch,
        mean=backbone.mean,
        std=backbone.std,
        hflip=hflip,
    )


def mini_compare(ours: Result, literal: Result) -> Agreement:
    error = np.abs(ours["maps"] - literal["maps"])
    decisions = [r["maps"][1] > r["maps"][0] for r in (ours, literal)]
    same = float((decisions[0] == decisions[1]).mean())
    text = f"similarity maps: mean difference {error.mean():.1g} (allowed 0.02), "
    return error.mean() <= 0.02, text + f"same side of the arg-max for {100 * same:.1f} % of pixels"


def passes_ours(inputs: Inputs) -> Callable[[], Result]:
    """Step 1 over a region of two by three windows of the tile's size, no mirror images."""
    from coin_ray.propagation.features import extract_features
    from coin_ray.propagation.transport import transport

    backbone = _vit_b()
    image, coarse, side = _six_windows(inputs)

    def run() -> Result:
        wall, cpu = time.perf_counter(), time.process_time()
        features = extract_features(image, backbone, zoom=6.0, window=6 * side, hflip=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        found = transport(_step1(features, coarse)["maps"])
        assert np.isfinite(found).all()
        return {"wall": wall, "cpu": cpu, "passes": len(features.origins)}

    return run


def passes_literal(inputs: Inputs) -> Callable[[], Result]:
    """One window with the accumulator of the whole tile."""
    from itertools import islice

    from benchmarks import literal

    backbone = _vit_b()
    side = inputs.size // 6

    def run() -> Result:
        first = islice(_literal_windows(inputs.image, backbone, 6.0, side, False), 1)
        literal.accumulate(first, inputs.image.shape[:2], side, backbone.dim)
        return {"passes": 1}

    return run


def _vit_b() -> Any:
    return random_backbone("vit_base_patch16_224.mae", {})


def _six_windows(inputs: Inputs) -> tuple[np.ndarray, np.ndarray, int]:
    side = inputs.size // 6
    stride = int(side * 2 / 3 + 1e-9)
    region = (slice(side + stride), slice(side + 2 * stride))
    return inputs.image[region], inputs.coarse[region], side


def _random_tokens(inputs: Inputs) -> Any:
    """Tokens of all windows at zoom 6 as a ViT-B would leave them, random but smooth."""
    from coin_ray.imaging.windows import grid
    from coin_ray.propagation.features import WindowFeatures

    side = inputs.size // 6
    origins = np.array(grid(inputs.image.shape[:2], side, int(side * 2 / 3)))
    length = -(-6 * side // 16)
    rng = np.random.default_rng(0)
    tokens = np.empty((len(origins), 768, length, length), dtype=np.float16)
    for window in tokens:  # a common direction, as real tokens have
        window[:] = rng.standard_normal(window.shape, dtype=np.float32) + 1
    return WindowFeatures(tokens, origins, side, inputs.image.shape[:2])


def after_ours(inputs: Inputs) -> Callable[[], Result]:
    features = _random_tokens(inputs)
    return lambda: _step1(features, inputs.coarse)


def after_literal(inputs: Inputs) -> Callable[[], Result]:
    import torch

    from benchmarks import literal

    features = _random_tokens(inputs)

    def run() -> Result:
        parts = (
            (y, x, torch.from_numpy(tokens))
            for (y, x), tokens in zip(features.origins.tolist(), features.tokens, strict=True)
        )
        pixels = literal.accumulate(parts, features.shape, features.window, 768)
        return _literal_step1(pixels, inputs.coarse)

    return run


def sinkhorn_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.propagation.transport import transport

    return lambda: {"maps": transport(inputs.similarity, mode="one_step", foreground_mass=0.5)}


def sinkhorn_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    return lambda: {"maps": literal.transport(inputs.similarity)}


def sinkhorn_compare(ours: Result, literal: Result) -> Agreement:
    ok, text = _within(1e-5, "maps")(ours, literal)
    masks = [r["maps"][1] > r["maps"][0] for r in (ours, literal)]
    different = int((masks[0] != masks[1]).sum())
    return ok and different <= 2, f"{text}, {different} pixels of the mask differ (allowed 2)"


def converged_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.propagation.transport import two_class_plan

    return lambda: {"plan": two_class_plan(inputs.similarity) * inputs.size**2}


def converged_pot(inputs: Inputs) -> Callable[[], Result]:
    import ot

    cost = 1 - inputs.similarity.reshape(2, -1).T.astype(np.float64)
    pixels = np.full(len(cost), 1 / len(cost))

    def run() -> Result:
        plan = ot.sinkhorn(pixels, [0.5, 0.5], cost, reg=0.1)
        return {"plan": plan.T.reshape(inputs.similarity.shape) * inputs.size**2}

    return run


# Step 2


def instances_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.imaging.instances import split_instances

    return lambda: {"labels": split_instances(inputs.coarse, footprint=12, keep_border=False)}


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
        found = segmenter.decode(embedding, points, inputs.image.shape[:2])
        return {"boxes": found.boxes, "crops": found.crops}

    return run


def decoding_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    segmenter, embedding, points = _prompting(inputs)
    shape = inputs.image.shape[:2]

    def run() -> Result:
        masks = literal.prompt_one_by_one(
            lambda point: segmenter.decode(embedding, point, shape), points, shape
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
        found = segmenter.decode({"embedding": embedding}, points, inputs.image.shape[:2])
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


# Step 3 and evaluation


def _training(bf16: bool) -> Side:
    def side(inputs: Inputs) -> Callable[[], Result]:
        from coin_ray.distillation.targets import pseudo_labels
        from coin_ray.distillation.training import train_round

        labels = pseudo_labels(
            inputs.label_map, inputs.masks, inputs.scores, inputs.accepted, source="segmenter"
        )
        crop = min(256, inputs.size // 16 * 16)

        def run() -> Result:
            stamps: list[tuple[float, float]] = []
            train_round(
                [inputs.image],
                [labels],
                arch="unet",
                iterations=6,
                batch=4,
                crop=crop,
                optimiser="adamw",
                lr=3e-3,
                head_lr=1.0,
                scale=(0.7, 1.4),
                rotate=True,
                color_jitter=0.2,
                stain_jitter=0.1,
                bf16=bf16,
                progress=lambda *_: stamps.append((time.perf_counter(), time.process_time())),
            )
            wall, cpu = np.diff(np.array(stamps), axis=0).min(axis=0).tolist()
            return {"wall": wall, "cpu": cpu}

        return run

    return side


def inference_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.distillation.inference import instances_from_probability, predict_probability
    from coin_ray.distillation.network import build_student, channels_last

    model = build_student(arch="unet", width=32, encoder="", encoder_weights="none", edge=True)
    model = channels_last(model).eval()

    def run() -> Result:
        maps = predict_probability(model, inputs.image)
        return {"labels": instances_from_probability(*maps, footprint=9, opening=2)}

    return run


def metrics_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.metrics.evaluate import evaluate

    return lambda: evaluate(inputs.truth, inputs.label_map)


def metrics_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    return lambda: dict(literal.evaluate(inputs.truth, inputs.label_map))


def metrics_compare(ours: Result, literal: Result) -> Agreement:
    worst = max(abs(ours[f"official_{k}"] - v) for k, v in literal.items())
    return worst <= 1e-9, f"{len(literal)} values, max difference {worst:.1g} (allowed 1e-9)"


CASES = {
    "coarse": Case("coarse mask from the stain", coarse_ours),
    "mini": Case(
        "features, centroids, similarity; mini backbone, zoom 2",
        mini_ours,
        mini_literal,
        mini_compare,
        "the literal one enlarges 8-bit crops with Pillow and keeps features in fp32 at pixel "
        "resolution; ours enlarges in float and keeps fp16 tokens, hence not bit-equal",
    ),
    "vit_b": Case(
        "features, ViT-B at zoom 6, one pass",
        passes_ours,
        passes_literal,
        note="random weights; ours: Step 1 over six windows (276 x 386 px, one batch), time of the "
        "passes alone, memory of all of Step 1 above the model; literal: one window, with the "
        "accumulator of the tile. Mirror images are not run: they double the passes",
        passes=PASSES,
        needs_gb=8,
        limit_mb=2000,
    ),
    "vit_b_rest": Case(
        "centroids, similarity; 81 windows of ViT-B tokens",
        after_ours,
        after_literal,
        _within(2e-3, "centroids", "maps"),
        "random tokens of the whole tile, held in memory by both sides (0.49 GB, not counted); the "
        "literal one includes the up-sampling of the features to pixel resolution",
        needs_gb=12,
        limit_mb=1500,
    ),
    "sinkhorn": Case(
        "transport, as the public code stops it",
        sinkhorn_ours,
        sinkhorn_literal,
        sinkhorn_compare,
        "ours: closed form in float64; literal: the loop, two iterations in float32",
    ),
    "converged": Case(
        "transport plan, converged (literal: POT)",
        converged_ours,
        converged_pot,
        _within(1e-5, "plan"),
        "the plan times the number of pixels, half of the mass on the foreground",
    ),
    "instances": Case(
        "instances (disk 12, watershed)",
        instances_ours,
        instances_literal,
        instances_compare,
        "border peaks dropped by both; the literal distance map is float64",
    ),
    "points": Case("prompt points", points_ours, points_literal, _equal("points")),
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
    "score": Case("score of every instance", score_ours, score_literal, _within(1e-6, "scores")),
    "pseudo": Case("pseudo labels", pseudo_ours, pseudo_literal, _equal("labels", "ignore")),
    "edge": Case(
        f"edge target of a {CROP}-px crop",
        edge_ours,
        edge_literal,
        edge_compare,
        "literal: OpenCV's Canny an instance where OpenCV is installed, else the same in NumPy",
    ),
    "step": Case("training step, U-Net, 4 crops of 256 px", _training(False)),
    "step_bf16": Case("training step, same in bf16", _training(True)),
    "inference": Case("student inference with its mirror image, and instances", inference_ours),
    "metrics": Case(
        "metrics",
        metrics_ours,
        metrics_literal,
        metrics_compare,
        "ours computes the correct metrics and the public evaluator's; the latter are compared",
    ),
}
