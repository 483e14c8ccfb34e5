"""What runs on a GPU, traced without one: no mix of devices, and no step that waits."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coin_ray.pretraining.backbone import FAMILIES
from tests import fake_cuda
from tests.fake_cuda_paths import PATHS

ENDS = {  # once a training, an image or every twenty steps
    "training/layout.py:placed",
    "distillation/augment.py:<listcomp>",
    "pretraining/backbone.py:pretrain_backbone",
    "pretraining/small_sam.py:pretrain_segmenter",
    "confidence/sam.py:__init__",
    "confidence/sam2.py:__init__",
    "confidence/small.py:__init__",
    "ucis/ssa.py:_magnifications",
    "ucis/ssa.py:places",
    "training/loop.py:read",
    "training/checkpoint.py:<dictcomp>",
    "weights/modules.py:<dictcomp>",
    "propagation/features.py:to_arrays",
    "propagation/features.py:normalise_features",
    "propagation/centroids.py:class_sums",
    "propagation/similarity.py:_cosine",
    "distillation/inference.py:predict_batch",
    "confidence/sam.py:encode",
    "confidence/sam2.py:encode",
    "confidence/sam2.py:<dictcomp>",
    "confidence/sam2.py:<genexpr>",
    "confidence/small.py:encode",
    "ucis/ssa_prediction.py:ssa_mask",
    "ucis/detection.py:_read",
    "ucis/psm.py:_probability",
    "ucis/psm_activation.py:_stretch",
    "ucis/psm_activation.py:self_activation_map",
}
KNOWN = {  # a batch of prompts: segment-anything's own boolean writes, and the masks
    **{
        name: {
            f"confidence/{file}:decode",
            f"confidence/{file}:_exactly",
            "confidence/frame.py:draw",
        }
        for name, file in (("segment anything", "sam.py"), ("sam 2.1", "sam2.py"))
    },
    "small segmenter": {"confidence/small.py:_masks"},
    "detector": {"elsewhere"},  # the test puts the network onto the card itself
    **{f"features of {name}": {"elsewhere"} for name in FAMILIES},  # the test's own model
}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="needs g++ on Linux"
)


def trace(folder: Path, module: str = "tests.fake_cuda") -> dict[str, Any]:
    env = os.environ | {"LD_PRELOAD": str(fake_cuda.guard(folder)), "OMP_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module],
        env=env, cwd=Path(__file__).parent.parent, capture_output=True, text=True,
        encoding="utf-8",
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trace(tmp_path_factory.mktemp("guard"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", PATHS)
def test_nothing_would_raise_or_wait_on_a_card(traced: dict[str, Any], path: str) -> None:
    assert traced[path]["error"] is None
    if not path.startswith("benchmark"):  # its literal side waits wherever the public code does
        assert set(traced[path]["waits"]) <= ENDS | KNOWN.get(path, set())


FAULTS = {
    "numpy": "can't convert",
    "two devices": "two different devices|found at least two|Unhandled FakeTensor Device",
    "index": "from another device",
    "dtypes": "dtype",
}


def test_faults_are_seen(tmp_path: Path) -> None:
    """The tracer itself: each kind of fault that a card would raise, and the ways to wait."""
    found = trace(tmp_path, "tests.fake_cuda_faults")
    for name, words in FAULTS.items():
        assert re.search(words, found[name]["error"]), found[name]
    assert found["waits"]["error"] is None
    assert sum(found["waits"]["waits"].values()) == 7
