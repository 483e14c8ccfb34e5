"""What several test files share: the real tiles and tiny settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SEED = int(os.environ.get("COIN_RAY_TEST_SEED", "0"))
"""Of the tests marked ``trained``: `make test-arithmetic` runs them with several."""
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def real_tiles() -> Path:
    """Folder of the real tiles (COIN_RAY_TILES); skips where there is none."""
    folder = Path(os.environ.get("COIN_RAY_TILES", ROOT.parent / "shared" / "data"))
    if not (folder / "coin_layout").is_dir():
        pytest.skip(f"no real tiles at {folder} (set COIN_RAY_TILES)")
    return folder


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
