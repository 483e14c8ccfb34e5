"""What segmenters are told of instances: boxes and masks beside points, and magnified windows."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from coin_ray.compat import ensure_torchvision
from coin_ray.confidence import windowed
from coin_ray.confidence.frame import Frame
from coin_ray.confidence.prompts import Prompts, make_prompts, prompt_points, with_negatives
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.confidence.settings import Sam
from coin_ray.confidence.small import SmallSegmenter
from coin_ray.confidence.small_model import SmallSam
from coin_ray.data.synthetic import generated_samples
from coin_ray.labels import InstanceMasks, LabelMap, boxes
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.runner import open_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from tests.conftest import TINY
from tests.test_confidence_sam import full, home_with, picture, tiny_sam

SHAPE = (100, 140)


def blobs() -> LabelMap:
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    out = np.zeros(SHAPE, dtype=np.int32)
    out[(yy - 20) ** 2 + (xx - 30) ** 2 < 81] = 1
    out[40:60, 70:75] = 2
    out[90:, 120:] = 3
    return out


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_boxes_and_masks_are_decoded_as_the_predictor_decodes_them(kind: str) -> None:
    sam, prompts = tiny_sam(), make_prompts(blobs(), kind)
    from segment_anything import SamPredictor

    image, predictor = picture(*SHAPE), SamPredictor(sam)
    segmenter = SamSegmenter(sam, batch=2)
    segmenter.batch = 2  # as on a GPU
    embedding = segmenter.encode(image)
    predictor.set_image(image)
    predictor.features = torch.from_numpy(embedding["embedding"].astype(np.float32))[None]
    masks = segmenter.decode(embedding, prompts, SHAPE)
    for i, (y, x) in enumerate(prompts.points_yx):
        asked: dict[str, Any] = {"multimask_output": False}
        if kind == "box":
            y0, x0, y1, x1 = boxes(blobs())[i]
            asked["box"] = np.array([x0, y0, x1 - 1, y1 - 1])
        else:
            frame = Frame(SHAPE, (91, 128), 128, 32)
            low = frame.logits(prompts.masks.take(np.array([i])))[0].numpy()
            asked |= {"point_coords": np.array([[x, y]]), "point_labels": np.array([1])}
            asked["mask_input"] = low
        found, iou, _ = predictor.predict(**asked)
        assert (full(masks, i, SHAPE) != found[0]).mean() < 1e-3
        assert masks.predicted_iou[i] == pytest.approx(np.clip(iou[0], 0, 1), abs=1e-5)


@pytest.mark.parametrize("kind", ["innermost", "box", "mask"])
def test_points_outside_are_decoded_as_the_predictor_decodes_them(kind: str) -> None:
    """Label 0 in SAM's own predictor, beside what else it is told; of a lone point there is
    nothing more to say, and all is as without."""
    sam, label_map = tiny_sam(), crowd()
    from segment_anything import SamPredictor

    image, predictor = picture(*SHAPE), SamPredictor(sam)
    segmenter = SamSegmenter(sam, batch=2)
    segmenter.batch = 2  # as on a GPU
    embedding = segmenter.encode(image)
    predictor.set_image(image)
    predictor.features = torch.from_numpy(embedding["embedding"].astype(np.float32))[None]
    plain = make_prompts(label_map, kind)
    prompts = with_negatives(plain, label_map, 2, 30.0)
    assert prompts.negatives().tolist() == [1, 2, 2, 1, 0]
    masks = segmenter.decode(embedding, prompts, SHAPE)
    alone = segmenter.decode(embedding, plain, SHAPE)
    changed = []
    for i, (y, x) in enumerate(prompts.points_yx):
        outside = prompts.negatives_yx[i, : prompts.negatives()[i]]
        said = [] if kind == "box" else [(y, x)]
        points, kinds = [*said, *outside], [1] * len(said) + [0] * len(outside)
        lone = kind == "innermost" and not len(outside)
        asked: dict[str, Any] = {"multimask_output": lone}
        if points:
            asked["point_coords"] = np.array(points)[:, ::-1]
            asked["point_labels"] = np.array(kinds)
        if kind == "box":
            y0, x0, y1, x1 = boxes(label_map)[i]
            asked["box"] = np.array([x0, y0, x1 - 1, y1 - 1])
        if kind == "mask":
            frame = Frame(SHAPE, (91, 128), 128, 32)
            asked["mask_input"] = frame.logits(prompts.masks.take(np.array([i])))[0].numpy()
        found, iou, _ = predictor.predict(**asked)
        best = int(iou.argmax())
        assert (full(masks, i, SHAPE) != found[best]).mean() < 1e-3
        assert masks.predicted_iou[i] == pytest.approx(np.clip(iou[best], 0, 1), abs=1e-5)
        changed.append(bool((full(masks, i, SHAPE) != full(alone, i, SHAPE)).any()))
    assert any(changed[:4]) and not changed[4]


def crowd() -> LabelMap:
    """Three disks in a row, one below the last, one far away."""
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    out = np.zeros(SHAPE, dtype=np.int32)
    disks = [(20, 20, 6), (20, 36, 7), (20, 54, 7), (48, 54, 6), (80, 120, 6)]
    for i, (y, x, r) in enumerate(disks, start=1):
        out[(yy - y) ** 2 + (xx - x) ** 2 < r * r] = i
    return out


def test_points_outside_are_the_nearest_neighbours() -> None:
    label_map = crowd()
    centres = prompt_points(label_map, "innermost")
    near = with_negatives(make_prompts(label_map, "centroid"), label_map, 3, 40.0)
    for i, which in enumerate([[1, 2], [0, 2, 3], [1, 3, 0], [2, 1], []]):
        np.testing.assert_array_equal(near.negatives_yx[i, : len(which)], centres[which])
        assert np.isnan(near.negatives_yx[i, len(which) :]).all()
    assert label_map[tuple(near.negatives_yx[1].T.astype(int))].tolist() == [1, 3, 4]
    one = with_negatives(make_prompts(label_map, "centroid"), label_map, 1, 40.0)
    np.testing.assert_array_equal(one.negatives_yx[:, 0], near.negatives_yx[:, 0])
    none = with_negatives(make_prompts(label_map, "centroid"), label_map, 3, 1.0)
    assert none.ambiguous and not near.ambiguous and near.take(np.array([4])).ambiguous
    empty = np.zeros((5, 5), np.int32)
    assert len(with_negatives(make_prompts(empty, "centroid"), empty, 3, 40.0)) == 0


def test_equally_near_neighbours_come_in_raster_order() -> None:
    label_map = np.zeros((41, 41), np.int32)
    for i, (y, x) in enumerate([(20, 20), (30, 20), (20, 30), (10, 20), (20, 10)], 1):
        label_map[y - 1 : y + 2, x - 1 : x + 2] = i
    found = with_negatives(make_prompts(label_map, "centroid"), label_map, 2, 15.0)
    assert found.negatives_yx[0].tolist() == [[10, 20], [20, 10]]


@pytest.mark.parametrize("window", [None, 64])
def test_the_order_of_instances_does_not_change_a_mask(window: int | None) -> None:
    label_map, segmenter = crowd(), SamSegmenter(tiny_sam(), batch=1)
    seen = windowed.encode(segmenter, picture(*SHAPE), window)
    new = np.array([0, 4, 2, 5, 1, 3], np.int32)  # instance i is called new[i]
    masks = []
    for ids in (label_map, new[label_map]):
        prompts = with_negatives(make_prompts(ids, "innermost"), ids, 2, 40.0)
        masks.append(windowed.decode(segmenter, seen, prompts, SHAPE))
    for i in range(5):
        one, other = full(masks[0], i, SHAPE), full(masks[1], int(new[i + 1]) - 1, SHAPE)
        np.testing.assert_array_equal(one, other)
        assert masks[0].predicted_iou[i] == masks[1].predicted_iou[new[i + 1] - 1]


def test_points_outside_of_a_window_are_left_out_of_it() -> None:
    label_map = crowd()
    prompts = with_negatives(make_prompts(label_map, "innermost"), label_map, 3, 40.0)
    within = prompts.within((0, 28), (40, 40))
    assert within.negatives().tolist() == [2, 1, 1, 2, 0]
    np.testing.assert_array_equal(within.negatives_yx[1, 0], [20, 54 - 28])
    np.testing.assert_array_equal(within.negatives_yx[2, 0], [20, 36 - 28])


def test_a_mask_becomes_logits_where_its_image_lies() -> None:
    """Its share of the square is its share of the image, of which the square holds a part."""
    masks = InstanceMasks.from_label_map(blobs())
    logits = Frame(SHAPE, (91, 128), 128, 32).logits(masks).numpy()
    assert logits.shape == (3, 1, 32, 32) and np.abs(logits).max() < 7
    share = 1 / (1 + np.exp(-logits[:, 0]))
    side = 128 / 140  # px of the square a px of the image
    shown = (share - 1e-3).sum((1, 2)) * 16
    np.testing.assert_allclose(shown, masks.areas() * side**2, rtol=0.05)
    assert (share[:, 23:] < 0.01).all(), "nothing below the image"
    low = (share[0] - 1e-3) / (share[0] - 1e-3).sum()
    y, x = (low * (np.indices((32, 32)) + 0.5)).sum((1, 2)) * 4 / side
    assert (y, x) == (pytest.approx(20.5, abs=0.3), pytest.approx(30.5, abs=0.3))


def test_kinds_of_prompts() -> None:
    found = {kind: make_prompts(blobs(), kind) for kind in ("centroid", "innermost", "box", "mask")}
    for kind, prompts in found.items():
        assert len(prompts) == 3 and prompts.ambiguous == (kind in ("centroid", "innermost"))
        np.testing.assert_array_equal(prompts.points_yx, prompt_points(blobs(), kind))
    np.testing.assert_array_equal(found["box"].points_yx, found["innermost"].points_yx)
    np.testing.assert_array_equal(found["box"].boxes_yxyx, boxes(blobs()))
    assert found["mask"].masks.areas().tolist() == np.bincount(blobs().ravel())[1:].tolist()
    assert len(make_prompts(np.zeros((5, 5), np.int32), "mask")) == 0


def test_prompts_in_a_window_are_those_of_the_window_alone() -> None:
    corner, shape = (10, 25), (40, 60)
    part = blobs()[10:50, 25:85]
    within = make_prompts(blobs(), "mask").within(corner, shape)
    for i in range(3):
        np.testing.assert_array_equal(full(within.masks, i, shape), part == i + 1)
    inside = make_prompts(blobs(), "box").within(corner, shape)
    assert inside.boxes_yxyx[0].tolist() == boxes((part == 1).astype(np.int32))[0].tolist()


class Drawer:
    """Draws what it is shown: the pixels of the prompt's own value."""

    def encode(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        self.seen = [*getattr(self, "seen", []), image.shape[:2]]
        side = np.zeros((200, 200), np.uint8)
        side[: image.shape[0], : image.shape[1]] = image[..., 0]
        return {"embedding": side}

    def decode(
        self, embedding: dict[str, NDArray[Any]], prompts: Prompts, shape: tuple[int, int]
    ) -> InstanceMasks:
        image = embedding["embedding"][: shape[0], : shape[1]]
        crops, where = [], []
        for y, x in prompts.points_yx.astype(int):
            mask = (image == image[y, x]) & (image[y, x] > 0)
            box = boxes(mask.astype(np.int32))[0] if mask.any() else np.zeros(4, int)
            where.append(box)
            crops.append(mask[box[0] : box[2], box[1] : box[3]])
        quality = np.linspace(0, 1, len(crops), dtype=np.float32)
        return InstanceMasks(np.array(where, dtype=np.int64).reshape(-1, 4), crops, quality)


@pytest.mark.parametrize("window", [None, 60, 97, 1000])
def test_masks_of_windows_lie_where_those_of_the_image_do(window: int | None) -> None:
    label_map = blobs()
    image, drawer = np.repeat(label_map[..., None], 3, axis=2).astype(np.uint8), Drawer()
    seen = windowed.encode(drawer, image, window)
    assert set(drawer.seen) == {tuple(min(n, window or 1000) for n in SHAPE)}
    # One prompt more, on nothing: its mask is empty wherever it is drawn.
    points = np.vstack([prompt_points(label_map, "innermost"), [[70.0, 10.0]]])
    masks = windowed.decode(drawer, seen, Prompts(points), SHAPE)
    for i in range(3):
        np.testing.assert_array_equal(full(masks, i, SHAPE), label_map == i + 1)
    assert masks.boxes[3].tolist() == [0, 0, 0, 0]
    assert len(windowed.decode(drawer, seen, Prompts(np.zeros((0, 2))), SHAPE)) == 0


def test_a_window_as_large_as_the_image_changes_nothing() -> None:
    sam, image = tiny_sam(3), picture(90, 90)
    segmenter, prompts = SamSegmenter(sam, batch=1), Prompts(np.array([[40.0, 44.0], [70.0, 9.0]]))
    whole = windowed.decode(segmenter, windowed.encode(segmenter, image, None), prompts, (90, 90))
    seen = windowed.encode(segmenter, image, 90)
    assert seen["windows"].tolist() == [[0, 0, 90, 90]]
    again = windowed.decode(segmenter, seen, prompts, (90, 90))
    for i in range(2):
        np.testing.assert_array_equal(full(again, i, (90, 90)), full(whole, i, (90, 90)))
    with pytest.raises(ValueError, match="do not belong"):
        windowed.decode(segmenter, seen, prompts, (91, 90))


def test_the_small_segmenter_takes_points_alone() -> None:
    small = SmallSegmenter(SmallSam(dim=16, depth=1, heads=2, decoder_dim=16), batch=1)
    embedding = small.encode(picture(64, 64))
    with pytest.raises(ValueError, match="points alone"):
        small.decode(embedding, make_prompts(blobs()[:64, :64], "box"), (64, 64))
    outside = with_negatives(make_prompts(crowd(), "innermost"), crowd(), 1, 40.0)
    with pytest.raises(ValueError, match="points alone"):
        small.decode(embedding, outside, (64, 64))
    for setting in ({"prompt": "box"}, {"prompt": "mask"}, {"window": 256}, {"negatives": 1}):
        with pytest.raises(ValidationError, match=r"needs a sam\.model other than mini"):
            Sam(model="mini", **setting)


def test_keys_are_those_of_before_and_follow_the_new_settings(tmp_path: Path) -> None:
    image = generated_samples(tmp_path, 1, size=64, seed=1)[0].image
    plain = {"sam": {"model": "vit_h"}}

    def key(stage: str, **sam: Any) -> tuple[str, str]:
        config = Cell.model_validate({**plain, "sam": {**plain["sam"], **sam}})
        chain = Chain(config, 0, [image], str, lambda *_: "")
        found = chain.key(Ref(stage, image, 1 if stage == "masks" else 0))
        return found.digest, found.fields

    digest, fields = key("embed")
    assert "window" not in fields and "scale" not in fields
    assert key("embed", window=256)[0] != digest == key("embed", prompt="box")[0]
    assert '"window":256' in key("embed", window=256)[1]
    masks = [key("masks", **asked)[0] for asked in ({}, {"prompt": "box"}, {"window": 256})]
    assert len(set(masks)) == 3
    plain_masks = key("masks")
    assert "negatives" not in plain_masks[1] and "scale" not in plain_masks[1]
    assert key("masks", negatives_radius=9.0) == plain_masks
    told = [
        key("masks", negatives=n, negatives_radius=r)[0] for n, r in ((1, 9.0), (1, 8.0), (2, 8.0))
    ]
    assert len({*told, plain_masks[0]}) == 4 and key("embed", negatives=2)[0] == digest


@pytest.mark.parametrize(
    ("kind", "mpp", "negatives"), [("box", 0.25, 0), ("mask", 0.5, 0), ("innermost", 0.5, 3)]
)
def test_a_cell_asks_as_its_settings_say(
    kind: str, mpp: float, negatives: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its masks are those of a segmenter that is asked by hand; windows follow the resolution."""
    ensure_torchvision()
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_sam)
    home_with(tmp_path, monkeypatch, tiny_sam().state_dict())
    load_segmenter.cache_clear()
    (sample,) = generated_samples(tmp_path / "tiles", 1, size=80, seed=3)
    image = replace(sample.image, mpp=mpp)
    sam: dict[str, Any] = {"model": "vit_b", "prompt": kind, "window": 48}
    if negatives:
        sam |= {"negatives": negatives, "negatives_radius": 60.0}
    values = copy.deepcopy(TINY) | {"sam": sam, "uss": {"family": "none"}, "rounds": {"count": 0}}
    run = open_local(Cell.model_validate(values), 0, [image], tmp_path / "workspace")
    found, instances = run.masks(image, 1), run.array("instances", image)
    assert run.artifact("score", image, 1).info["instances"] == len(found) > 0

    segmenter, pixels = SamSegmenter(tiny_sam(), batch=1), image.load()
    seen = windowed.encode(segmenter, pixels, round(48 * 0.25 / mpp))
    prompts = make_prompts(instances, kind)
    if negatives:
        prompts = with_negatives(prompts, instances, negatives, 60.0 * 0.25 / mpp)
        assert 0 < prompts.negatives().max() <= negatives
    asked = windowed.decode(segmenter, seen, prompts, pixels.shape[:2])
    np.testing.assert_array_equal(found.boxes, asked.boxes)
    for one, other in zip(found.crops, asked.crops, strict=True):
        np.testing.assert_array_equal(one, other)
    load_segmenter.cache_clear()
