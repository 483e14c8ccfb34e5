from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coin_ray.data.dataset import DataSet
from coin_ray.errors import UserError
from coin_ray.pipeline.settings import Cell
from coin_ray.planning.plan import plan_cells
from coin_ray.propagation.crf import dense_crf, dense_crf_apart, with_gamma
from coin_ray.propagation.settings import Crf


def noisy_disc() -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :56]
    disc = (y - 24) ** 2 + (x - 28) ** 2 < 14**2
    image = np.where(disc[..., None], [90, 60, 140], [230, 200, 220])
    image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    foreground = np.clip(disc * 0.4 + 0.3 + rng.normal(0, 0.25, disc.shape), 0.01, 0.99)
    return image, np.stack([1 - foreground, foreground]).astype(np.float32), disc


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return (a & b).sum() / (a | b).sum()


def test_it_cleans_a_noisy_map_along_the_image() -> None:
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    image, maps, disc = noisy_disc()
    kept = maps.copy()
    found = dense_crf(image, maps, Crf())
    assert found.shape == (2, 48, 56) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)
    assert iou(maps[1] > maps[0], disc) < 0.8 < 0.97 < iou(found[1] > found[0], disc)
    np.testing.assert_array_equal(maps, kept)
    np.testing.assert_array_equal(found, dense_crf(image, maps, Crf()))


def test_a_process_of_its_own_gives_the_same_bytes_and_says_what_failed() -> None:
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    image, maps, _ = noisy_disc()
    crf = Crf(iterations=3, bilateral_rgb=5.0)
    np.testing.assert_array_equal(dense_crf_apart(image, maps, crf), dense_crf(image, maps, crf))
    with pytest.raises(RuntimeError, match="the dense CRF failed"):
        dense_crf_apart(image[:9], maps, crf)


def test_gamma_above_one_lowers_the_foreground() -> None:
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    image, maps, _ = noisy_disc()
    plain, powered = (dense_crf(image, with_gamma(maps, gamma), Crf()) for gamma in (1.0, 3.0))
    assert powered[1].sum() < plain[1].sum()
    # Its own step's alone: a student's prediction goes through the same CRF.
    np.testing.assert_array_equal(dense_crf(image, maps, Crf(gamma=3.0)), plain)


def test_views_and_tiny_images_are_taken() -> None:
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    image, maps, _ = noisy_disc()
    turned = dense_crf(image.transpose(1, 0, 2), maps.transpose(0, 2, 1).astype(np.float64), Crf())
    assert turned.shape == (2, 56, 48)
    assert np.isfinite(dense_crf(image[:1, :1], maps[:, :1, :1], Crf())).all()
    assert np.isfinite(dense_crf(image, np.zeros_like(maps), Crf())).all()


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    image, maps, _ = noisy_disc()
    with pytest.raises(UserError, match=r"pip install coin-ray\[crf\]"):
        dense_crf(image, maps, Crf())


@pytest.mark.parametrize("switch", ["crf.enabled", "infer.crf"])
def test_the_missing_extra_stops_a_study_before_it_starts(
    switch: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    section, name = switch.split(".")
    uss, sam, student = {"size": "mini"}, {"model": "mini"}, {"arch": "unet"}
    values = {"uss": uss, "sam": sam, "student": student}
    data = DataSet(train=(), samples=())

    def cell(**more: dict[str, Any]) -> SimpleNamespace:
        config = Cell.model_validate(values | more)
        return SimpleNamespace(config=config, seed=0, data=SimpleNamespace(name="d"), oracle="")

    with pytest.raises(UserError, match=r"pip install coin-ray\[crf\]"):
        plan_cells([cell(**{section: {name: True}})], {"d": data}, tmp_path)
    plan_cells([cell(rounds={"count": 0})], {"d": data}, tmp_path)
