"""``uss.family: sam``: what the segmenter's encoder has seen already, as features of Step 1."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.compat import ensure_torchvision
from coin_ray.confidence import windowed
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.confidence.segmenter import load_segmenter
from coin_ray.confidence.small import SmallSegmenter
from coin_ray.confidence.tokens import TokenWindows, token_windows
from coin_ray.data.sample import Sample
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.needs import needed_weights
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.propagation.features import WindowFeatures, blocks, normalise_features
from coin_ray.study.study import resolve
from coin_ray.ucis.maskcut import maskcut
from coin_ray.ucis.settings import Maskcut
from tests.conftest import TINY
from tests.test_confidence_sam import home_with, picture, tiny_sam
from tests.test_confidence_sam2 import small_sam2


def config(**sections: dict[str, Any]) -> Cell:
    values = copy.deepcopy(TINY) | {"rounds": {"count": 0}}
    values["uss"] = {**values["uss"], "family": "sam", "normalise": "whiten", "zoom": [2.0, 3.0]}
    for name, patch in sections.items():
        values[name] = values.get(name, {}) | patch
    return Cell.model_validate(values)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shape of every image that an encoder has looked at."""
    seen: list[tuple[int, ...]] = []
    for kind in (SmallSegmenter, SamSegmenter):
        encode = kind.encode

        def counted(self: Any, image: Any, encode: Any = encode) -> Any:
            seen.append(image.shape)
            return encode(self, image)

        monkeypatch.setattr(kind, "encode", counted)
    load_segmenter.cache_clear()
    yield seen
    load_segmenter.cache_clear()


def test_a_cell_looks_at_each_image_once(
    tiles: list[Sample], tmp_path: Path, passes: list[tuple[int, ...]]
) -> None:
    """The features first: the segmenter's masks then need no pass of their own, nor does a second
    cell, and neither a backbone nor tokens of their own are stored."""
    images = [tile.image for tile in tiles]
    computed: list[str] = []
    run = open_local(
        config(), 0, images, tmp_path, done=lambda key, seconds: computed.append(key.stage)
    )
    rows, _ = run_local(run, tiles)
    assert passes == [(96, 96, 3)] * 2
    assert computed.count("embed") == 2 and "features" not in computed
    assert computed.count("centroids") == 2, "the zooms of a backbone are none of its own"
    assert any(row["step"] == "step1" and row["metric"] == "aji" for row in rows)
    open_local(config(ot={"lambda": 0.3}), 0, images, tmp_path).array("refine", images[0])
    assert len(passes) == 2
    assert needed_weights(run.config) == ("sam_mini",)


def test_the_segmenter_that_holds_the_model_makes_the_embedding(
    tiles: list[Sample], tmp_path: Path
) -> None:
    """On a cluster this is an actor; the process of a step has no model then."""
    image, asked = tiles[0].image, []
    run = open_local(config(), 0, [image], tmp_path)

    class Told:
        def masks(self, image: Any, embed: Any, prompts: Any, *rest: Any) -> Any:
            asked.append((embed.stage, len(prompts)))
            return run.segmenter.masks(image, embed, prompts, *rest)

    replace(run, segmenter=Told()).artifact("similarity", image)
    assert asked == [("embed", 0)]


def test_the_key_follows_the_segmenter_and_nothing_of_a_backbone(tiles: list[Sample]) -> None:
    image = tiles[0].image

    def key(weights: str = "", **sections: Any) -> str:
        cell = config(**sections)
        chain = Chain(cell, 0, [image], lambda name: name + weights, lambda *_: "")
        return chain.key(Ref("similarity", image)).digest

    same = {"size": "large", "zoom": 4.0, "window": 64, "hflip": True, "stride": 0.5, "layer": -2}
    assert key() == key(uss=same) == key(uss={"precision": "bf16", "weights": "fit3d"})
    different = [
        key(),
        key("another file"),
        key(sam={"model": "vit_b"}),
        key(sam={"model": "vit_b", "window": 64}),
        key(sam={"precision": "bf16"}),
        key(uss={"family": "mae"}),
        key(uss={"normalise": "none"}),
    ]
    assert len(set(different)) == len(different)
    chain = Chain(config(sam={"negatives": 0, "model": "vit_b"}), 0, [image], str, lambda *_: "")
    with_negatives = config(sam={"negatives": 3, "model": "vit_b"})
    other = Chain(with_negatives, 0, [image], str, lambda *_: "")
    for stage in ("embed", "similarity"):
        assert chain.key(Ref(stage, image)) == other.key(Ref(stage, image))


STUDY = """
study: seen
extends: mini
baseline: {uss.zoom: 3.0, rounds.count: 0}
factors:
  backbone:
    baseline: mae
    levels:
      mae: {uss.family: mae}
      sam: {uss.family: sam%s}
"""


@pytest.mark.parametrize("profile", ["mini", "coin", "official"])
def test_a_level_takes_it_whatever_the_profile_says_of_a_backbone(
    profile: str, tmp_path: Path
) -> None:
    path = tmp_path / "seen.yaml"
    path.write_text(STUDY.replace("extends: mini", f"extends: {profile}") % "")
    assert {cell.config.uss.family for cell in resolve(str(path)).cells} == {"mae", "sam"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("size", "small"), ("weights", "plain"), ("layer", -2), ("zoom", 4.0), ("window", 64)),
        *(("stride", 0.5), ("hflip", "true"), ("precision", "bf16")),
    ],
)
def test_what_it_has_not_is_refused_where_it_stands(
    setting: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "seen.yaml"
    path.write_text(STUDY % f", uss.{setting}: {value}")
    with pytest.raises(UserError) as told:
        resolve(str(path))
    assert f"seen.yaml:10:{36 + len(setting)}" in str(told.value)
    assert f"uss.{setting} says nothing beside uss.family: sam" in str(told.value)
    assert "sam.model" in str(told.value)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("baseline: {uss.family: sam, uss.zoom: 2.0}", "seen.yaml:4:39"),
        (
            "baseline: {uss.family: sam}\n"
            "factors: {zoom: {key: uss.zoom, baseline: 2.0, levels: [2.0, 3.0]}}",
            "uss.zoom says nothing",
        ),
        (
            "design: search\ntrials: 2\nbaseline: {uss.family: sam}\n"
            "space: {uss.hflip: {any: [true, false]}}",
            "uss.hflip says nothing",
        ),
        (
            "design: search\ntrials: 2\nbaseline: {uss.family: sam}\n"
            "space: {uss.zoom: {lin: [1.0, 3.0]}}",
            "uss.zoom says nothing",
        ),
        (
            "design: search\ntrials: 2\n"
            "space: {uss.family: {any: [mae, sam]}, uss.zoom: {lin: [1.0, 3.0]}}",
            "when: {uss.family",
        ),
    ],
)
def test_it_is_refused_in_a_baseline_a_factor_and_a_search(
    text: str, at: str, tmp_path: Path
) -> None:
    path = tmp_path / "seen.yaml"
    path.write_text(f"\nstudy: seen\nextends: mini\n{text}\n")
    with pytest.raises(UserError) as told:
        resolve(str(path))
    assert at in str(told.value)


def test_a_search_asks_for_a_zoom_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "seen.yaml"
    path.write_text(
        "study: seen\nextends: mini\ndesign: search\ntrials: 2\nspace:\n"
        "  uss.family: {any: [mae, sam]}\n"
        "  uss.zoom: {lin: [1.0, 3.0], when: {uss.family: mae}}\n"
    )
    assert resolve(str(path)).search is not None


def pixel_features(found: TokenWindows, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, D) as Step 1 has them."""
    geometry = np.array([*found.window, *shape])
    arrays = {"tokens": found.tokens, "origins": found.origins, "geometry": geometry}
    features = WindowFeatures.from_arrays(arrays)
    return np.concatenate([block.numpy() for _, block in blocks(features, rows=13)])


@pytest.mark.parametrize("shape", [(96, 130), (130, 96), (300, 200), (600, 257)])
def test_tokens_lie_where_the_small_segmenter_saw_them(shape: tuple[int, int]) -> None:
    """Tokens that say where they are, laid out as its decoder lays them out."""
    from coin_ray.confidence.small import window_corners

    corners, middle = window_corners(shape), np.arange(32) * 8 + 3.5
    tokens = np.empty((len(corners), 2, 32, 32), np.float16)
    tokens[:, 0] = (corners[:, 0, None] + middle)[:, :, None]
    tokens[:, 1] = (corners[:, 1, None] + middle)[:, None, :]
    found = token_windows("mini", {"embedding": tokens}, shape)
    pixels = pixel_features(found, shape)
    where = np.moveaxis(np.indices(shape), 0, 2)
    # At the border of a window a pixel has the place of its nearest token.
    assert np.abs(pixels - where).max() <= 4.25
    inside = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(np.median(np.abs(pixels - where)[inside]), 0, atol=0.26)


@pytest.mark.parametrize("model", ["vit_b", "sam2_hiera_s"])
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("shape", [(96, 130), (130, 70), (50, 140)])
def test_tokens_lie_where_sam_saw_them(
    model: str, window: int | None, shape: tuple[int, int]
) -> None:
    class Placed:
        """Its tokens say which pixel of what it looks at they are the middle of."""

        def encode(self, image: np.ndarray) -> dict[str, np.ndarray]:
            sides = image.shape[:2]
            height, width = sides if model.startswith("sam2") else (max(sides),) * 2
            y, x = (np.arange(64) + 0.5) / 64 * height, (np.arange(64) + 0.5) / 64 * width
            at = np.round(np.stack(np.meshgrid(y, x, indexing="ij")) - 0.5).astype(int)
            y, x = (np.clip(a, 0, n - 1) for a, n in zip(at, sides, strict=True))
            return {"embedding": image[y, x].transpose(2, 0, 1).astype(np.float16)}

    where = np.zeros((*shape, 3), np.int64)
    where[..., :2] = np.moveaxis(np.indices(shape), 0, 2)
    seen = windowed.encode(Placed(), where, window)
    pixels = pixel_features(token_windows(model, seen, shape), shape)[..., :2]
    assert np.abs(pixels - where[..., :2]).max() <= 2.6


def test_padding_counts_for_nothing() -> None:
    """Whitening of SAM's tokens is that of the part of its square that the image fills."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(1, 4, 16, 16)).astype(np.float16)
    padded = tokens.copy()
    padded[:, :, 8:] = 50.0
    maps = []
    for given, shape in ((tokens[:, :, :8], (64, 128)), (padded, (64, 128))):
        sides = (64, 128) if given.shape[2] == 8 else (128, 128)
        geometry = np.array([*sides, *shape])
        arrays = {"tokens": given, "origins": np.zeros((1, 2), int), "geometry": geometry}
        features = normalise_features(WindowFeatures.from_arrays(arrays), "whiten")
        (white,) = features.tokens()
        maps.append(white.numpy()[:, :8])
    np.testing.assert_array_equal(*maps)


def test_windows_are_kept_with_both_their_sides() -> None:
    tokens = [torch.ones(3, 4, 5, dtype=torch.float16)]
    for window in ((64, 64), (64, 80)):
        features = WindowFeatures(lambda: tokens, np.zeros((1, 2), int), window, (64, 70))
        arrays = features.to_arrays()
        assert len(arrays["geometry"]) == 3 + (window[0] != window[1])
        back = WindowFeatures.from_arrays(arrays)
        assert (back.window, back.shape) == (window, (64, 70))


def test_maskcut_keeps_to_the_image_where_a_window_hangs_over() -> None:
    tokens = np.zeros((1, 2, 16, 16), np.float32)
    tokens[:, 0] = 1.0
    tokens[0, :, 6:10, 6:10] = [[[0.0]], [[1.0]]]
    found = maskcut(tokens, np.array([[-40, -20]]), (128, 128), (64, 64), Maskcut(masks=1),
                    min_area=1)  # fmt: skip
    assert found.shape == (64, 64)
    y, x = np.nonzero(found)
    assert (y.mean(), x.mean()) == (pytest.approx(23.5, abs=1), pytest.approx(43.5, abs=1))


@pytest.mark.parametrize("kind", ["vit_b", "sam2_hiera_s"])
def test_sam_s_own_encoder_serves_step_1(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights in the official modules, on a tile that is not square."""
    pixels = picture(96, 130)
    if kind == "vit_b":
        ensure_torchvision()
        embedding = SamSegmenter(tiny_sam(), batch=1).encode(pixels)
        assert embedding["embedding"].shape == (32, 8, 8)
    else:
        from coin_ray.confidence.sam2 import Sam2Segmenter

        embedding = Sam2Segmenter(small_sam2(), batch=1).encode(pixels)
        assert embedding["embedding"].shape == (256, 16, 16)
    found = pixel_features(token_windows(kind, embedding, (96, 130)), (96, 130))
    assert found.shape == (96, 130, len(embedding["embedding"])) and np.isfinite(found).all()
    assert found.std(axis=(0, 1)).max() > 0


def test_a_cell_of_sam_looks_once_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, ...]]
) -> None:
    ensure_torchvision()
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_sam)
    home_with(tmp_path, monkeypatch, tiny_sam().state_dict())
    (sample,) = generated_samples(tmp_path / "tiles", 1, size=80, seed=3)
    sam = {"model": "vit_b", "window": 48, "negatives": 2}
    run = open_local(config(sam=sam), 0, [sample.image], tmp_path / "workspace")
    run_local(run, [sample])
    assert passes == [(48, 48, 3)] * 4, "once each window"
