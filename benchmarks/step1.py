"""Step 1, ours and literal: coarse mask, features, centroids, similarity, transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.case import Agreement, Case, Result, within
from benchmarks.inputs import MINI, Inputs, mini_backbone, random_backbone
from coin_ray.propagation.settings import Ot, Uss

WINDOWS = 81  # of a square tile at zoom 6: 9 x 9
HALF = Ot(foreground_mass=0.5)
BATCH = 2  # of them, as many as go through the ViT-B at a time


def coarse_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.ucis.settings import Ucis
    from coin_ray.ucis.stain import stain_mask

    return lambda: {"mask": stain_mask(inputs.image, Ucis())}


def _step1(features: Any, coarse: np.ndarray) -> Result:
    from coin_ray.propagation.centroids import centroids, class_sums
    from coin_ray.propagation.similarity import similarity_map, stretched

    vectors = centroids(class_sums(features, coarse))
    maps = stretched(similarity_map([(features, vectors)], relu=False), MINI)
    return {"centroids": vectors, "maps": maps}


def _literal_step1(features: Any, coarse: np.ndarray) -> Result:
    from benchmarks import literal

    vectors = literal.centroids([features], [coarse], 0)
    return {"centroids": vectors.numpy(), "maps": literal.similarity(features, vectors)}


def mini_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.propagation.features import extract_features

    backbone = mini_backbone()
    zoom, batch = MINI.zoom[0], MINI.batch

    def run() -> Result:
        features = extract_features(inputs.image, backbone, MINI, zoom=zoom, batch=batch)
        return _step1(features, inputs.coarse)

    return run


def mini_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    backbone = mini_backbone()
    zoom, side = MINI.zoom[0], int((MINI.window or 0) / MINI.zoom[0])

    def run() -> Result:
        parts = _literal_windows(inputs.image, backbone, zoom, side, MINI.hflip)
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
    """All of Step 1 on the tile, with mirror images; one batch of windows meets the transformer.

    It is the mirrored pass of a batch of the last row of windows, for the class sums: the tokens of
    the row before it and of its own first pass are held then. The other passes give zeros.
    """
    import torch

    from coin_ray.propagation.features import extract_features
    from coin_ray.propagation.transport import transport

    vit = _vit_b()

    def run() -> Result:
        passes, spent = 0, (0.0, 0.0)

        def tokens(batch: torch.Tensor) -> torch.Tensor:
            nonlocal passes, spent
            passes += 1
            if passes != (WINDOWS - 4) // BATCH * 2:
                sides = [side // vit.patch for side in batch.shape[-2:]]
                return torch.zeros(len(batch), vit.dim, *sides)
            wall, cpu = time.perf_counter(), time.process_time()
            found = vit.tokens(batch)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            return found

        backbone = replace(vit, tokens=tokens)
        features = extract_features(inputs.image, backbone, Uss(), zoom=6.0, batch=BATCH)
        found = transport(_step1(features, inputs.coarse)["maps"], HALF, complement=True)
        assert np.isfinite(found).all()
        return {"wall": spent[0], "cpu": spent[1], "passes": BATCH}

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


def _random_tokens(inputs: Inputs) -> Any:
    """Tokens of all windows at zoom 6 as a ViT-B would leave them, random but smooth."""
    from coin_ray.imaging.windows import grid
    from coin_ray.propagation.features import WindowFeatures

    side, shape = inputs.size // 6, inputs.image.shape[:2]
    origins = np.array(grid(shape, side, int(side * 2 / 3)))
    length = -(-6 * side // 16)
    rng = np.random.default_rng(0)
    tokens = np.empty((len(origins), 768, length, length), dtype=np.float16)
    for window in tokens:  # a common direction, as real tokens have
        window[:] = rng.standard_normal(window.shape, dtype=np.float32) + 1
    geometry = np.array([side, *shape])
    return WindowFeatures.from_arrays({"tokens": tokens, "origins": origins, "geometry": geometry})


def after_ours(inputs: Inputs) -> Callable[[], Result]:
    features = _random_tokens(inputs)
    return lambda: _step1(features, inputs.coarse)


def after_literal(inputs: Inputs) -> Callable[[], Result]:

    from benchmarks import literal

    features = _random_tokens(inputs)

    def run() -> Result:
        parts = (
            (y, x, tokens)
            for (y, x), tokens in zip(features.origins.tolist(), features.tokens(), strict=True)
        )
        pixels = literal.accumulate(parts, features.shape, features.window[0], 768)
        return _literal_step1(pixels, inputs.coarse)

    return run


def sinkhorn_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.propagation.transport import transport

    ot = HALF.model_copy(update={"mode": "one_step"})
    return lambda: {"maps": transport(inputs.similarity, ot, complement=True)}


def sinkhorn_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    return lambda: {"maps": literal.transport(inputs.similarity)}


def sinkhorn_compare(ours: Result, literal: Result) -> Agreement:
    ok, text = within(1e-5, "maps")(ours, literal)
    masks = [r["maps"][1] > r["maps"][0] for r in (ours, literal)]
    different = int((masks[0] != masks[1]).sum())
    return ok and different <= 2, f"{text}, {different} pixels of the mask differ (allowed 2)"


def converged_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.propagation.transport import two_class_plan

    return lambda: {"plan": two_class_plan(inputs.similarity, HALF) * inputs.size**2}


def converged_pot(inputs: Inputs) -> Callable[[], Result]:
    import ot

    cost = 1 - inputs.similarity.reshape(2, -1).T.astype(np.float64)
    pixels = np.full(len(cost), 1 / len(cost))

    def run() -> Result:
        plan = ot.sinkhorn(pixels, [0.5, 0.5], cost, reg=0.1)
        return {"plan": plan.T.reshape(inputs.similarity.shape) * inputs.size**2}

    return run


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
        note="random weights; ours: memory, above the model, of all of Step 1 on the tile with "
        "mirror images, of whose 81 windows two (one batch) go through the transformer, and the "
        "time of these two passes; literal: one window, with the accumulator of the tile",
        passes=2 * WINDOWS,
        needs_gb=8,
        limit_mb=1000,
    ),
    "vit_b_rest": Case(
        "centroids, similarity; 81 windows of ViT-B tokens",
        after_ours,
        after_literal,
        within(2e-3, "centroids", "maps"),
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
        within(1e-5, "plan"),
        "the plan times the number of pixels, half of the mass on the foreground",
    ),
}
