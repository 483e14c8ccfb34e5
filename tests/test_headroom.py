"""Ceilings: each stage replaced by its oracle, which nothing else of the program can come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import coin_ray
from coin_ray.api.ceilings import headroom as ceilings
from coin_ray.api.studies import Study
from coin_ray.confidence.prompts import Prompts, prompt_points
from coin_ray.data.sample import Sample
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.events.events import Event, StageFinished
from coin_ray.execution.local import Local
from coin_ray.imaging.true_split import split_as
from coin_ray.labels import InstanceMasks, count
from coin_ray.metrics.contingency import best_matches
from coin_ray.pipeline import steps
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.oracles import TITLES
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.segmenter import Look
from coin_ray.pipeline.settings import Cell, dotted_fields
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.stages.oracle import ORACLES
from coin_ray.planning.asked import cell_stages
from coin_ray.report.headroom_page import write_headroom
from coin_ray.report.values.ceilings import PIPELINE, Ceilings, lines, rows
from coin_ray.statistics.headroom import headroom
from coin_ray.study.schema import json_schema
from tests.cli_calls import call
from tests.test_pipeline_stages import SMALL

STUDY = """
study: small
extends: mini
baseline: {rounds.count: 1, student.iterations: 2, student.crop: 64, student.width: 8}
data: {generated: {train: 0, test: 2, size: 96}}
report: [aji, pq]
factors:
  backbone:
    baseline: mae
    levels:
      none: {uss.family: none}
      mae: {uss.family: mae}
"""
NAMES = {stage.name for stage in ORACLES}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("headroom")
    (folder / "small.yaml").write_text(STUDY)
    return coin_ray.load_study(folder / "small.yaml", workspace=folder)


@pytest.fixture(scope="module")
def found(study: Study) -> Ceilings:
    return ceilings(study, executor=Local("cpu"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=64, seed=5))


@pytest.fixture(scope="module")
def plain(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> CellRun:
    """A finished cell without rounds."""
    workspace = tmp_path_factory.mktemp("workspace")
    run = open_local(Cell.model_validate(SMALL), 0, [s.image for s in samples], workspace)
    run_local(run, samples)
    return run


def knowing(run: CellRun, oracle: str, samples: list[Sample]) -> CellRun:
    return replace(run, chain=run.chain.with_oracle(oracle, samples))


def test_every_oracle_runs_to_the_end_and_only_labels_that_are_true_are_perfect(
    study: Study, found: Ceilings
) -> None:
    (spec,) = study.resolved.data
    table = {line.name: line for line in lines(found, spec.name)}
    assert list(table) == [PIPELINE, *TITLES] and not found.failed
    assert table["labels"].by_step["pseudo_labels"] == 1.0
    assert table["pipeline"].headroom is None
    # Before its stage an oracle changes nothing, at it all that its mask can give.
    for name in TITLES:
        before = [] if name == "coarse" else ["ucis"]
        before += ["step1"] if name in ("prompts", "masks", "acceptance", "labels") else []
        for step in before:
            same = name == "split" and step == "ucis"  # the coarse mask is split, too
            assert same or table[name].by_step[step] == table[PIPELINE].by_step[step]
    assert table["coarse"].by_step["ucis"] > table[PIPELINE].by_step["ucis"]
    assert table["foreground"].by_step["step1"] > table[PIPELINE].by_step["step1"]
    assert table["split"].by_step["step1"] >= table[PIPELINE].by_step["step1"]
    assert all(row["uses_labels"] == (row["oracle"] != PIPELINE) for row in rows(found))


def test_what_an_oracle_leaves_is_no_result(study: Study, found: Ceilings) -> None:
    """No folder of results but the pipeline's own; the study's table has its own levels alone."""
    runs = study.workspace / "runs"
    left = {path.parent.name for path in runs.glob("*/*/metrics.json")}
    own = [c.key_label for c in study.resolved.cells if c.level == "mae"]
    assert left == set(own)
    table = coin_ray.results(study.workspace, study).table("aji")
    assert set(table["level"]) == {"mae", "none"}
    assert not (study.workspace / "mlflow.db").exists()


def test_what_the_store_has_is_served_and_a_sweep_after_it_computes_only_its_own(
    study: Study, found: Ceilings
) -> None:
    told: list[str] = []
    again = ceilings(study, executor=Local("cpu"), on_event=lambda e: told.append(type(e).__name__))
    assert again.frame.equals(found.frame) and "StageFinished" not in told
    left = coin_ray.plan(replace(study, resolved=only(study, "mae")), Local("cpu"))
    assert not left.to_compute


def only(study: Study, level: str) -> coin_ray.api.studies.ResolvedStudy:
    cells = tuple(cell for cell in study.resolved.cells if cell.level == level)
    return replace(study.resolved, cells=cells, levels=(level,), baseline_level=level)


def test_no_cell_but_one_opened_for_it_has_an_oracle(
    plain: CellRun, samples: list[Sample], study: Study
) -> None:
    from coin_ray.data.dataset import DataSet

    data = DataSet(tuple(plain.train), tuple(samples))
    plainly = {key.digest: key for key in cell_stages(plain.chain, data)}
    assert not NAMES & {key.stage for key in plainly.values()}
    for name in TITLES:
        chain = plain.chain.with_oracle(name, samples)
        known = {key.digest: key for key in cell_stages(chain, data)}
        new = [key for digest, key in known.items() if digest not in plainly]
        if name != "prompts":
            assert NAMES & {key.stage for key in new}
        # Whatever is not the plain cell's comes from an oracle, and nothing of the plain cell does.
        assert {key.stage for key in known.values()} - NAMES <= {k.stage for k in plainly.values()}
    # The plain cell is unmoved by what was opened beside it, in one memo.
    assert plainly.keys() == {key.digest for key in cell_stages(plain.chain, data)}


def test_no_study_and_no_search_can_say_oracle(study: Study) -> None:
    assert not [key for key, _ in dotted_fields() if "oracle" in key]
    assert "oracle" not in str(json_schema())
    assert not any(cell.oracle for cell in study.resolved.cells)


def test_each_oracle_gives_what_it_is_called(plain: CellRun, samples: list[Sample]) -> None:
    image, truth = samples[0].image, samples[0].load_label_map()
    coarse = knowing(plain, "coarse", samples)
    assert np.array_equal(coarse.array("ucis", image), truth > 0)
    after = knowing(plain, "foreground", samples)
    assert np.array_equal(after.array("refine", image), truth > 0)
    assert np.array_equal(after.array("ucis", image), plain.array("ucis", image))

    split = knowing(plain, "split", samples).array("instances", image)
    assert np.array_equal(split > 0, plain.array("instances", image) > 0)

    prompts = knowing(plain, "prompts", samples)
    ref = Ref("masks", image, 1, step="result")
    drawn = InstanceMasks.from_arrays(prompts.get(ref).arrays)
    assert len(drawn) == count(truth)
    how = plain.config.sam.prompt
    points, key = prompt_points(truth, how), plain.chain.key(Ref("embed", image))
    asked = plain.segmenter.masks(
        image, key, Prompts(points), Look(plain.config.sam.precision, None)
    )
    assert np.array_equal(drawn.boxes, asked.boxes)

    labels = knowing(plain, "labels", samples).artifact("select", image, 1)
    assert np.array_equal(labels.arrays["label_map"], truth)
    assert not labels.arrays["ignore"].any() and labels.info["accepted"] == count(truth)


def test_true_masks_stand_for_what_is_hit_and_true_acceptance_for_the_best(
    plain: CellRun, samples: list[Sample]
) -> None:
    image, truth = samples[0].image, samples[0].load_label_map()
    instances = plain.array("instances", image)
    at = prompt_points(instances, plain.config.sam.prompt).astype(int)
    hit = truth[at[:, 0], at[:, 1]] > 0
    own, true = (
        best_matches(truth, run.masks(image, 1))[0]
        for run in (plain, knowing(plain, "masks", samples))
    )
    assert hit.any() and (true[hit] == 1).all() and np.array_equal(true[~hit], own[~hit])

    accepted = knowing(plain, "acceptance", samples).artifact("select", image, 1)
    rule = plain.artifact("select", image, 1)
    assert 0 < accepted.info["accepted"] <= rule.info["accepted"]
    painted = InstanceMasks.from_label_map(accepted.arrays["label_map"])
    ruled = InstanceMasks.from_label_map(rule.arrays["label_map"])
    assert best_matches(truth, painted)[0].mean() >= best_matches(truth, ruled)[0].mean()


def test_a_mask_is_split_among_the_nuclei_that_it_touches() -> None:
    truth = np.zeros((8, 20), np.int32)
    truth[2:6, 2:6], truth[2:6, 8:12], truth[2:6, 15:19] = 1, 2, 3
    mask = np.zeros(truth.shape, dtype=bool)
    mask[1:5, 1:13] = True  # one piece over two nuclei
    mask[7, 18:20] = True  # one that touches none
    found = split_as(truth, mask)
    assert np.array_equal(found > 0, mask) and count(found) == 3
    assert found[3, 3] == found[1, 1] != found[3, 9] == found[4, 12]
    assert len(set(found[7, 18:20])) == 1
    assert not split_as(truth, np.zeros_like(mask)).any()


def test_the_share_is_the_gain_over_what_is_lacking_with_both_drawn_together() -> None:
    level = np.array([[0.5, 0.7], [0.6, 0.6], [0.4, 0.5]])
    half = headroom(level + 0.5 * (1 - level), level)
    assert half is not None and half.share is not None and half.low is not None
    assert half.share == pytest.approx(0.5)
    # Half of every gap: drawn apart the ratio would spread.
    assert half.low == pytest.approx(0.5) and half.high == pytest.approx(0.5)
    same = headroom(level, level)
    assert same is not None and same.share == 0
    none = headroom(np.ones((2, 1)), np.ones((2, 1)))
    assert none is not None and none.share is None
    assert headroom(np.full((2, 1), np.nan), level[:2, :1]) is None


def test_the_page_says_everywhere_that_it_uses_labels(found: Ceilings, tmp_path: Path) -> None:
    files = write_headroom(found, tmp_path / "page")
    html, text, table = (path.read_text() for path in files[:3])
    assert "uses the labels" in html and text.count("uses the labels") >= 2
    assert pl.read_csv(files[2])["uses_labels"].sum() == len(TITLES)
    assert table.startswith("uses_labels,") and files[3].suffix == ".svg"


def test_ceilings_that_all_failed_have_a_page_that_says_so(found: Ceilings, tmp_path: Path) -> None:
    failed = replace(found, frame=found.frame.clear(), failed={"true labels": "why"})
    assert write_headroom(failed, tmp_path / "page")[0].is_file()


def test_labels_of_other_training_images_are_used_where_they_are_and_asked_for_where_not(
    tmp_path: Path,
) -> None:
    """Trained on other images than those evaluated: the oracles know the labels of both."""
    for name, seed in (("train", 3), ("test", 4)):
        generated_samples(tmp_path / name, 2, size=64, seed=seed)
    (tmp_path / "small.yaml").write_text(STUDY)
    where = {"data": f"d={tmp_path / 'test'}", "train": tmp_path / "train", "mpp": 0.25}
    study = coin_ray.load_study(tmp_path / "small.yaml", workspace=tmp_path, **where)
    assert not study.data["d"].train_samples  # whoever else reads a study sees none of them
    told: list[Event] = []
    found = ceilings(study, executor=Local("cpu"), on_event=told.append)
    assert {line.name for line in lines(found, "d")} == {PIPELINE, *TITLES} and not found.failed
    assert set(found.frame["image"]) == {sample.name for sample in study.data["d"].samples}
    trained = {image.name for image in study.data["d"].train}
    for stage in ("oracle_coarse", "oracle_foreground", "oracle_accept", "oracle_labels"):
        made = {e.image for e in told if isinstance(e, StageFinished) and e.stage == stage}
        assert trained <= made
    (tmp_path / "train" / "label" / "generated_3_0001.png").unlink()
    with pytest.raises(UserError, match="of those that are trained on, too") as refused:
        ceilings(study, executor=Local("cpu"))
    assert "1 of 4 without: generated_3_0001" in str(refused.value)


def test_the_verb_prints_the_table_and_refuses_what_has_no_labels(
    study: Study, found: Ceilings, tmp_path: Path
) -> None:
    path = study.resolved.source_files[0]
    told = call("headroom", path, "--workspace", str(study.workspace), "--local")
    assert told.exit_code == 0, told.output
    assert "true labels (supervised)" in told.output and "uses the labels" in told.output
    folder = tmp_path / "bare" / "image"
    generated_samples(tmp_path / "made", 1, size=64, seed=1)
    (tmp_path / "made" / "image").rename(folder.parent.mkdir() or folder)
    told = call("headroom", path, "--data", str(folder.parent), "--local")
    assert told.exit_code == 2 and "an oracle needs the labels of every image" in told.output
    told = call("headroom", path, "--metric", "fn", "--local")
    assert told.exit_code == 2 and "no gap to share" in told.output
    told = call("headroom", path, "--metric", "ajj", "--local")
    assert told.exit_code == 2 and "did you mean aji" in told.output


def test_steps_know_no_oracle(plain: CellRun, samples: list[Sample]) -> None:
    """What a cell is asked for is the same; what stands for it is found in one place."""
    from coin_ray.data.dataset import DataSet

    data = DataSet(tuple(plain.train), tuple(samples))
    asked = set(steps.asks(plain.chain, data)) | set(steps.begins(plain.chain, data))
    assert not NAMES & {ref.stage for ref in asked}
    assert STAGES.keys() >= NAMES
