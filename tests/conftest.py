"""What several test files share: the real tiles, a bucket and tiny settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coin_ray import bucket
from tests.pretended_bucket import Door, serving

ROOT = Path(__file__).parent.parent
SEED = int(os.environ.get("COIN_RAY_TEST_SEED", "0"))
"""Of the tests marked ``trained``: `make test-arithmetic` runs them with several."""
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first: they take minutes, much of it waiting that others fill."""
    long = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def real_tiles() -> Path:
    """Folder of the real tiles (COIN_RAY_TILES); skips where there is none."""
    folder = Path(os.environ.get("COIN_RAY_TILES", ROOT.parent / "shared" / "data"))
    if not (folder / "coin_layout").is_dir():
        pytest.skip(f"no real tiles at {folder} (set COIN_RAY_TILES)")
    return folder


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """A bucket ``s3://studies`` on this machine; COIN_RAY_CACHE is a folder of the test."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "pretended"),
        ("AWS_SECRET_ACCESS_KEY", "pretended"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("COIN_RAY_CACHE", str(tmp_path / "here")),
    ):
        monkeypatch.setenv(name, value)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = Door()
    with serving(door) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        bucket._system.cache_clear()
        yield door
        bucket._system.cache_clear()


@pytest.fixture
def no_tracker_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


TINY = {
    "uss": {"size": "mini", "zoom": 2.0, "window": 128, "hflip": False, "normalise": "standardise"},
    "sam": {"model": "mini"},
    "instances": {"footprint": 9},
    "select": {"rule": "top_fraction", "value": 0.5},
    "student": {
        "arch": "unet",
        "width": 8,
        "iterations": 4,
        "batch": 2,
        "crop": 64,
        "optimiser": "adamw",
        "lr": 3e-3,
        "head_lr": 1.0,
        "ema": 0.9,
    },
    "rounds": {"count": 2},
    "infer": {"scales": [1.0], "minmax": False, "stain_weight": 4.0},
}
"""A complete configuration on the built-in models that a core runs in seconds."""
