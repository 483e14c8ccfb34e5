"""Claims that are registered before anything runs, and races: what is run, left out and said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.data.sample import Image, Sample
from coin_ray.errors import UserError
from coin_ray.execution import gates
from coin_ray.execution.refusals import refuse_missing
from coin_ray.execution.trial_log import TrialLog
from coin_ray.identity import digest
from coin_ray.report.values.claims import FILE, judged
from coin_ray.report.values.study_results import keep_sweep, read_results
from coin_ray.report.write import write_report
from coin_ray.study.command_line import Request
from coin_ray.study.resolved import Objective, ResolvedStudy, Stopping, StudyCell
from coin_ray.study.study import resolve
from tests.pretended_cells import named, run

STUDY = """study: claimed
extends: mini
data: {open: {test: 6, size: 64}, kept: {test: 6, size: 64, seed: 1}}
seeds: 4
baseline: {rounds.count: 1}
factors:
  weight:
    baseline: base
    levels:
      base: {ot.lambda: 0.1}
      good: {ot.lambda: 0.2}
      bad: {ot.lambda: 0.3}
"""
CLAIMS = """gates:
  sealed: kept
  futility: 0.1
  claims:
    - {claim: good helps, level: good, watch: open, data: kept, seeds: 4, images: 6}
    - {claim: bad helps, level: bad, watch: open, data: kept, seeds: 4, images: 6}
"""
EFFECTS = {"base": 0.0, "good": 0.1, "bad": -0.1}


def value(cell: StudyCell, image: int) -> float:
    """By level, with a little chance of image and seed."""
    seed = [ord(c) for c in f"{cell.level}{cell.data.name}"]
    rng = np.random.default_rng([*seed, cell.seed, image])
    return 0.5 + 0.02 * image + EFFECTS[cell.level] + 0.005 * float(rng.standard_normal())


def study(folder: Path, text: str = CLAIMS) -> ResolvedStudy:
    path = folder / "s.yaml"
    path.write_text(STUDY + text)
    return replace(resolve(str(path), Request()), contents={"open": "1", "kept": "2"})


def verdicts(given: ResolvedStudy, runs: Path) -> dict[str, tuple[str, str]]:
    found = judged(read_results(given, runs))
    return {one.claim.claim: (one.verdict, one.exploratory) for one in found}


def test_a_claim_from_its_registration_to_its_verdict(tmp_path: Path) -> None:
    given, runs = study(tmp_path), tmp_path / "runs"
    batches, tally, said = run(given, runs, value)
    levels = ("base", "good", "bad")
    assert batches[0] == [f"{level}/open/{seed}" for seed in (0, 1) for level in levels]
    # What is futile gets no further seed, and the sealed split comes last, for what is left.
    assert batches[1:-1] == [[f"{n}/open/{seed}" for n in levels[:2]] for seed in (2, 3)]
    assert batches[-1] == [f"{n}/kept/{seed}" for seed in range(4) for n in levels[:2]]
    labels = {cell.key_label: named(cell) for cell in given.cells}
    left = {labels[label]: reason for label, reason in tally.left_out.items()}
    assert left.keys() == {f"bad/open/{s}" for s in (2, 3)} | {f"bad/kept/{s}" for s in range(4)}
    assert "futile after 2 random seeds: conditional power" in left["bad/open/2"]
    assert [text.split(":")[0] for text in said] == [
        "claim 'good helps' registered",
        "claim 'bad helps' registered",
        "claim 'bad helps'",
        "kept is unsealed for 'good helps'",
    ]
    assert verdicts(given, runs) == {"good helps": ("confirmed", ""), "bad helps": ("futile", "")}
    kept = (runs / FILE).read_text()
    assert run(given, runs, value)[2] == [] and (runs / FILE).read_text() == kept
    page = write_report(read_results(given, runs), tmp_path / "report")[0].parent / "verdicts.md"
    text = page.read_text().replace("\\", "")
    assert {"confirmed", "futile"} <= set(text.replace("*", "").split())
    assert "registered 20" in text and "kept unsealed 20" in text
    assert "after 2 random seeds, 6 images of open" in text
    assert "at the end, 4 random seeds and 6 images of kept" in text
    assert "Verdicts" in (page.parent / "report.md").read_text()
    keep_sweep(runs, {"missing": tally.left_out})
    compared = read_results(given, runs).compared
    row = compared.filter(level="bad", dataset="open", metric="aji").to_dicts()[0]
    assert "decided after 2 of 4 random seeds" in row["caution"]


def test_a_claim_that_changes_after_its_first_result_is_exploratory(tmp_path: Path) -> None:
    given, runs = study(tmp_path), tmp_path / "runs"
    other = study(tmp_path, CLAIMS.replace("level: good, ", "level: good, worth: 0.02, "))
    registry = gates.Registry(
        given, runs, run(replace(given, gates=None, cells=()), runs, value)[1]
    )
    registry.register(lambda cell: False)
    # Nothing has run: what would count may still be said otherwise.
    said = run(other, runs, value)[2]
    assert said[0] == "claim 'good helps' registered again"
    assert verdicts(other, runs)["good helps"] == ("confirmed", "")
    said = run(given, runs, value)[2]
    assert said == [f"claim 'good helps' registered again, exploratory: {gates.UNSEALED}"]
    assert verdicts(given, runs)["good helps"] == ("confirmed", gates.UNSEALED)
    opened = study(tmp_path, CLAIMS.replace("  sealed: kept\n", "").replace("watch: open, ", ""))
    said = run(opened, runs, value)[2]
    assert f"claim 'good helps' registered again, exploratory: {gates.CHANGED}" in said


def test_a_claim_about_what_has_run_is_exploratory(tmp_path: Path) -> None:
    given, runs = study(tmp_path), tmp_path / "runs"
    run(replace(given, gates=None), runs, value)
    said = run(given, runs, value)[2]
    assert said[0] == f"claim 'good helps' registered, exploratory: {gates.LATE}"
    assert verdicts(given, runs)["good helps"][1] == gates.LATE


def test_what_cannot_be_judged_is_not_decided(tmp_path: Path) -> None:
    given, runs = study(tmp_path), tmp_path / "runs"
    run(given, runs, value, images=5)
    assert verdicts(given, runs)["good helps"] == ("not decided", "")
    (good, _) = judged(read_results(given, runs))
    assert good.path[-1] == "not decided: 4 of 4 random seeds and 5 of 6 images on kept"


def test_hours_that_are_spent_end_claims_undecided_and_keep_the_seal(tmp_path: Path) -> None:
    given, runs = study(tmp_path, f"{CLAIMS}  hours: 2\n"), tmp_path / "runs"
    batches, _, said = run(given, runs, value, seconds=0.0)
    assert batches[-1][0].startswith("base/kept")
    other = tmp_path / "other"
    registry = json.loads((runs / FILE).read_text())
    for entry in registry["claims"].values():
        entry["looks"] = []
    other.mkdir()
    (other / FILE).write_text(json.dumps({**registry, "seconds": 7200.0, "opened": None}))
    batches, tally, said = run(given, other, value)
    assert len(batches) == 1 and "kept stays sealed: no claim is left for it" in said
    assert json.loads((other / FILE).read_text())["opened"] is None
    assert "the 2 hours of its gates were spent" in set(tally.left_out.values())
    assert verdicts(given, other)["good helps"][0] == "not decided"


def test_hours_that_the_last_random_seed_has_spent_keep_the_seal(tmp_path: Path) -> None:
    path, runs = tmp_path / "s.yaml", tmp_path / "runs"
    path.write_text((STUDY + CLAIMS).replace("seeds: 4", "seeds: 2") + "  hours: 2\n")
    given = replace(resolve(str(path), Request()), contents={"open": "1", "kept": "2"})
    runs.mkdir()
    (runs / FILE).write_text(json.dumps({"seconds": 7200.0}))
    batches, _, said = run(given, runs, value)  # after two seeds of two nothing is looked at
    assert len(batches) == 1 and "kept stays sealed: no claim is left for it" in said
    kept = json.loads((runs / FILE).read_text())
    assert kept["opened"] is None and kept["ended"] == "the 2 hours of its gates were spent"
    assert verdicts(given, runs)["good helps"][0] == "not decided"


def test_what_was_unsealed_is_run_to_its_end_whatever_the_hours(tmp_path: Path) -> None:
    given, runs = study(tmp_path, f"{CLAIMS}  hours: 2\n"), tmp_path / "runs"
    run(given, runs, value)
    kept = (runs / FILE).read_text().replace('"seconds": 0.0', '"seconds": 9999.0')
    (runs / FILE).write_text(kept)
    batches, _, said = run(given, runs, value)
    assert batches[-1][0].startswith("base/kept") and said == []
    assert (runs / FILE).read_text() == kept
    assert verdicts(given, runs)["good helps"] == ("confirmed", "")


def test_a_refuted_claim(tmp_path: Path) -> None:
    given, runs = study(tmp_path, CLAIMS.replace("futility: 0.1", "futility: 0")), tmp_path / "runs"
    batches, _, _ = run(given, runs, value)
    assert len(batches[-1]) == 12  # all three levels on what was sealed
    assert verdicts(given, runs)["bad helps"] == ("refuted", "")


@pytest.mark.parametrize(("kept", "opened"), [(5, 6), (6, 0)])
def test_a_claim_that_cannot_be_decided_is_refused_before_anything_runs(
    tmp_path: Path, kept: int, opened: int
) -> None:
    def data(labelled: int) -> DataSet:
        images = [Image(str(i), tmp_path / f"{i}.png") for i in range(6)]
        truths = [tmp_path / "t.png" if i < labelled else None for i in range(6)]
        return DataSet((), tuple(map(Sample, images, truths)))

    refuse_missing(study(tmp_path), {"kept": data(6), "open": data(6)}, tmp_path)
    with pytest.raises(UserError, match="'good helps' is about more labelled images"):
        refuse_missing(study(tmp_path), {"kept": data(kept), "open": data(opened)}, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("level: good", "level: god", "unknown level 'god'", 17),
        ("data: kept, seeds: 4, images: 6}", "data: keep, seeds: 4, images: 6}", "'keep'", 17),
        ("sealed: kept", "sealed: open", "a sealed data set cannot be watched", 17),
        ("seeds: 4, images: 6}", "seeds: 9, images: 6}", "the study has 4 random seeds", 17),
        ("bad helps", "good helps", "two claims are called 'good helps'", 18),
        ("futility: 0.1", "futility: 1.5", "futility cannot be 1.5", 15),
        ("level: bad", "level: bad, baseline: bad", "a level is no better than itself", 18),
        ("level: bad", "level: base", "a level is no better than itself", 18),
        ("level: bad", "level: bad, metric: n_predicted", "neither more nor less of n_pred", 18),
        ("claims:", "claim:", "unknown key 'claim'", 16),
        ("images: 6}", "pictures: 6}", "a claim needs the key 'images'", 17),
    ],
)
def test_mistakes_are_named_with_their_place(
    tmp_path: Path, old: str, new: str, message: str, line: int
) -> None:
    (tmp_path / "s.yaml").write_text(STUDY + CLAIMS.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        resolve(str(tmp_path / "s.yaml"), Request())
    assert message in str(caught.value) and f"s.yaml:{line}:" in str(caught.value)


RACE = "stopping: {rule: race}\nobjective: {metric: agreement}\n"


def test_a_race_stops_what_is_surely_worse_and_keeps_the_baseline(tmp_path: Path) -> None:
    given, runs = study(tmp_path, RACE), tmp_path / "runs"
    batches, tally, _ = run(given, runs, value)
    ran = {name for batch in batches for name in batch}
    assert {f"{level}/{data}/3" for level in ("base", "good") for data in ("open", "kept")} <= ran
    assert not ran & {"bad/open/3", "bad/kept/3"}
    reasons = set(tally.left_out.values())
    assert all(
        "lost the race after" in reason and "against good, p " in reason for reason in reasons
    )
    # As decided, it is compared over the seeds that it has.
    keep_sweep(runs, {"missing": tally.left_out})
    row = read_results(given, runs).compared.filter(level="bad", metric="aji").to_dicts()[0]
    assert row["seeds"] in (2, 3) and row["p_image"] is not None
    assert f"decided after {row['seeds']} of 4 random seeds" in row["caution"]


def test_a_race_by_what_less_is_better_of_stops_the_most(tmp_path: Path) -> None:
    given = replace(study(tmp_path, RACE), objective=Objective("fp", split="val"))
    batches, tally, _ = run(given, tmp_path / "runs", value)
    ran = {name for batch in batches for name in batch}
    assert {"good/open/3", "base/open/3"} <= ran and "bad/open/3" not in ran
    assert any("fp +0." in reason for reason in tally.left_out.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RACE.replace("agreement", "score_mean"), "score_mean has no such values"),
        (RACE + "seeds: 2\n", "a race looks after two random seeds"),
    ],
)
def test_what_a_race_cannot_do_is_said(tmp_path: Path, text: str, message: str) -> None:
    whole = STUDY.replace("seeds: 4\n", "" if "seeds" in text else "seeds: 4\n") + text
    (tmp_path / "s.yaml").write_text(whole)
    with pytest.raises(UserError, match=message):
        resolve(str(tmp_path / "s.yaml"), Request())


def test_stopped_cells_of_earlier_versions_are_known_again(tmp_path: Path) -> None:
    """What identifies the rule under which a cell was stopped holds nothing of races."""
    given = replace(study(tmp_path, ""), stopping=Stopping("asha", 1, 3))
    cell, log = given.cells[1], TrialLog(given, tmp_path)
    log.stop(cell, 0)
    (line,) = (json.loads(t) for t in (tmp_path / "trials.jsonl").read_text().split("\n") if t)
    from coin_ray.pipeline.settings import Cell
    from coin_ray.section import identity

    settings = {name: identity(getattr(cell.config, name)) for name in Cell.model_fields}
    goal = {"metric": "agreement", "mode": "max", "split": "proxy"}
    rule = [{"rule": "asha", "grace": 1, "reduction": 3}, goal]
    assert line["of"] == digest([settings, 0, "1", rule])
