"""Step 1 in passes: tokens that are stored and tokens that are made again give the same bytes, what
they give is what the literal way gives, and neither holds much."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coin_ray.data.dataset import DataSet
from coin_ray.data.images import read_image
from coin_ray.data.synthetic import generate_tile, generated_samples
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.needs import with_cache
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.planning.plan import plan_cells
from coin_ray.propagation.backbones import load_backbone
from coin_ray.propagation.centroids import centroids, class_sums
from coin_ray.propagation.features import WindowFeatures, extract_features
from coin_ray.propagation.settings import Ot, Uss
from coin_ray.propagation.similarity import similarity_map, stretched
from coin_ray.propagation.transport import transport
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import Key
from coin_ray.ucis.settings import Ucis
from coin_ray.ucis.stain import stain_mask
from tests.conftest import ROOT, TINY

NONE: dict[str, Any] = {"rounds": {"count": 0}}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))


def cell(**uss: Any) -> Cell:
    return Cell.model_validate(copy.deepcopy(TINY) | NONE | {"uss": TINY["uss"] | uss})


def opened(config: Cell, tiles: list[Any], workspace: Path, done: list[Key]) -> CellRun:
    told = lambda key, seconds: done.append(key)  # noqa: E731
    return open_local(config, 0, [tile.image for tile in tiles], workspace, done=told)


@pytest.mark.parametrize(
    "uss",
    [{"normalise": "none"}, {"zoom": [1.0, 2.0], "normalise": "whiten", "centroid_scope": "image"}],
)
def test_stored_tokens_and_tokens_on_the_way_give_the_same_bytes(
    tiles: list[Any], tmp_path: Path, uss: dict[str, Any]
) -> None:
    found, stages, keys = [], [], []
    for cache in ("tokens", "none"):
        done: list[Key] = []
        run = opened(cell(cache=cache, **uss), tiles, tmp_path / cache, done)
        run_local(run, tiles)
        asked = [("similarity", image, 0.0) for image in run.train]
        asked += [("centroids", image, zoom) for image in run.train for zoom in run.config.uss.zoom]
        arrays = [run.artifact(stage, image, 0, zoom).arrays for stage, image, zoom in asked]
        found.append([array.tobytes() for one in arrays for _, array in sorted(one.items())])
        stages.append(Counter(key.stage for key in done))
        keys.append({key.digest for key in done if key.stage != "features"})
    assert found[0] == found[1]
    assert stages[0].pop("features") == 2 * len(run.config.uss.zoom)
    assert stages[0] == stages[1]
    assert keys[0] == keys[1]


def test_a_setting_of_speed_alone_and_what_is_stored_is_used(
    tiles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_local(opened(cell(cache="tokens"), tiles, tmp_path, []), tiles)
    run = opened(cell(cache="none"), tiles, tmp_path, [])
    for image in run.train:
        for stage in ("centroids", "similarity"):
            key = run.key(stage, image, 0, 2.0 if stage == "centroids" else 0.0)
            run.store.discard(run.store.folder(key))
    from coin_ray.propagation import features

    monkeypatch.setattr(features, "extract_features", None)  # nobody has to call it
    for image in run.train:
        assert run.array("similarity", image).shape == (2, 96, 96)


def planned(config: Cell, tiles: list[Any], workspace: Path, device: str) -> Any:
    data = DataSet(train=[tile.image for tile in tiles], samples=tiles)
    one = SimpleNamespace(config=config, seed=0, data=SimpleNamespace(name="d"), oracle="")
    return plan_cells([one], {"d": data}, workspace, device)


def test_a_cpu_stores_tokens_and_a_gpu_makes_them_again(tiles: list[Any], tmp_path: Path) -> None:
    counts = {
        device: planned(cell(), tiles, tmp_path, device).to_compute for device in ("cpu", "cuda")
    }
    assert counts["cpu"].pop("features") == 2
    assert counts["cpu"] == counts["cuda"]
    for device in counts:  # unless it is said
        for cache in ("tokens", "none"):
            asked = planned(cell(cache=cache), tiles, tmp_path, device).to_compute
            assert ("features" in asked) is (cache == "tokens")
    assert with_cache(cell(), "cuda:1").uss.cache == "none"
    assert with_cache(cell(cache="tokens"), "cuda").uss.cache == "tokens"


@pytest.mark.parametrize(("seconds", "cache"), [(1e-4, "none"), (100.0, "tokens")])
def test_on_a_gpu_the_plan_takes_what_is_cheaper_by_its_timings(
    tiles: list[Any], tmp_path: Path, seconds: float, cache: str
) -> None:
    """A pass of another tile was timed: against two more of these stand three trips to the disk."""
    first = planned(cell(cache="tokens"), tiles, tmp_path, "cuda")
    timed = next(first.keys[d] for d in first.missing if first.keys[d].stage == "features")
    store = Store(tmp_path / "store", "cuda")
    store.save(timed, Artifact({"tokens": np.zeros(1_000_000, np.float16)}), seconds)
    plan = planned(cell(), tiles, tmp_path, "cuda")
    assert plan.cache == (cache if cache == "tokens" else None)
    assert with_cache(cell(), "cuda", plan.cache).uss.cache == cache
    assert ("features" in plan.to_compute) is (cache == "tokens")


def literal_pixels(features: WindowFeatures) -> NDArray[np.float64]:
    """(D, H, W): the mean of the windows' tokens, up-sampled by torch in double precision."""
    total, count = np.zeros(0), np.zeros(features.shape)
    side = features.window[0]
    for tokens, (y, x) in zip(features.tokens(), features.origins, strict=True):
        up = torch.nn.functional.interpolate(
            tokens.double()[None], (side, side), mode="bilinear", align_corners=False
        )
        total = total if total.size else np.zeros((len(tokens), *features.shape))
        total[:, y : y + side, x : x + side] += up[0].numpy()
        count[y : y + side, x : x + side] += 1
    return total / count


def literal_maps(features: WindowFeatures, coarse: NDArray[np.bool_]) -> NDArray[np.float64]:
    flat = literal_pixels(features).reshape(-1, coarse.size)
    unit = flat / np.linalg.norm(flat, axis=0)
    classes = np.stack([unit[:, coarse.ravel() == inside].mean(axis=1) for inside in (0, 1)])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    return (classes @ unit).reshape(2, *coarse.shape)


def assert_as_the_literal_way(image: NDArray[np.uint8]) -> None:
    uss, backbone = Uss(window=256, hflip=False), load_backbone("mae_mini", layer=-1)
    coarse = stain_mask(image, Ucis())
    features = extract_features(image, backbone, uss, zoom=2.0, batch=8)
    maps = similarity_map([(features, centroids(class_sums(features, coarse)))], relu=False)
    literal = literal_maps(features, coarse)
    assert np.abs(maps - literal).max() < 1e-3
    masks = []
    for values in (maps, literal.astype(np.float32)):
        plan = transport(stretched(values, uss), Ot(), coarse, complement=True)
        masks.append(plan[1] > plan[0])
    assert (masks[0] == masks[1]).mean() > 0.999
    assert 0.02 < masks[0].mean() < 0.98


def test_generated_tiles_come_out_as_in_the_literal_way() -> None:
    assert_as_the_literal_way(generate_tile(3, 256, diameter=18, crowding=0.8)[0])


def test_real_tiles_come_out_as_in_the_literal_way(real_tiles: Path) -> None:
    folders = sorted(path for path in (real_tiles / "coin_layout").iterdir() if path.is_dir())
    for folder in folders:
        first = min((folder / "test" / "image").iterdir())
        assert_as_the_literal_way(read_image(first)[:256, :256])


MEASURE = """
import numpy as np
from types import SimpleNamespace
from benchmarks.measure import repeated
from benchmarks.step1 import passes_ours
image = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
found = repeated(passes_ours(SimpleNamespace(image=image, coarse=image[..., 0] > 200)))
print(found.peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_a_tile_of_the_paper_takes_less_than_a_gigabyte_above_the_model() -> None:
    """ViT-B, zoom 6, 1000 x 1000, both ways round: one batch of windows meets the transformer."""
    child = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True,
        encoding="utf-8",
    )  # fmt: skip
    assert 100 < float(child.stdout.splitlines()[-1]) < 1000


def test_a_batch_that_would_be_large_is_made_smaller() -> None:
    seen: list[int] = []

    def tokens(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return torch.zeros(len(batch), 768, 63, 63)

    mini = load_backbone("mae_mini", layer=-1)
    backbone = replace(mini, dim=768, tokens=tokens)
    image = np.zeros((166, 496, 3), np.uint8)
    for precision, batch in (("fp32", 2), ("bf16", 4)):
        uss = Uss(window=996, hflip=False, precision=precision)
        for _ in extract_features(image, backbone, uss, zoom=6.0, batch=8).tokens():
            pass
        assert max(seen) == batch
        del seen[:]
