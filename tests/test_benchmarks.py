"""The package's fast functions give what the literal, slow ones of the benchmark give."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from benchmarks import literal
from coin_ray.confidence.prompts import Prompts
from coin_ray.data.synthetic import generate_tile
from coin_ray.imaging.settings import Instances
from coin_ray.labels import InstanceMasks, relabel
from coin_ray.metrics.settings import Evaluate
from coin_ray.propagation.features import WindowFeatures, blocks
from coin_ray.propagation.settings import Ot, Uss

SIZE = 160


@pytest.fixture(scope="module")
def tile() -> tuple[np.ndarray, np.ndarray]:
    return generate_tile(2, SIZE, diameter=18, crowding=0.8)


@pytest.fixture(scope="module")
def features() -> WindowFeatures:
    """Random tokens of 3 x 4 overlapping windows; the last of a row and column shifted back."""
    rng = np.random.default_rng(0)
    side, shape = 40, (100, 130)
    origins = np.array(list(literal.windows(shape, side, 26)))
    tokens = rng.normal(0.5, 1, (len(origins), 12, 7, 7)).astype(np.float16)
    return window_features(tokens, origins, side, shape)


def window_features(
    tokens: np.ndarray, origins: np.ndarray, side: int, shape: tuple[int, int]
) -> WindowFeatures:
    geometry = np.array([*np.atleast_1d(side), *shape])
    return WindowFeatures.from_arrays({"tokens": tokens, "origins": origins, "geometry": geometry})


def pixel_features(features: WindowFeatures) -> torch.Tensor:
    parts = (
        (y, x, tokens)
        for (y, x), tokens in zip(features.origins.tolist(), features.tokens(), strict=True)
    )
    return literal.accumulate(parts, features.shape, features.window[0], 12)


@pytest.fixture(scope="module")
def masks(tile: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """A full-size mask for every instance: shifted, some grown over their neighbours, one empty."""
    rng = np.random.default_rng(1)
    out = []
    for i in range(1, tile[1].max() + 1):
        mask = np.roll(tile[1] == i, rng.integers(-3, 4, 2), axis=(0, 1))
        out.append(binary_dilation(mask, iterations=int(rng.integers(1, 5))))
    out[3][:] = False
    return out


def cropped(masks: list[np.ndarray]) -> InstanceMasks:
    boxes, crops = [], []
    for mask in masks:
        y, x = np.nonzero(mask)
        box = (y.min(), x.min(), y.max() + 1, x.max() + 1) if len(y) else (0, 0, 0, 0)
        boxes.append(box)
        crops.append(mask[box[0] : box[2], box[1] : box[3]])
    return InstanceMasks(np.array(boxes), crops, np.ones(len(masks), dtype=np.float32))


def test_windows_and_tokens_of_an_image(tile: tuple[np.ndarray, np.ndarray]) -> None:
    from coin_ray.propagation.backbones import Backbone
    from coin_ray.propagation.features import extract_features

    def tokens(batch: torch.Tensor) -> torch.Tensor:  # not symmetric, so that the flip matters
        left = torch.linspace(0, 1, batch.shape[3])
        return torch.nn.functional.avg_pool2d(batch * left, 16)

    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    backbone = Backbone(16, 3, mean, std, torch.device("cpu"), tokens)
    image = tile[0][:100]
    found = extract_features(image, backbone, Uss(window=150, stride=0.6), zoom=3.0, batch=8)
    tokens_found = found.to_arrays()["tokens"]
    parts = list(
        literal.window_tokens(
            image, tokens, zoom=3, side=50, stride=30, patch=16, mean=mean, std=std, hflip=True
        )
    )
    assert [p[:2] for p in parts] == [tuple(o) for o in found.origins.tolist()]
    slow = np.stack([p[2].numpy() for p in parts])
    assert slow.shape == tokens_found.shape
    # One interpolates bytes, the other floats, with other cubic kernels: some grey levels, in std.
    assert np.abs(slow - tokens_found).max() < 0.06
    assert slow.std() > 0.3


def test_pixel_features(features: WindowFeatures) -> None:
    fast = torch.cat([block for _, block in blocks(features, rows=17)]).permute(2, 0, 1)
    assert np.allclose(fast, pixel_features(features).numpy(), atol=1e-5)


def test_centroids_of_a_data_set(features: WindowFeatures) -> None:
    from coin_ray.propagation.centroids import centroids, class_sums, merge

    rng = np.random.default_rng(2)
    turned = features.to_arrays()["tokens"][::-1].copy()
    other = window_features(turned, features.origins, features.window, features.shape)
    images = [features, other]
    inside = [rng.random(features.shape) < share for share in (0.1, 0.6)]
    sums = [class_sums(f, m) for f, m in zip(images, inside, strict=True)]
    pixels = [pixel_features(f) for f in images]
    for i in range(2):
        fast = centroids(sums[i], merge(sums, "pixel"))
        assert np.allclose(fast, literal.centroids(pixels, inside, i).numpy(), atol=1e-6)
        fast = centroids(sums[i])
        slow = literal.centroids(pixels[i : i + 1], inside[i : i + 1], 0)
        assert np.allclose(fast, slow.numpy(), atol=1e-6)


def test_similarity(features: WindowFeatures) -> None:
    from coin_ray.propagation.similarity import similarity_map, stretched

    vectors = np.random.default_rng(3).normal(0.2, 1, (2, 12)).astype(np.float32)
    fast = stretched(similarity_map([(features, vectors)], relu=False), Uss())
    slow = literal.similarity(pixel_features(features), torch.from_numpy(vectors))
    assert np.allclose(fast, slow, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_transport_as_the_public_code_stops(seed: int) -> None:
    from scipy.ndimage import gaussian_filter

    from coin_ray.propagation.transport import transport

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(2, 120, 90)), (0, 3, 3))
    field -= field.min(axis=(1, 2), keepdims=True)
    maps = (field / field.max(axis=(1, 2), keepdims=True)).astype(np.float32)
    maps[0] = np.maximum(maps[0], 1 - maps[1])
    ot = Ot(mode="one_step", foreground_mass=0.5)
    fast, slow = transport(maps, ot, complement=True), literal.transport(maps)
    assert np.abs(fast - slow).max() < 1e-5
    decided = np.abs(slow[1] - slow[0]) > 1e-5  # a tie may fall either way
    assert np.array_equal((fast[1] > fast[0])[decided], (slow[1] > slow[0])[decided])
    assert decided.mean() > 0.99
    assert 0 < (fast[1] > fast[0]).mean() < 1


@pytest.mark.parametrize("footprint", [5, 12])
def test_instances(tile: tuple[np.ndarray, np.ndarray], footprint: int) -> None:
    """Equal in the same precision; in another, rounding may decide otherwise between two peaks."""
    from coin_ray.imaging.instances import distance_map, split_instances
    from coin_ray.metrics.aji import aji
    from coin_ray.metrics.contingency import contingency

    foreground = tile[1] > 0
    dtype = distance_map(foreground, sigma=1.0).dtype.type
    fast = split_instances(foreground, Instances(footprint=footprint, keep_border=False))
    slow = literal.instances(foreground, footprint=footprint, dtype=dtype)
    assert slow.max() > 10
    assert np.array_equal(fast, relabel(slow))
    double = literal.instances(foreground, footprint=footprint)
    assert aji(contingency(double, fast)) > 0.95


def test_prompt_points(tile: tuple[np.ndarray, np.ndarray]) -> None:
    from coin_ray.confidence.prompts import prompt_points

    assert np.array_equal(prompt_points(tile[1], "centroid"), literal.prompts(tile[1]))


def test_prompts_in_batches(tile: tuple[np.ndarray, np.ndarray]) -> None:
    from coin_ray.confidence.small import SmallSegmenter
    from coin_ray.confidence.small_model import SmallSam

    with torch.random.fork_rng():
        torch.manual_seed(0)
        segmenter = SmallSegmenter(SmallSam(), batch=8)
    points = literal.prompts(tile[1])[:12]
    embedding, shape = segmenter.encode(tile[0]), tile[1].shape
    fast = segmenter.decode(embedding, Prompts(points), shape)
    slow = literal.prompt_one_by_one(
        lambda p: segmenter.decode(embedding, Prompts(p), shape), points, shape
    )
    assert_same_masks(fast, slow)


def test_prompts_of_segment_anything() -> None:
    from benchmarks.inputs import random_sam
    from coin_ray.confidence.sam import SamSegmenter

    with torch.random.fork_rng():
        sam = random_sam()
        embedding = torch.randn(256, 64, 64).half()
    points, shape = np.array([[10.0, 20.0], [70.0, 5.0], [33.0, 90.0]]), (100, 100)
    fast = SamSegmenter(sam, batch=2).decode(
        {"embedding": embedding.numpy()}, Prompts(points), shape
    )
    with torch.inference_mode():
        slow = literal.sam_one_by_one(sam, embedding.float()[None], points, shape)
    assert_same_masks(fast, slow)


def assert_same_masks(fast: InstanceMasks, slow: list[np.ndarray]) -> None:
    """But for pixels whose logit is 0 up to rounding."""
    different = 0
    for box, crop, mask in zip(fast.boxes.tolist(), fast.crops, slow, strict=True):
        full = np.zeros_like(mask)
        full[box[0] : box[2], box[1] : box[3]] = crop
        different += int((full != mask).sum())
    total = sum(int(m.sum()) for m in slow)
    assert total > 100
    assert different <= 1e-3 * total


def test_scores(tile: tuple[np.ndarray, np.ndarray], masks: list[np.ndarray]) -> None:
    from coin_ray.confidence.scoring import agreement

    slow = literal.scores(tile[1], masks)
    assert np.allclose(agreement(tile[1], cropped(masks)), slow, atol=1e-6)
    assert slow[3] == 0 < slow[4] < 1


def test_pseudo_labels(tile: tuple[np.ndarray, np.ndarray], masks: list[np.ndarray]) -> None:
    from coin_ray.distillation.targets import pseudo_labels

    scores = np.round(literal.scores(tile[1], masks), 1)  # ties too
    accepted = scores > np.median(scores)
    fast = pseudo_labels(tile[1], cropped(masks), scores, accepted, source="segmenter")
    labels, ignore = literal.pseudo_labels(tile[1], masks, scores, accepted)
    assert np.array_equal(fast.label_map, relabel(labels))
    assert np.array_equal(fast.ignore, ignore)
    assert fast.ignore.any()
    assert ((fast.label_map > 0) & (tile[1] == 0)).any()


@pytest.mark.parametrize("gap", [8, 1, 0])
def test_edge_target_follows_canny(gap: int) -> None:
    """Two discs apart, nearly touching and touching: the same lines within a pixel."""
    from coin_ray.distillation.targets import edge_target

    y, x = np.mgrid[:60, :90]
    labels = np.zeros((60, 90), dtype=np.int32)
    left, right = 30, 30 + 24 + 1 + gap
    labels[(y - 30) ** 2 + (x - left) ** 2 <= 144] = 1
    labels[(y - 30) ** 2 + (x - right) ** 2 <= 144] = 2
    fast, slow = edge_target(labels), literal.edge_target(labels)
    assert_near(fast, slow)
    own = np.zeros_like(fast)
    for i in (1, 2):  # each disc is closed off by itself, also where they touch
        own |= edge_target(np.where(labels == i, labels, 0))
    assert np.array_equal(fast, own)


def test_edge_target_of_a_tile(tile: tuple[np.ndarray, np.ndarray]) -> None:
    from coin_ray.distillation.targets import edge_target

    assert_near(edge_target(tile[1]), literal.edge_target(tile[1]))


def assert_near(a: np.ndarray, b: np.ndarray) -> None:
    square = np.ones((3, 3), dtype=bool)
    assert a.any()
    assert not (a & ~binary_dilation(b, square)).any()
    assert not (b & ~binary_dilation(a, square)).any()


def test_canny_of_a_square() -> None:
    """Worked out by hand: on each side the stronger of two equal rows is the upper or left one."""
    mask = np.zeros((12, 12), dtype=np.uint8)
    mask[3:9, 3:9] = 255
    found = literal.canny(mask)
    inside = found[4:8, 4:8]
    assert not inside.any()
    assert found[2, 4:8].all()
    assert not found[3, 4:8].any()
    assert found[8, 4:8].all()
    assert found[4:8, 2].all()
    assert found[4:8, 8].all()


@pytest.mark.parametrize("shift", [0, 2, 60])
def test_metrics(tile: tuple[np.ndarray, np.ndarray], shift: int) -> None:
    from coin_ray.metrics.evaluate import evaluate

    true = tile[1]
    predicted = relabel(np.where(np.roll(true, shift, axis=1) % 5 == 1, 0, np.roll(true, shift, 1)))
    fast, slow = evaluate(true, predicted, Evaluate()), literal.evaluate(true, predicted)
    for name, value in slow.items():
        assert fast[f"official_{name}"] == pytest.approx(value, abs=1e-9), name
    # The correct AJI equals the public one where the ids have no gap; PQ counts one cell more.
    assert fast["aji"] == pytest.approx(slow["aji"])
    assert fast["pq"] == pytest.approx(slow["pq"], abs=0.05)


def test_metrics_with_a_gap_in_the_ids(tile: tuple[np.ndarray, np.ndarray]) -> None:
    from coin_ray.metrics.evaluate import evaluate

    predicted = np.where(tile[1] == 2, 0, tile[1])
    fast, slow = evaluate(tile[1], predicted, Evaluate()), literal.evaluate(tile[1], predicted)
    assert slow["aji"] == fast["official_aji"] == 0
    assert fast["aji"] > 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_a_peak_that_is_gone_at_the_end_is_seen() -> None:
    from benchmarks.measure import repeated

    def run() -> dict[str, float]:
        return {"sum": float(np.ones(2_000_000).sum())}

    found = repeated(run)
    assert 14 < found.peak < 30
    assert found.result == {"sum": 2e6}


def test_rows_say_what_is_extrapolated_and_what_disagrees() -> None:
    from benchmarks.measure import Measured
    from benchmarks.stages import _cells

    ours = Measured(12.0, 12.0, 500.0, {"passes": 6})
    other = Measured(3.0, 2.0, 900.0, {"passes": 1})
    first, second = _cells("passes", 162, ours, other, (False, "DIFFERENT"))
    assert first[:5] == ["passes", "2 (2)", "3 (2)", "1.5", "1"]
    assert first[5:] == ["500", "900", "**no:** DIFFERENT"]
    assert second[:4] == ["162 passes, **extrapolated**", "324 (324)", "486 (324)", "1.5"]


def test_a_peak_above_the_limit_is_no_agreement() -> None:
    from benchmarks.cases import Case
    from benchmarks.measure import Measured
    from benchmarks.stages import _agreement

    case = Case("features", lambda inputs: dict, limit_mb=400)
    assert _agreement(case, Measured(1, 1, 399, {}), None)[0]
    assert not _agreement(case, Measured(1, 1, 401, {}), None)[0]


def test_tokens_are_measured_by_the_area_under_the_roc_curve() -> None:
    from benchmarks.backbones import auc

    truth = np.array([[True, True, False], [False, False, False]])
    assert auc(np.array([[0.9, 0.4, 0.4], [0.1, 0.2, 0.8]]), truth) == (4 + 2 + 0.5) / 8
    assert auc(-truth.astype(float), truth) == 0
    assert auc(np.zeros(truth.shape), truth) == 0.5


def test_a_backbone_that_sees_nothing_but_colour_still_separates_stained_nuclei() -> None:
    from benchmarks.backbones import MINI as STAIN
    from benchmarks.backbones import auc, named, separation
    from coin_ray.ucis.stain import stain_mask

    image, truth = generate_tile(5, 128)
    uss = Uss(window=256, hflip=False, zoom=(2.0,), normalise="whiten")
    score = separation(image, stain_mask(image, STAIN), named("untrained:dinov1_mini"), uss)
    assert score.shape == truth.shape
    assert auc(score, truth > 0) > 0.7
