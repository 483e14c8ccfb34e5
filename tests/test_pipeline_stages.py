"""What a stage declares is what it can see: taken away one at a time, each setting and each input
is missed by the computation itself, and a setting changes the keys of the stages that read it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from coin_ray.data.sample import Sample
from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.oracles import TITLES
from coin_ray.pipeline.refs import zooms
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Given, Keyed, Read, Ref, Stage, Take, Undeclared
from coin_ray.pipeline.stages import STAGES
from coin_ray.propagation.settings import Ot
from coin_ray.store.artifacts import Artifact
from coin_ray.training.world import World

SMALL: dict[str, Any] = {
    "uss": {
        "family": "mae", "size": "mini", "zoom": 1.0, "window": 64, "hflip": False,
        "normalise": "standardise",
    },
    "sam": {"model": "mini"},
    "instances": {"footprint": 9},
    "student": {
        "arch": "unet", "width": 4, "iterations": 1, "batch": 1, "crop": 32, "optimiser": "adamw",
    },
    "rounds": {"count": 0},
    "infer": {"scales": [1.0]},
}  # fmt: skip
FULL: dict[str, Any] = {
    "crf": {"enabled": True, "iterations": 1},
    "score": {"terms": ["segmenter", "stain_jitter", "regrowth"]},
    "mine": {
        "points": ["grid", "stain", "student"], "step": 6, "min_iou": 0.0, "min_agreement": 0.0,
        "min_free": 0.2, "min_area": 8,
    },
    "select": {"scope": "dataset"},
    "labels": {"missed": "ignore", "memory": True},
    "rounds": {"count": 2, "early_stop": 0.01},
    "infer": {"stain_weight": 1.0, "crf": True, "redraw": True, "redraw_grow": 1.0},
    "relabel": {"scales": [0.5], "crf": False},
}  # fmt: skip
SSA = {
    "width": 4, "encoder": "resnet18", "encoder_width": 8, "start": "stain", "sparsity": 0.2,
    "iterations": 1, "batch": 3, "crop": 32,
}  # fmt: skip
PSM = {
    "activation_encoder": "res2net50_26w_4s", "activation_width": 8, "activation_iterations": 1,
    "attempts": 1, "encoder": "resnet18", "width": 8, "point_iterations": 1, "final_iterations": 1,
    "batch": 1, "activation_batch": 1, "crop": 64, "region": 64,
}  # fmt: skip
TRAINED = {"rounds": 1, "iterations": 2, "batch": 2, "certainty": 0.5}
CELLS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "no transport": {"ot": {"enabled": False}},
    "image scope": {"uss": {"centroid_scope": "image"}},
    "sam": {"uss": {"family": "sam", "normalise": "whiten"}, "sam": {"model": "mini"}},
    "detector": {"ucis": {"model": "detector"}},
    "trained detector": {"ucis": {"model": "detector", "detector": TRAINED}},
    "maskcut": {"ucis": {"model": "maskcut", "maskcut": {"masks": 2}}},
    "files": {"ucis": {"model": "files", "path": "masks"}, "uss": {"family": "none"}},
    "ssa": {"ucis": {"model": "ssa", "weights": "none", "ssa": SSA}, "uss": {"family": "none"}},
    "psm": {"ucis": {"model": "psm", "weights": "none", "psm": PSM}, "uss": {"family": "none"}},
}
FROM_A_FILE = {
    *(("ucis_model", "encoder"), ("round", "encoder")),
    *(("embed", "scale"), ("masks", "scale"), ("oracle_prompts", "scale")),
}
"""Inputs that only a pretrained encoder, or SAM on windows or with points outside of a nucleus,
has: no file of one is here."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=64, seed=5))


@pytest.fixture(scope="module")
def runs(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> dict[str, CellRun]:
    """A finished cell of each kind, in one store."""
    pytest.importorskip("pydensecrf.densecrf", reason="the extra `crf` is not installed")
    workspace, found = tmp_path_factory.mktemp("workspace"), {}
    masks = tmp_path_factory.mktemp("masks")
    for sample in samples:
        inside = (sample.load_label_map() > 0).astype(np.uint8) * 255
        Pillow.fromarray(inside).save(masks / f"{sample.name}.png")
    for name, patches in CELLS.items():
        values = copy.deepcopy(SMALL)
        for section, patch in patches.items():
            values[section] = values.get(section, {}) | patch
        if name == "files":
            values["ucis"]["path"] = str(masks)
        run = open_local(Cell.model_validate(values), 0, [s.image for s in samples], workspace)
        run_local(run, samples)
        found[name] = run
    return found


def places(config: Cell, chain: Chain, sample: Sample) -> Iterator[Ref]:
    """A stage of each kind that the cell has gone through."""
    image, last = sample.image, config.rounds.count
    if config.ucis.trained is not None:
        yield Ref("ucis_model")
    yield Ref("ucis", image)
    if config.uss.family != "none":
        zoom = zooms(config)[0]
        yield Ref("features", image, zoom=zoom)
        yield Ref("centroids", image, zoom=zoom)
        yield from (Ref(stage, image) for stage in ("similarity", "transport", "refine"))
    yield from (Ref("instances", image), Ref("embed", image))
    yield from (Ref(stage, image, 1) for stage in ("masks", "score", "select"))
    mining = config.mine.points
    yield from (Ref("candidates", image, step=term) for term in mining if term != "student")
    for round_ in range(1, last + 1):
        if mining:
            yield Ref("mine", image, round_)
            yield Ref("complete", image, round_)
        if "student" in mining:
            yield Ref("peaks", image, round_)
            yield Ref("candidates", image, round_)
        yield Ref("select", image, round_)
        yield Ref("round", round=round_)
        yield Ref("predict", image, round_)
        yield Ref("redraw", image, round_)
    yield Ref("evaluate", image, step="step1", truth=chain.memo.truth(sample))


def knowing(run: CellRun, samples: list[Sample]) -> Iterator[tuple[CellRun, Ref]]:
    """The cell with each oracle, and the stages of it that stand for others."""
    image = samples[0].image
    asked = {
        "coarse": Ref("ucis", image),
        "foreground": Ref("refine", image),
        "split": Ref("instances", image),
        "prompts": Ref("masks", image, 1, step="result"),
        "masks": Ref("masks", image, 1),
        "acceptance": Ref("select", image, 1),
        "labels": Ref("select", image, 1),
    }
    assert list(asked) == list(TITLES)
    for oracle, ref in asked.items():
        known = replace(run, chain=run.chain.with_oracle(oracle, samples))
        yield known, known.chain.instead(ref)
        if oracle == "prompts":
            scored = known.chain.sources(Ref("score", image, 1))["instances"]
            assert isinstance(scored, Ref)
            yield known, scored


def compute(given: Given, ref: Ref, folder: Path) -> Any:
    if STAGES[ref.stage].trains:
        return STAGES[ref.stage].compute(given, World(), None, None)
    return STAGES[ref.stage].compute(given)


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    if rest:
        return {**values, first: without(values[first], rest)}
    return {key: value for key, value in values.items() if key != first}


@pytest.mark.parametrize("name", CELLS)
def test_a_stage_misses_every_setting_and_every_input_that_is_taken_away(
    runs: dict[str, CellRun], samples: list[Sample], name: str, tmp_path: Path
) -> None:
    plain, unseen = runs[name], set[tuple[str, str]]()
    asked = [(plain, ref) for ref in places(plain.config, plain.chain, samples[0])]
    if plain.config.rounds.count:
        asked.append((plain, Ref("predict", samples[0].image, 1, step="labels")))
    if name == "full":
        asked += knowing(plain, samples)
    for run, ref in asked:
        stage, values = STAGES[ref.stage], STAGES[ref.stage].values(run.chain, ref)
        assert compute(run.given(ref), ref, tmp_path / "whole").arrays
        for setting in dotted(values):
            given = run.given(ref)
            given.settings = Keyed(stage.name, without(values, setting))
            try:
                compute(given, ref, tmp_path / setting)
            except Undeclared as error:
                assert setting.rpartition(".")[2] in str(error)
            else:
                unseen.add((stage.name, setting))
        for role in run.chain.sources(ref):
            given = run.given(ref)
            given._sources = without(given._sources, role)
            # An optional input that is not there is an option that is off: the result differs then.
            try:
                found = compute(given, ref, tmp_path / role)
            except (Undeclared, AssertionError):
                continue
            whole = compute(run.given(ref), ref, tmp_path / f"{role} whole")
            if _same(found.arrays, whole.arrays):
                unseen.add((stage.name, role))
    assert not unseen


def _same(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def test_the_cells_above_have_every_stage_with_every_input(
    runs: dict[str, CellRun], samples: list[Sample]
) -> None:
    seen = {
        (ref.stage, role)
        for run in runs.values()
        for ref in places(run.config, run.chain, samples[0])
        for role in run.chain.sources(ref)
    }
    full = runs["full"]
    seen |= {
        (ref.stage, role) for run, ref in knowing(full, samples) for role in run.chain.sources(ref)
    }
    declared = {(stage.name, take.role) for stage in STAGES.values() for take in stage.takes}
    as_select_has_them = {("oracle_accept", role) for role in ("before", "scale")}
    assert seen == declared - FROM_A_FILE - as_select_has_them


def test_a_computation_sees_nothing_but_what_is_declared(
    runs: dict[str, CellRun], samples: list[Sample]
) -> None:
    given = runs["full"].given(Ref("transport", samples[0].image))
    with pytest.raises(Undeclared, match="transport reads footprint"):
        _ = given.settings.footprint
    ot = given.settings.section(Ot)
    assert ot.lambda_ == runs["full"].config.ot.lambda_
    with pytest.raises(Undeclared, match="transport reads threshold"):
        _ = ot.threshold
    with pytest.raises(Undeclared, match="transport takes 'image'"):
        given["image"]


def test_a_younger_setting_adds_nothing_to_a_key_at_the_value_that_it_had_before(
    runs: dict[str, CellRun], samples: list[Sample]
) -> None:
    chain, ref = runs["full"].chain, Ref("refine", samples[0].image)
    stage = STAGES["refine"]
    younger = Read("instances", ("opening",), old={"opening": 0})
    grown = replace(stage, reads=(*stage.reads, younger))
    assert grown.identity(chain, ref) == stage.identity(chain, ref)
    assert grown.values(chain, ref) == stage.values(chain, ref) | {"opening": 0}
    other = replace(stage, reads=(*stage.reads, replace(younger, old={"opening": 2})))
    assert other.identity(chain, ref) == stage.identity(chain, ref) | {"opening": 0}


def test_a_setting_that_a_stage_reads_no_longer_stands_in_its_key_and_decides_nothing(
    runs: dict[str, CellRun], samples: list[Sample]
) -> None:
    chain, ref = runs["full"].chain, Ref("predict", samples[0].image, 1)
    stage = STAGES["predict"]
    assert stage.identity(chain, ref)["crf"]["gamma"] == 1.0
    assert "gamma" not in stage.values(chain, ref)["crf"]
    crf = runs["full"].config.crf.model_copy(update={"gamma": 2.0})
    config = runs["full"].config.model_copy(update={"crf": crf})
    other = Chain(config, 0, chain.train, str, lambda folder, name: name)
    assert stage.identity(other, ref) == stage.identity(chain, ref)


def test_a_stage_is_one_declaration(
    runs: dict[str, CellRun], samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in docs/development.md: declared, it has a key, is stored and is computed once."""

    def shift(given: Given) -> Artifact:
        return Artifact({"array": given.array("refine") ^ (given.settings.footprint > 5)})

    made = Stage(
        "toy",
        shift,
        reads=(Read("instances", ("footprint",)),),
        takes=(Take("refine", lambda chain, ref: Ref("refine", ref.image), stages=("refine",)),),
    )
    monkeypatch.setitem(STAGES, "toy", made)
    run, image = runs["full"], samples[0].image
    np.testing.assert_array_equal(run.array("toy", image), ~run.array("refine", image))
    assert run.store.has(run.key("toy", image))
    assert run.chain.memo.inputs(run.key("toy", image)) == [run.key("refine", image)]
