"""Ground truth cannot reach training: not through the files, not through the types."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from coin_ray.data.folder import find_samples
from coin_ray.data.geojson import write_geojson
from coin_ray.data.label_files import read_label_map
from coin_ray.data.sample import Image
from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline.runner import open_local, run_local, step_at
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.stages.oracle import ORACLES
from coin_ray.pipeline.steps import STEPS
from coin_ray.pipeline.training import train_stage
from coin_ray.training.world import HERE
from tests.test_proof_determinism import artifacts, mini

SHORT = {"width": 8, "iterations": 3, "later_iterations": 3, "batch": 2, "crop": 64}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``image`` and ``label``."""
    folder = tmp_path_factory.mktemp("tiles")
    generated_samples(folder, 2, size=96, seed=3)
    return folder


def test_no_mask_file_moves_a_byte_of_training(tiles: Path, tmp_path: Path) -> None:
    """With the masks, without any, with noise in their place, and with others that a person
    corrected: every artifact up to the last redrawn prediction is the same, under the same key;
    only the evaluation differs."""
    found: dict[str, Any] = {}
    for case in ("true", "deleted", "noise", "corrected"):
        folder = tmp_path / case
        shutil.copytree(tiles, folder)
        for i, path in enumerate(sorted((folder / "label").iterdir())):
            if case == "deleted":
                path.unlink()
            if case == "noise":
                noise = np.random.default_rng(i).integers(0, 40, (96, 96), dtype=np.uint16)
                Pillow.fromarray(noise).save(path)
        labels = _corrected(folder) if case == "corrected" else None
        samples = find_samples(folder, mpp=0.25, labels=labels)
        assert all(s.has_truth == (case != "deleted") for s in samples)
        run = open_local(
            mini(student=SHORT), 0, [s.image for s in samples], tmp_path / f"{case}-work"
        )
        rows, facts = run_local(run, samples)
        stored = artifacts(run.store)
        evaluated = {path for path in stored if path.startswith("evaluate/")}
        trained = {path: data for path, data in stored.items() if path not in evaluated}
        found[case] = (trained, facts, rows)
        assert bool(evaluated) == bool(rows) == (case != "deleted")
    (trained, facts, rows), (bare, bare_facts, _), *others = found.values()
    assert facts == bare_facts
    for other, other_facts, other_rows in others:
        assert other == trained and other_facts == facts and other_rows != rows
    # What only an evaluation asks for is not made without one: results of earlier rounds.
    assert bare.items() <= trained.items()
    assert {path.split("/")[0] for path in trained.keys() - bare.keys()} == {"redraw"}
    assert sum(path.startswith("round/") for path in bare) == 2


def _corrected(folder: Path) -> Path:
    """The label maps without their first nucleus, as QuPath's GeoJSON."""
    out = folder / "corrected"
    for path in sorted((folder / "label").iterdir()):
        label_map = read_label_map(path)
        write_geojson(out / f"{path.stem}.geojson", np.where(label_map == 1, 0, label_map))
    return out


class Tripwire:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a sample was asked for outside the evaluation")


def test_every_step_but_evaluation_works_without_samples(tiles: Path, tmp_path: Path) -> None:
    images = [s.image for s in find_samples(tiles, mpp=0.25)]
    run = open_local(mini(student=SHORT), 0, images, tmp_path)
    samples = [Tripwire()] * len(images)
    before = [step for step in STEPS if step not in ("last_scores", "evaluate")]
    for step in before:
        for i in range(len(images)):
            step_at(run, samples, step, i)
    train_stage(run, HERE, lambda round_, metrics, seconds: None, "round")
    for i in range(len(images)):
        step_at(run, samples, "last_scores", i)
    with pytest.raises(AssertionError, match="outside the evaluation"):
        step_at(run, samples, "evaluate", 0)


def test_what_training_gets_has_no_way_to_the_truth() -> None:
    """The whole of an image: a new way out of it must be thought about here."""
    public = {name for name in dir(Image) if not name.startswith("_")}
    public |= set(Image.__dataclass_fields__)
    about = {"name", "dataset", "split", "mpp", "organ"}
    pixels = {"path", "index", "read", "size", "load", "shape", "digest"}
    assert public == about | pixels


def test_only_the_evaluation_and_the_oracles_take_a_truth() -> None:
    takers = {
        name for name, stage in STAGES.items() if any(take.role == "truth" for take in stage.takes)
    }
    drawn = "oracle_prompted"  # from what another oracle has prompted
    assert takers | {drawn} == {"evaluate", *(stage.name for stage in ORACLES)}
