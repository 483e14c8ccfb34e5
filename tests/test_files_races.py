"""Writers of one name at once: each has a scratch file of its own, so none of them fails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from coin_ray.data.synthetic import generated_samples
from coin_ray.data.write import write_label_map
from coin_ray.files import SCRATCH
from coin_ray.pretraining.pretrain import save_weights
from coin_ray.report.panels import write_panels
from coin_ray.report.values.study_results import keep_sweep

MAP = np.eye(32, dtype=np.int32)
IMAGE = np.zeros((32, 32, 3), np.uint8)


def panels(folder: Path) -> None:
    write_panels(folder / "a.png", IMAGE, coarse=MAP, accepted=MAP, final=MAP, truth=None)


WRITERS: dict[str, Callable[[Path], object]] = {
    "overlay": panels,
    "generated tiles": lambda folder: generated_samples(folder / "tiles", 1, size=32),
    "label map": lambda folder: write_label_map(folder / "a.tif", MAP),
    "facts of a sweep": lambda folder: keep_sweep(folder, {"missing": {}}),
    "weights": lambda folder: save_weights({"a": torch.zeros(3)}, folder / "a.safetensors"),
}


@pytest.mark.parametrize("what", WRITERS)
def test_writers_of_one_name_do_not_meet(what: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(8):
            list(pool.map(WRITERS[what], [tmp_path] * 4))
    assert not list(tmp_path.rglob(f"*{SCRATCH}*")) and list(tmp_path.iterdir())
