"""The JSON Schema: the shipped one is current, takes every shipped file and refuses bad ones."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.metrics.evaluate import evaluate
from coin_ray.metrics.settings import Evaluate
from coin_ray.pipeline.settings import dotted_fields
from coin_ray.study.metrics import METRICS
from coin_ray.study.schema import json_schema
from coin_ray.study.study import resolve

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "search_spaces" / "study.schema.json"
FILES = sorted([*ROOT.glob("ablations/**/*.yaml"), *ROOT.glob("search_spaces/*.yaml")])
SCHEMA = json_schema()


def refused(text: str) -> bool:
    return bool(list(Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(text))))


def test_the_shipped_schema_is_what_the_verb_writes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "study.schema.json"
    done = CliRunner().invoke(cli.app, ["schema", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text() == SHIPPED.read_text(), (
        f"run: coin-ray schema --out {SHIPPED.relative_to(ROOT)}"
    )
    printed = CliRunner().invoke(cli.app, ["schema"]).output
    assert json.loads(printed) == json.loads(out.read_text()) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_travels_with_the_search_spaces() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["coin_ray.search_spaces"]
    assert any(SHIPPED.match(pattern) for pattern in patterns)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_name_the_schema_and_fit_it(path: Path) -> None:
    text = path.read_text()
    assert not refused(text)
    marker, _, where = text.splitlines()[0].partition("$schema=")
    assert marker == "# yaml-language-server: "
    assert (path.parent / where).resolve() == SHIPPED


def test_every_setting_is_in_it_once() -> None:
    keys = {key for key, _ in dotted_fields()}
    settings = SCHEMA["$defs"]["settings"]["properties"]
    inner = {key.rpartition(".")[0] for key in keys}
    assert "ucis.ssa" in inner
    assert set(settings) == keys | inner
    assert {
        f"{section}.{key}" for section in inner for key in settings[section]["properties"]
    } == keys | {section for section in inner if "." in section}
    entropic = SCHEMA["$defs"]["ot.lambda"]
    assert entropic == {
        "type": "number", "exclusiveMinimum": 0.0, "maximum": 1e6, "default": 0.1,
            "description": "entropic weight",
    }  # fmt: skip


HEAD = "study: s\nextends: mini\n"
FACTOR = "factors: {f: {baseline: a, levels: {a: {%s}}}}"
GOOD = {
    "nested and dotted": "baseline: {uss: {zoom: 2.0}, ot.lambda: 0.1}",
    "one for a list": FACTOR % "uss.zoom: 2.0",
    "a list of such": FACTOR % "uss.zoom: [2.0, 4.0]",
    "an empty level": "factors: {f: {baseline: a, levels: {a: , b: {uss.relu: true}}}}",
    "a list of levels": "factors: {ot.lambda: {baseline: 0.1, levels: [0.1, 1.0]}}",
    "sequential seeds": "seeds: {first: 2, max: 6}",
    "a range": "space: {select.value: {lin: [0.3, 0.9], when: {select.rule: [fixed]}}}",
    "chosen ranges": "space: [ot.lambda]",
    "one data folder": "data: {mine: {path: tiles, train: others, mpp: 0.5}}",
    "published": "published: {source: x, rows: {a: {d: {official_aji: 0.5}}}}",
}
BAD = {
    "an unknown key": "sedes: 3",
    "an unknown setting": FACTOR % "uss.famly: mae",
    "an unknown word": FACTOR % "uss.family: dinov3",
    "out of range": FACTOR % "ot.lambda: 0",
    "text for a number": FACTOR % "ot.lambda: '1'",
    "an unknown section key": "baseline: {uss: {famly: mae}}",
    "no baseline": "factors: {f: {levels: {a: {}}}}",
    "no seed": "seeds: 0",
    "an unknown design": "design: gird",
    "two kinds of range": "space: {ot.lambda: {log: [0.1, 1.0], lin: [0.1, 1.0]}}",
    "a word that no setting has": "space: {select.rule: {any: [fixd]}}",
    "a screen without a number": "screen: {metric: agreement}",
    "a screen by labels": "screen: {keep: 2, metric: aji}",
    "optimising on test": "objective: {split: test}",
    "an unknown metric": "report: [aji, pqq]",
    "an unknown published metric": "published: {source: x, rows: {a: {d: {ajj: 0.5}}}}",
    "a study's key in a search space": "profile: p\ntrials: 3",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_fit(name: str) -> None:
    assert not refused(HEAD + GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad_files_do_not(name: str) -> None:
    assert refused(HEAD + BAD[name])


def test_metrics_are_all_that_evaluation_computes() -> None:
    true = np.zeros((8, 8), np.int32)
    true[1:3, 1:3], true[1:3, 3:5] = 1, 2
    assert set(evaluate(true, true, Evaluate(adjacency_neighbours=2, adjacency_miou=True))) == set(
        METRICS
    )


def test_the_page_about_the_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of docs/study.md is a study, or the part of one that its first line names, and
    the page names every key."""
    page = (ROOT / "docs" / "study.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiles" / "val").mkdir(parents=True)
    examples: list[Any] = [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]
    assert len(examples) > 5
    for number, text in enumerate(examples):
        head = "" if "study: " in text else f"study: example{number}\nextends: mini\n"
        (tmp_path / "example.yaml").write_text(head + text)
        assert resolve("example.yaml").cells, text
        assert not refused(head + text)
    for key in {*SCHEMA["then"]["properties"], *SCHEMA["else"]["properties"]}:
        assert f"`{key}" in page or f"{key}:" in page, key
