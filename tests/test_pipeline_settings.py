"""Every setting of a cell, changed one at a time: the keys of exactly those stages change that are
declared to read it, and of those that are made from them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from coin_ray.data.sample import Sample
from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.settings import Cell, dotted_fields, flatten, nest
from coin_ray.pipeline.stage import Content, Ref, Stage
from coin_ray.pipeline.stages import STAGES
from coin_ray.section import is_runtime
from tests.test_pipeline_stages import CELLS, SMALL, places

FURTHER: dict[str, set[str]] = {
    "mine.step": {"candidates"},
    "ot.enabled": {"similarity"},
    "rounds.early_stop": {"round"},
    "rounds.schedule": {"round"},
    "student.iterations": {"round"},
    "student.epochs": {"round"},
    "student.later_iterations": {"round"},
    "student.lr": {"round"},
    "student.later_lr": {"round"},
    "ucis.path": {"ucis"},
    "ucis.sigma": {"candidates"},
    "ucis.contrast_sigma": {"candidates"},
}
"""Stages that a setting decides about by more than a ``Read``: an input, or what ``adds`` gives."""
PLAIN = (str, float, int, bool, list, type(None))
NO_KEY = {"rounds.count", "evaluate.result", "student.bf16", "predictions.binary"}
"""How many stages there are and which is the result, and not what any of them is; what
``student.precision`` says too; what stands in the digest of the masks made elsewhere."""
WALKED = {
    **CELLS,
    "published": {
        "ucis": {"model": "ssa"},
        "uss": {"family": "none"},
        "sam": {"model": "vit_b", "negatives": 1},
    },
}
CANDIDATES = (
    *(True, False, 0, 1, 2, 3, 8, 16, 64, 512, 1024, 4096, -2, 0.0, 0.25, 0.5, 0.75, 1.5, 2.5, 3.5),
    *("coarse", "mean", None, (1.5,), ("regrowth",), (0.5, 1.5), (1, 3), (1.0, 2.0)),
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    (found,) = generated_samples(tmp_path_factory.mktemp("tile"), 1, size=64, seed=5)
    return found


def cell(name: str, folder: Path) -> dict[str, Any]:
    values = copy.deepcopy(SMALL)
    for section, patch in WALKED[name].items():
        values[section] = values.get(section, {}) | patch
    if name == "files":
        values["ucis"]["path"] = str(folder)
    return flatten(Cell.model_validate(values).model_dump(mode="json", by_alias=True))


def others(key: str, field: Any, flat: dict[str, Any]) -> Iterator[Cell]:
    """The cell with other values of a setting, as far as that makes a cell."""
    literals = [
        v for kind in (field.annotation, *get_args(field.annotation)) for v in get_args(kind)
    ]
    for value in (*(v for v in literals if isinstance(v, str)), *CANDIDATES, "elsewhere"):
        try:
            made = Cell.model_validate(nest(flat | {key: value}))
        except (ValidationError, TypeError):
            continue
        now = flatten(made.model_dump(mode="json", by_alias=True)).get(key)
        if now != flat[key] and type(now) in (type(flat[key]), *PLAIN):
            yield made


def chain_of(config: Cell, sample: Sample) -> Chain:
    return Chain(config, 0, [sample.image], lambda name: name, lambda folder, name: folder + name)


def reads(stage: Stage, key: str, config: Cell) -> bool:
    """Whether it is declared to read a setting of this cell."""
    found = False
    for read in stage.reads:
        section = key.rpartition(".")[0]
        if section != read.section and not section.startswith(f"{read.section}."):
            continue
        inner = key.removeprefix(f"{read.section}.").partition(".")[0]
        named = inner in read.fields if read.fields else inner not in read.but
        found = found or (named and bool(read.when(config)))
    return found


def taken(chain: Chain, ref: Ref) -> set[str]:
    """The keys of the artifacts that a stage is made from."""
    sources = chain.sources(ref).values()
    refs = [part for found in sources for part in (found if _several(found) else [found])]
    return {chain.key(part).digest for part in refs if isinstance(part, Ref)}


def _several(source: Any) -> bool:
    return isinstance(source, Sequence) and not isinstance(source, Ref | Content)


@functools.cache
def walked(name: str, sample: Sample, folder: Path) -> tuple[set[tuple[str, str, str]], set[str]]:
    """What is wrong with the keys of a cell, and the settings that changed any."""
    flat, wrong, seen = cell(name, folder), set[tuple[str, str, str]](), set[str]()
    base = Cell.model_validate(nest(flat))
    before = chain_of(base, sample)
    for key, field in dotted_fields():
        for other in islice(others(key, field, flat), 3):
            after = chain_of(other, sample)
            for ref in {*places(base, before, sample)} & {*places(other, after, sample)}:
                stage = STAGES[ref.stage]
                changed = before.key(ref).digest != after.key(ref).digest
                by_inputs = taken(before, ref) != taken(after, ref)
                declared = [reads(stage, key, one.config) for one in (before, after)]
                if changed:
                    seen.add(key)
                    further = ref.stage in FURTHER.get(key, ())
                    if not (by_inputs or any(declared) or further):
                        wrong.add((key, ref.stage, "changed, and not declared to read it"))
                elif by_inputs or (all(declared) and not is_runtime(field)):
                    wrong.add((key, ref.stage, "not changed, and declared to read it"))
    return wrong, seen


@pytest.mark.parametrize("name", WALKED)
def test_a_setting_changes_the_keys_of_the_stages_that_read_it_and_of_no_others(
    name: str, sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wrong, _ = walked(name, sample, tmp_path_factory.getbasetemp())
    assert not wrong, sorted(wrong)


def test_every_setting_changes_a_key_but_those_of_speed(
    sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    seen = set[str]().union(*(walked(name, sample, folder)[1] for name in WALKED))
    named = dict(dotted_fields())
    assert named.keys() - seen == NO_KEY | {k for k, field in named.items() if is_runtime(field)}
