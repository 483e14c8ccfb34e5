"""``coin-ray plan`` and what else is said and refused before a study starts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import Result

from coin_ray.cli.screen import output, preamble
from coin_ray.data.synthetic import generated_samples
from coin_ray.execution.trial_log import TrialLog
from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.machines import Node
from coin_ray.study.command_line import Request
from coin_ray.study.study import resolve
from tests.cli_calls import call, enter, fill, stages_of, study_of

STUDY = """
study: small
title: Small study
extends: mini
seeds: 1
baseline: {rounds.count: 2, infer.redraw: false}
data: {generated: {train: 1, test: 2, size: 64}}
factors:
  backbone:
    baseline: none
    levels:
      none: {uss.family: none}
      mae: {uss.family: mae}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "100")
    return enter(tmp_path, monkeypatch, STUDY)


def rows(done: Result) -> dict[str, list[str]]:
    return {li.split()[0]: li.split()[1:] for li in done.output.splitlines() if li.strip()}


def test_plan(folder: Path) -> None:
    done = call("plan", "s.yaml", "--seeds", "2")
    assert done.exit_code == 0, done.output
    for part in (
        "small: Small study",
        "profile mini (the study's extends); the paper's models: --profile coin",
        "data generated: 2 generated tiles of 64 px, 1 more to train on (inductive)",
        "one_at_a_time: 2 levels × 1 data set × 2 random seeds = 4 cells",
        "* none  uss.family=none",
        "nothing of it was timed on cpu here: a first cell will tell the hours",
        "smallest p that a paired test can reach: 0.5 over 2 random seeds, 0.5 over 2 images",
        "warning: generated has 2 labelled images: intervals will be approximate",
        "warning: 2 random seeds: no difference can be significant over seeds; 6 seeds can",
    ):
        assert part in done.output
    # Two seeds of one level on three images, shared.
    assert rows(done)["features"] == ["6", "3", "0", "3", "?", "?"]
    assert rows(done)["round"][1:4] == ["8", "0", "8"]
    assert "to compute" not in done.output  # no invented hours
    assert not (folder / ".coin-ray" / "runs").exists()
    assert max(map(len, done.output.splitlines())) <= 120


def test_a_cluster_that_is_not_up_is_planned_for(folder: Path) -> None:
    (folder / "s.yaml").write_text(
        f"{STUDY}cluster: {{max_nodes: 4, node: {{cpu: 16, gpu: 1, memory: 60}}}}\n"
    )
    done = call("plan", "s.yaml")
    assert done.exit_code == 0, done.output
    assert "for a cluster that grows to 4 × (16 CPU, 1 GPU, 60 GiB)" in done.output
    assert "nothing of it was timed on cuda here" in done.output
    refused = call("plan", "s.yaml", "--workers", "9")
    assert refused.exit_code == 2 and "room for 9 workers" in " ".join(refused.output.split())


def test_hours_come_from_what_the_store_was_timed_with(folder: Path) -> None:
    fill(folder, "none", seconds=36.0)
    done = call("plan", "s.yaml")
    counts = rows(done)
    assert counts["round"][:5] == ["4", "4", "2", "2", "1"]  # two rounds of 36 s: 1 min
    assert counts["features"][3:] == ["3", "?", "?"]
    assert "to compute: at least CPU" in done.output
    assert "it was never timed on cpu here: features mae mini, centroids" in done.output
    fill(folder, "mae", seconds=36.0)
    done = call("plan", "s.yaml")
    assert "nothing to compute: all that is needed is stored" in done.output
    done = call("plan", "s.yaml", "--seeds", "2")
    # 2 x 2 rounds, and for each: 3 predictions and the masks, scores, labels, metrics of them.
    assert "workers of a round" not in done.output  # one core a machine: cells come first
    assert "to compute: about CPU" in done.output and "% of the time that the cells" in done.output


def test_the_plan_of_a_search_names_its_space_and_counts_the_trials_to_come(folder: Path) -> None:
    search = STUDY.partition("factors:")[0] + "design: search\nspace: [ot.lambda]\ntrials: 3\n"
    (folder / "search.yaml").write_text(search + "budget: {cpu_hours: 1.0}\n")
    done = call("plan", "search.yaml")
    for part in (
        "search: (baseline + 3 trials) × 1 data set × 1 random seed = 4 cells",
        "ot.lambda  log 0.01 to 3.0",
        "the table is of the baseline and the trials proposed so far: 0 of 3",
    ):
        assert part in done.output
    # The baseline is there, 36 s a stage; three trials are not.
    fill(folder, "baseline", seconds=36.0, study="search.yaml")
    study = study_of(folder, study="search.yaml")
    book = TrialLog(study, folder / ".coin-ray" / "runs" / study.run_name)
    book.propose({"ot.lambda": 0.5})
    done = call("plan", "search.yaml")
    assert "the trials proposed so far: 1 of 3" in done.output
    assert "nothing to compute" not in done.output
    assert "counted as if they shared nothing" in done.output
    found = rows(done)
    assert found["features"][:4] == ["6", "3", "3", "0"] and found["transport"][3] == "3"
    # Two that share nothing, and what the proposed one does not share with the baseline.
    (alone,) = stages_of(folder, "baseline", study="search.yaml")
    left = sum(int(row[3]) for stage, row in found.items() if stage in STAGES)
    hours = (2 * len(alone.stages) + left) * 36 / 3600
    assert f"CPU {hours * 60:.0f} min" in done.output or f"CPU {hours:.1f} h" in done.output
    assert done.exit_code == 1 and "exceeds its budget of cpu_hours" in done.stderr


@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_a_budget_stops_a_study_before_it_starts(
    folder: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(
        "coin_ray.execution.study_run.run_study", lambda *a, **k: started.append(True)
    )
    (folder / "b.yaml").write_text(STUDY + "\nbudget: {cpu_hours: 0.001, wall_hours: 1000}\n")
    fill(folder, "none", seconds=36.0, study="b.yaml")
    done = call(verb, "b.yaml", "--device", "cpu")
    assert done.exit_code == 1 and not started
    for part in ("b.yaml", "exceeds its budget of cpu_hours", "expected: at most 0.001", "do: "):
        assert part in done.stderr
    assert "wall_hours" not in done.stderr


@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_what_no_node_has_is_refused(folder: Path, verb: str) -> None:
    (folder / "r.yaml").write_text(STUDY + "\nresources: {round: {cpu: 4000, workers: 2}}\n")
    done = call(verb, "r.yaml", "--device", "cpu")
    assert done.exit_code == 2
    assert "2 workers of 4000 CPU" in done.stderr and "nodes: 1 × (" in done.stderr
    assert not (folder / ".coin-ray" / "store").exists()


def test_leakage_is_told_by_content_not_by_name(folder: Path) -> None:
    tiles = generated_samples(folder / "tiles", 2, size=64, seed=1)
    (folder / "more").mkdir()
    shutil.copy(tiles[1].image.path, folder / "more" / "another_name.png")
    done = call("plan", "s.yaml", "--data", "tiles", "--train", "more", "--mpp", "0.25")
    assert done.exit_code == 0, done.output
    assert "leakage: 1 evaluated image of tiles is among the training images" in done.output
    done = call("plan", "s.yaml", "--data", "tiles", "--mpp", "0.25")
    assert "warning: leakage" not in done.output  # transductive, and the plan says so


def test_earlier_values_tell_the_smallest_effect(folder: Path) -> None:
    study = resolve("s.yaml", Request(seeds="6"))
    data = SimpleNamespace(samples=[SimpleNamespace(has_truth=True)] * 12)
    assert not any("difference" in li for li in preamble.power(study, {"generated": data}, folder))
    shifts = {"none": [0.0] * 12, "mae": [0.1 * (-1) ** i for i in range(12)]}
    for cell in study.cells:
        place = folder / cell.key_label
        place.mkdir()
        kept = [
            {"image": f"t{i}", "step": "round_2", "metric": "aji", "value": 0.5 + shift}
            for i, shift in enumerate(shifts[cell.level])
        ]
        (place / "metrics.json").write_text(json.dumps({"rows": kept}))
    told = list(preamble.power(study, {"generated": data}, folder))
    assert told[0].endswith("0.031 over 6 random seeds, 0.00049 over 12 images of generated")
    # Differences of +-0.1 have a standard deviation of 0.104: about 3.1 of it / sqrt(12).
    assert (
        "smallest difference in aji that 12 images of generated show, at 80 % power: 0.09"
        in told[1]
    )
    assert "6 finished pairs" in told[1]


def test_what_a_study_may_leave_out_is_said(folder: Path) -> None:
    fill(folder, "none", seconds=36.0)
    (folder / "screened.yaml").write_text(
        STUDY.replace(
            "      mae: {uss.family: mae}", "      other: {uss.family: none, ot.prior: 3}"
        ).replace("seeds: 1", "seeds: 3")
        + "\nscreen: {keep: 1}\n"
    )
    done = call("plan", "screened.yaml")
    assert "at most CPU" in done.output
    assert "only the 1 best levels and the baseline are trained" in done.output


def test_durations_and_sizes_read_well() -> None:
    assert [output.duration(h) for h in (0.001, 0.2, 3.42, 1234.5)] == [
        "4 s", "12 min", "3.4 h", "1,234.5 h",
    ]  # fmt: skip
    assert [output.size(n) for n in (5, 12_340, 3.4e6, 1.25e12)] == [
        "5 B", "12.3 kB", "3.4 MB", "1,250.0 GB",
    ]  # fmt: skip


def test_a_gpu_is_counted_where_it_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coin_ray.planning.machines.this_machine", lambda: Node(8, 2, 2**36))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    done = call("plan", "s.yaml")
    assert "nothing of it was timed on cuda here" in done.output


@pytest.mark.parametrize(
    ("places", "workers", "said"),
    [
        (8, 1, "workers of a round: 1: 4 min, 2: 2 min, 4: 1 min; more than 4 stop paying"),
        (2, 2, "one worker a round is faster here: cells come first, 2 to train, 2 places"),
        (2, 1, ""),
    ],
)
def test_the_plan_says_when_more_workers_stop_paying(
    folder: Path, monkeypatch: pytest.MonkeyPatch, places: int, workers: int, said: str
) -> None:
    monkeypatch.setattr("coin_ray.planning.machines.this_machine", lambda: Node(places, 0, 2**36))
    fill(folder, "none", "mae", seconds=36.0)
    done = call("plan", "s.yaml", "--seeds", "1", "--workers", str(workers))
    assert "stop paying" not in done.output
    done = call("plan", "s.yaml", "--seeds", "2", "--workers", str(workers))
    words = " ".join(done.output.split())
    assert done.exit_code == 0 and said in words
    assert ("workers of a round" in words) is (places == 8)


GRID = """
study: grid
extends: mini
design: grid
seeds: 10
data: {generated: {train: 4, test: 4, size: 64}}
factors:
  lambda:
    baseline: "0.1"
    levels: {%s}
  threshold:
    baseline: t1
    levels: {%s}
"""


def test_a_thousand_cells_are_planned(folder: Path) -> None:
    lambdas = ", ".join(f'"{v / 10}": {{ot.lambda: {v / 10}}}' for v in range(1, 11))
    rules = "select.rule: fixed, select.value: "
    thresholds = ", ".join(f"t{i}: {{{rules}{i / 20}}}" for i in range(1, 11))
    (folder / "grid.yaml").write_text(GRID % (lambdas, thresholds))
    plan = [sys.executable, "-m", "coin_ray.cli", "plan", "grid.yaml"]
    done = subprocess.run(plan, capture_output=True, text=True, check=True)
    assert "10 random seeds = 1000 cells" in done.stdout
