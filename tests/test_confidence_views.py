"""A segmenter that looks from several sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coin_ray.confidence import windowed
from coin_ray.confidence.prompts import Prompts, make_prompts, prompt_points
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.confidence.settings import SMALL_WINDOW, Sam
from coin_ray.confidence.tokens import token_windows
from coin_ray.confidence.views import ORDER, View, Viewed, majority, seen_from
from coin_ray.data.synthetic import generate_tile, generated_samples
from coin_ray.labels import InstanceMasks, boxes
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from tests.test_confidence_prompts import SHAPE, Drawer, blobs
from tests.test_confidence_sam import full, picture, tiny_sam


@pytest.mark.parametrize("side", ORDER)
def test_points_boxes_and_masks_lie_in_the_view_where_their_pixels_do(
    side: tuple[int, bool],
) -> None:
    label_map, view = blobs(), View(SHAPE, *side)
    seen = view.of(label_map)
    assert seen.shape == view.seen
    np.testing.assert_array_equal(view.back.of(seen), label_map)
    asked = make_prompts(label_map, "mask")
    outside = np.stack([asked.points_yx[[1, 2, 0]], np.full((3, 2), np.nan)], axis=1)
    prompts = view.prompts(Prompts(asked.points_yx, boxes(label_map), asked.masks, outside))
    assert prompts.negatives_yx is not None
    np.testing.assert_array_equal(prompts.negatives_yx[:, 0], prompts.points_yx[[1, 2, 0]])
    assert np.isnan(prompts.negatives_yx[:, 1]).all()
    y, x = prompts.points_yx.astype(int).T
    assert seen[y, x].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(prompts.boxes_yxyx, boxes(np.ascontiguousarray(seen)))
    assert prompts.masks is not None
    for i in range(3):
        np.testing.assert_array_equal(full(prompts.masks, i, view.seen), seen == i + 1)
        again = view.back.masks(prompts.masks)
        np.testing.assert_array_equal(full(again, i, SHAPE), label_map == i + 1)


@pytest.mark.parametrize("window", [None, 97])
@pytest.mark.parametrize("views", [2, 8])
def test_a_segmenter_that_every_side_is_alike_to_draws_the_same(
    views: int, window: int | None
) -> None:
    label_map, drawer = blobs(), Drawer()
    image = np.repeat(label_map[..., None], 3, axis=2).astype(np.uint8)
    model = seen_from(drawer, views)
    points = np.vstack([prompt_points(label_map, "innermost"), [[70.0, 10.0]]])
    seen = windowed.encode(model, image, window)
    masks = windowed.decode(model, seen, Prompts(points), SHAPE)
    for i in range(3):
        np.testing.assert_array_equal(full(masks, i, SHAPE), label_map == i + 1)
    assert masks.boxes[3].tolist() == [0, 0, 0, 0]
    assert len(windowed.decode(model, seen, Prompts(np.zeros((0, 2))), SHAPE)) == 0
    assert seen_from(drawer, 1) is drawer


def test_sam_is_asked_from_each_side() -> None:
    """The mask is the majority of what it draws of each turned image by hand."""
    sam, image = SamSegmenter(tiny_sam(3), batch=2), picture(60, 90)
    prompts = Prompts(np.array([[40.0, 44.0], [50.0, 9.0]]))
    model = Viewed(sam, 4)
    found = model.decode(model.encode(image), prompts, (60, 90))
    drawn = []
    for side in ORDER[:4]:
        view = View((60, 90), *side)
        own = sam.encode(view.of(image))
        drawn.append(view.back.masks(sam.decode(own, view.prompts(prompts), view.seen)))
    by_hand = majority(drawn)
    np.testing.assert_array_equal(found.boxes, by_hand.boxes)
    np.testing.assert_array_equal(found.predicted_iou, by_hand.predicted_iou)
    np.testing.assert_allclose(
        found.predicted_iou, np.mean([d.predicted_iou for d in drawn], axis=0)
    )
    for one, other in zip(found.crops, by_hand.crops, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_majority_counts_each_mask_by_its_predicted_iou() -> None:
    def mask(y: int, x: int, quality: float) -> InstanceMasks:
        drawn = np.zeros((12, 12), np.int32)
        drawn[y : y + 4, x : x + 4] = 1
        found = InstanceMasks.from_label_map(drawn)
        return InstanceMasks(found.boxes, found.crops, np.array([quality], np.float32))

    most = majority([mask(0, 0, 0.3), mask(2, 0, 0.3), mask(2, 2, 0.3)])
    assert full(most, 0, (12, 12))[2:4, 0:4].all()  # held by two of three
    assert most.areas().tolist() == [4 * 2 + 2 * 2]
    sure = majority([mask(0, 0, 0.9), mask(6, 6, 0.2), mask(6, 6, 0.2)])
    assert sure.boxes.tolist() == [[0, 0, 4, 4]]
    assert sure.predicted_iou == pytest.approx([1.3 / 3])
    empty = InstanceMasks(np.zeros((1, 4), np.int64), [np.zeros((0, 0), bool)], np.zeros(1, "f4"))
    assert majority([empty, empty]).boxes.tolist() == [[0, 0, 0, 0]]
    assert majority([mask(3, 5, 0.0), mask(3, 5, 0.0), empty]).boxes.tolist() == [[3, 5, 7, 9]]
    apart = majority([mask(0, 0, 0.5), mask(5, 5, 0.5), mask(8, 0, 0.5)])
    assert apart.boxes.tolist() == [[0, 0, 0, 0]]


def test_windows_of_the_small_segmenter_lie_where_they_do_without_views() -> None:
    """So that tiles of a slide, which begin on its grid, draw what the whole image would."""
    image, label_map = generate_tile(3, 300, diameter=22, crowding=0.5)
    segmenter = load_segmenter("mini", batch=64)
    prompts = make_prompts(label_map, "innermost")
    own = segmenter.decode(segmenter.encode(image), prompts, image.shape[:2])
    seen = windowed.encode(segmenter, image, SMALL_WINDOW)
    by_window = windowed.decode(segmenter, seen, prompts, image.shape[:2])
    pairs = [
        tuple(full(masks, i, image.shape[:2]) for masks in (own, by_window))
        for i in range(len(prompts))
    ]
    # Batches of other sizes round otherwise, and a point may lie in the middle of two windows.
    wrong = sum(np.count_nonzero(one != other) for one, other in pairs)
    assert wrong < 0.02 * sum(np.count_nonzero(one) for one, _ in pairs)
    assert windowed.window_px(Sam(model="mini"), 0.5) is None
    assert windowed.window_px(Sam(model="mini", views=2), 0.5) == SMALL_WINDOW
    assert windowed.window_px(Sam(model="vit_b", views=2), 0.5) is None


def test_keys_are_those_of_before_and_follow_the_views(tmp_path: Path) -> None:
    image = generated_samples(tmp_path, 1, size=64, seed=1)[0].image

    def key(stage: str, **sam: Any) -> tuple[str, str]:
        config = Cell.model_validate({"sam": {"model": "mini", "prompt": "innermost", **sam}})
        chain = Chain(config, 0, [image], str, lambda *_: "")
        found = chain.key(Ref(stage, image, 1 if stage == "masks" else 0))
        return found.digest, found.fields

    assert "views" not in key("embed")[1] and '"views":4' in key("embed", views=4)[1]
    assert key("masks")[0] != key("masks", views=4)[0]


def test_more_views_draw_better_outlines() -> None:
    """Of generated nuclei, each prompted at its centre: fewer pixels are wrong with eight views
    than with one, which holds for any rounding by a wide margin of pixels."""
    wrong = {}
    for views in (1, 8):
        model, wrong[views] = seen_from(load_segmenter("mini", batch=64), views), 0
        for seed in range(4):
            image, label_map = generate_tile(40 + seed, 192, diameter=22, crowding=0.4)
            prompts = make_prompts(label_map, "innermost")
            masks = model.decode(model.encode(image), prompts, image.shape[:2])
            for i in range(len(masks)):
                drawn: NDArray[np.bool_] = full(masks, i, image.shape[:2])
                wrong[views] += int(np.count_nonzero(drawn != (label_map == i + 1)))
    assert wrong[8] < wrong[1]


@pytest.mark.parametrize("size", [200, 300])
def test_tokens_are_those_of_the_image_as_it_is(size: int) -> None:
    image, _ = generate_tile(5, size, diameter=20)
    segmenter = load_segmenter("mini", batch=64)
    plain = token_windows("mini", segmenter.encode(image), (size, size))
    seen = windowed.encode(seen_from(segmenter, 4), image, SMALL_WINDOW)
    turned = token_windows("mini", seen, (size, size))
    np.testing.assert_array_equal(turned.origins, plain.origins)
    np.testing.assert_allclose(turned.tokens, plain.tokens, atol=0.02)  # other batches round
