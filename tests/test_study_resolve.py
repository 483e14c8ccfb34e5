"""From files and options to cells: precedence, chains, profiles, data, seeds, order."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from coin_ray.errors import UserError
from coin_ray.study.command_line import Request, data_name
from coin_ray.study.files import available, find_study
from coin_ray.study.resolved import Analysis, Budget, Objective, Screen, Stopping
from coin_ray.study.study import resolve

SPACE = """
profile: tiny
data: {generated: {train: 0, test: 2, size: 128}}
seeds: 2
baseline:
  uss: {size: mini, zoom: 2.0, window: 128}
  ot.lambda: 0.2
  student: {iterations: 5}
"""
STUDY = """
study: small
extends: tiny.yaml
baseline: {student.iterations: 7, uss.zoom: 3.0}
factors:
  backbone:
    baseline: mae
    levels:
      none: {uss.family: none}
      mae: {uss.family: mae, uss.zoom: 4.0}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    (tmp_path / "small.yaml").write_text(STUDY)
    return tmp_path


def test_precedence(folder: Path) -> None:
    study = resolve("small.yaml")
    none, mae = study.configuration("none"), study.configuration("mae")
    assert none.ot.lambda_ == 0.2  # search space over the default of 0.1
    assert none.student.iterations == 7  # study over search space
    assert (none.uss.zoom, mae.uss.zoom) == ((3.0,), (4.0,))  # level over study
    forced = resolve("small.yaml", Request(settings=("uss.zoom=5",)))
    assert {c.config.uss.zoom for c in forced.cells} == {(5.0,)}  # --set over level
    assert forced.overrides == {"uss.zoom": 5}
    assert forced.warnings == ("--set uss.zoom overrides what the study's levels set",)


def test_the_older_word_for_bf16_is_understood_and_does_not_contradict(folder: Path) -> None:
    study = resolve("small.yaml", Request(settings=("student.bf16=true",)))
    assert {cell.config.student.precision for cell in study.cells} == {"bf16"}
    with pytest.raises(UserError, match="--set student") as told:
        resolve("small.yaml", Request(settings=("student.bf16=true", "student.precision=tf32")))
    assert "student.bf16: true contradicts student.precision: tf32" in str(told.value)


def test_cells_go_round_by_seed(folder: Path) -> None:
    study = resolve("small.yaml")
    assert [(c.level, c.seed) for c in study.cells] == [
        ("none", 0), ("mae", 0), ("none", 1), ("mae", 1),
    ]  # fmt: skip
    names = [c.key_label.rpartition("-")[0] for c in study.cells[:2]]
    assert names == ["none--generated--s0", "mae--generated--s0"]
    assert study.cells[0].labels == {"backbone": "none"}
    assert (study.baseline_level, study.profile) == ("mae", "tiny")
    assert study.patches["mae"] == {"uss.family": "mae", "uss.zoom": 4.0}
    assert study.data[0].options == {"train": 0, "test": 2, "size": 128, "seed": 0}
    assert study.data[0].setting == "transductive"
    assert pickle.loads(pickle.dumps(study)) == study  # noqa: S301


def test_profile_replaces_the_base_only(folder: Path) -> None:
    (folder / "search_spaces").mkdir()
    (folder / "search_spaces" / "other.yaml").write_text(
        "profile: other\ndata: generated\nbaseline: {ot.lambda: 0.3, uss.zoom: 9.0}\n"
    )
    study = resolve("small.yaml", Request(profile="other"))
    none = study.configuration("none")
    assert (study.profile, study.profile_reason, study.seeds) == ("other", "--profile", (0,))
    assert none.ot.lambda_ == 0.3 and none.uss.zoom == (3.0,)  # the study still beats the profile
    assert none.uss.size == "base"  # nothing of the old profile is left


def test_a_study_extends_a_study(folder: Path) -> None:
    (folder / "child.yaml").write_text(
        "study: child\nextends: small.yaml\nbaseline: {ot.lambda: 0.4}\nseeds: [7]\n"
    )
    study = resolve("child.yaml")
    assert study.levels == ("none", "mae") and study.seeds == (7,)
    none = study.configuration("none")
    assert (none.ot.lambda_, none.student.iterations, none.uss.zoom) == (0.4, 7, (3.0,))
    assert [Path(f).name for f in study.source_files] == ["child.yaml", "small.yaml", "tiny.yaml"]


def test_levels_of_one_key_as_a_list(folder: Path) -> None:
    (folder / "l.yaml").write_text(
        "study: l\nextends: tiny.yaml\ndesign: grid\nfactors:\n"
        "  ot.lambda: {baseline: 0.1, levels: [0.01, 0.1]}\n"
        "  keep: {key: select.value, baseline: '0.5', levels: [0.5, 0.7]}\n"
    )
    study = resolve("l.yaml")
    assert study.levels == ("0.01, 0.5", "0.01, 0.7", "0.1, 0.5", "0.1, 0.7")
    config = study.configuration("0.01, 0.7")
    assert (config.ot.lambda_, config.select.value) == (0.01, 0.7)


def test_a_study_without_factors_is_one_cell(folder: Path) -> None:
    (folder / "one.yaml").write_text("study: one\nextends: tiny.yaml\nseeds: 1\n")
    (cell,) = resolve("one.yaml").cells
    assert (cell.level, cell.labels) == ("baseline", {})


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("ot.lambda=1e-3", ("ot", "lambda_"), 1e-3),
        ("ot.lambda=2", ("ot", "lambda_"), 2.0),
        ("uss.window=null", ("uss", "window"), None),
        ("uss.family=none", ("uss", "family"), "none"),
        ("infer.scales=[1, 0.5]", ("infer", "scales"), (1.0, 0.5)),
        ("uss.zoom=[4, 6]", ("uss", "zoom"), (4.0, 6.0)),
        ("score.terms=ellipse", ("score", "terms"), ("ellipse",)),
        ("crf.enabled=true", ("crf", "enabled"), True),
        ("ot.foreground_mass=coarse", ("ot", "foreground_mass"), "coarse"),
        ("ot.foreground_mass=0.3", ("ot", "foreground_mass"), 0.3),
        ("ucis.path=123", ("ucis", "path"), "123"),
    ],
)
def test_overrides_take_the_type_of_their_setting(
    folder: Path, text: str, path: tuple[str, str], value: object
) -> None:
    config = resolve("small.yaml", Request(settings=(text,))).cells[0].config
    found = getattr(getattr(config, path[0]), path[1])
    assert found == value and type(found) is type(value)


def test_data_and_seeds_of_the_command_line(folder: Path) -> None:
    for name in ("MoNuSeg/test", "mine", "train_here"):
        (folder / name).mkdir(parents=True)
    request = Request(
        data=("MoNuSeg/test", "B=mine"),
        train=("train_here",),
        seeds="1,4",
        mpp=0.5,
        binary="watershed",
    )
    study = resolve("small.yaml", request)
    assert [spec.name for spec in study.data] == ["MoNuSeg-test", "B"]
    assert study.data[0].path == str(folder / "MoNuSeg" / "test")
    assert {spec.setting for spec in study.data} == {"inductive"}
    assert study.data[1].train_paths == (str(folder / "train_here"),)
    assert (study.seeds, study.data[0].mpp) == ((1, 4), 0.5)
    assert [spec.binary for spec in study.data] == ["watershed", "watershed"]
    assert len(study.cells) == 8
    assert resolve("small.yaml", Request(data=("mine",))).data[0].setting == "transductive"
    assert resolve("small.yaml", Request(seeds="3")).seeds == (0, 1, 2)


def test_coarse_masks_of_a_file_lie_beside_it_and_those_of_the_command_line_here(
    folder: Path,
) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "s.yaml").write_text(
        "study: s\nextends: ../tiny.yaml\ndata: generated\nbaseline: {ucis.path: masks}\n"
        "factors:\n  masks:\n    baseline: stain\n    levels:\n      stain: {ucis.model: stain}\n"
        "      own: {ucis.model: files}\n"
        "      others: {ucis: {model: files, path: ../others}}\n"
        f"      far: {{ucis.model: files, ucis.path: {folder / 'far'}}}\n"
    )
    study = resolve("deep/s.yaml")
    found = [study.configuration(level).ucis.path for level in ("own", "others", "far")]
    assert found == [str(folder / p) for p in ("deep/masks", "deep/../others", "far")]
    given = resolve("deep/s.yaml", Request(settings=("ucis.path=here",)))
    assert given.configuration("own").ucis.path == "here"
    (folder / "deep" / "list.yaml").write_text(
        "study: list\nextends: ../tiny.yaml\ndata: generated\nbaseline: {ucis.model: files}\n"
        "factors:\n  ucis.path: {baseline: one, levels: [one, two]}\n"
    )
    listed = resolve("deep/list.yaml")
    assert listed.levels == ("one", "two")
    assert listed.configuration("two").ucis.path == str(folder / "deep" / "two")


def test_data_paths_of_a_file_start_at_the_file(folder: Path) -> None:
    (folder / "deep" / "tiles").mkdir(parents=True)
    (folder / "deep" / "s.yaml").write_text(
        "study: s\nextends: ../tiny.yaml\n"
        "data: {mine: {path: tiles, mpp: 0.5, split: test, binary: components}}\n"
    )
    (spec,) = resolve("deep/s.yaml").data
    assert (spec.kind, spec.path, spec.mpp, spec.split) == (
        "dataset", str(folder / "deep" / "tiles"), 0.5, "test",
    )  # fmt: skip
    assert spec.binary == "components"


def test_data_names() -> None:
    assert data_name(Path("/a/MoNuSeg/test")) == "MoNuSeg-test"
    assert data_name(Path("/a/my_tiles")) == "my_tiles"


def test_twin_levels_and_unused_levels_are_said(folder: Path) -> None:
    (folder / "w.yaml").write_text(
        STUDY.replace("study: small", "study: w\ndesign: grid").replace(
            "{uss.family: none}", "{uss.family: mae, uss.zoom: 4.0}"
        )
    )
    assert resolve("w.yaml").warnings == ("levels 'none' and 'mae' are the same configuration",)
    (folder / "x.yaml").write_text(STUDY + "exclude: [{backbone: none}]\n")
    study = resolve("x.yaml")
    assert study.levels == ("mae",) and study.warnings == ()  # left out on purpose
    levels = "{short: {student.iterations: 3}, long: {student.iterations: 9}}"
    further = f"  steps: {{baseline: short, levels: {levels}}}\n"
    none = "exclude: [{backbone: none, steps: [short, long]}]\n"
    (folder / "y.yaml").write_text(STUDY.replace("small", "y\ndesign: grid") + further + none)
    assert resolve("y.yaml").warnings == ("level 'none' of backbone is never used",)


def test_without_names_extras_and_settings(folder: Path) -> None:
    (folder / "p.yaml").write_text(
        "profile: p\nextends: tiny\nwithout: {sam3: {sam.model: mini}}\n"
    )
    with pytest.raises(UserError, match=r"unknown key 'sam3'[\s\S]*sam2"):
        resolve("small.yaml", Request(profile=str(folder / "p.yaml")))


def test_names_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_study("uss_backbones") == find_study("ablations/uss_backbones.yaml")
    assert {"mini", "coin", "official"} <= set(available("search_spaces"))
    (tmp_path / "ablations").mkdir()
    own = tmp_path / "ablations" / "uss_backbones.yaml"
    own.write_text("study: own\nextends: mini\n")
    assert find_study("uss_backbones") == own  # the working folder comes first


def test_a_thousand_cells(folder: Path) -> None:
    def listed(n: int) -> str:
        return ", ".join(str(round(0.01 * i, 2)) for i in range(1, n + 1))

    (folder / "big.yaml").write_text(
        "study: big\nextends: tiny.yaml\nseeds: 1\ndesign: grid\nfactors:\n"
        f"  ot.lambda: {{baseline: 0.1, levels: [{listed(40)}]}}\n"
        f"  select.value: {{baseline: 0.1, levels: [{listed(25)}]}}\n"
    )
    assert len(resolve("big.yaml").cells) == 1000


def test_the_blocks_of_a_study(folder: Path) -> None:
    (folder / "b.yaml").write_text(
        STUDY.replace("study: small", "study: b") + "seeds: {first: 2, max: 6}\n"
        "stopping: {rule: asha, grace: 2}\n"
        "screen: {keep: 1, metric: accepted_fraction}\n"
        "analysis: {confidence: 0.9, correction: none}\n"
        "budget: {gpu_hours: 60, wall_hours: 1.5}\n"
        "objective: {metric: score_std, mode: min}\n"
        "report: [aji, adj_aji, official_aji]\n"
        "published: {source: x, comparable: tiny, rows: {mae: {d: {nonadj_iou: 1}}}}\n"
        "resources: {stage: {gpu: 0.5}, round: {workers: 2}}\n"
    )
    study = resolve("b.yaml")
    assert (study.seeds, study.first_seeds) == ((0, 1, 2, 3, 4, 5), 2)
    assert study.stopping == Stopping("asha", 2, 3)
    assert study.screen == Screen(1, "accepted_fraction", "max")
    assert study.warnings == ("screen keeps 1 of 1 levels: it saves nothing",)
    assert study.analysis == Analysis(0.9, 0.05, "none", 0.01)
    assert study.budget == Budget(60.0, None, 1.5)
    assert study.objective == Objective("score_std", "min", "proxy")
    assert study.published is not None
    assert study.published.rows == {"mae": {"d": {"nonadj_iou": 1.0}}}
    assert study.published.comparable == ("tiny",)
    assert study.resources == {"stage": {"gpu": 0.5}, "round": {"workers": 2.0}}
    plain = resolve("small.yaml")
    assert (plain.first_seeds, plain.screen, plain.stopping.rule) == (None, None, "none")
    assert resolve("b.yaml", Request(seeds="3")).first_seeds is None


def test_labels_may_choose_on_a_validation_split_only(folder: Path) -> None:
    rest = "objective: {metric: aji}\nstopping: {rule: asha}\n"
    (folder / "v.yaml").write_text(
        "study: v\nextends: tiny.yaml\ndata: {mine: {path: tiles, split: val}}\n" + rest
    )
    for split in ("val", "Test"):
        (folder / "tiles" / split).mkdir(parents=True)
    assert resolve("v.yaml").objective == Objective("aji", "max", "val")
    assert not resolve("v.yaml", Request(data=("tiles/val",))).data[0].is_test
    for data in ("tiles/Test", "x=tiles/Test"):
        with pytest.raises(UserError, match="may not choose: it is a test split"):
            resolve("v.yaml", Request(data=(data,)))
    evaluated = "study: v\nextends: tiny.yaml\nobjective: {metric: aji}\n"
    (folder / "v.yaml").write_text(evaluated)  # ranks, and chooses nothing
    assert resolve("v.yaml").objective.split == "val"


def test_a_fraction_and_a_when(folder: Path) -> None:
    names = ("crf.enabled", "student.rotate", "uss.relu", "infer.crf", "labels.memory")
    factors = "".join(f"  {n}: {{baseline: 'false', levels: [false, true]}}\n" for n in names)
    (folder / "f.yaml").write_text(
        "study: f\nextends: tiny.yaml\ndesign: factorial\nfraction: resolution_iv\n"
        f"factors:\n{factors}"
    )
    study = resolve("f.yaml")
    assert len(study.levels) == 16 and study.levels[0] == study.baseline_level == "baseline"
    assert study.levels[1] == "infer.crf true, labels.memory true"
    (folder / "w.yaml").write_text(
        "study: w\nextends: tiny.yaml\ndesign: grid\nfactors:\n"
        "  rule: {key: select.rule, baseline: otsu, levels: [otsu, fixed]}\n"
        "  at: {key: select.value, baseline: 0.5, levels: [0.5, 0.7], when: {rule: [fixed]}}\n"
    )
    study = resolve("w.yaml")
    assert study.levels == ("otsu", "fixed, 0.5", "fixed, 0.7") and not study.warnings
    assert study.configuration("otsu").select.value == 0.5


def test_steps_of_results_and_of_columns(folder: Path) -> None:
    levels = "      early: {evaluate.result: round 1}\n      coarse: {evaluate.result: coarse}\n"
    (folder / "small.yaml").write_text(STUDY + levels + "steps: [coarse, step 1, round 12]\n")
    study = resolve("small.yaml")
    assert study.steps == ("ucis", "step1", "round_12")
    counts = {level: study.configuration(level).rounds.count for level in study.levels}
    assert counts == {"none": 3, "mae": 3, "early": 1, "coarse": 0}
    (folder / "small.yaml").write_text(STUDY + "steps: [corse, round 0]\n")
    with pytest.raises(UserError) as told:
        resolve("small.yaml")
    assert "did you mean 'coarse'?" in str(told.value) and "cannot be round 0" in str(told.value)
    (folder / "small.yaml").write_text(STUDY + "      five: {evaluate.result: round 5}\n")
    with pytest.raises(UserError, match=r"small.yaml:\d+:\d+  .*round 5 needs rounds.count: 5"):
        resolve("small.yaml")
