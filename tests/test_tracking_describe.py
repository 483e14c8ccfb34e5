"""What a study is called and how it is described, before anything is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from coin_ray import safe
from coin_ray.events.tracked import Table
from coin_ray.tracking.describe import cell_digest, describe_study, study_event
from coin_ray.tracking.lines import Line
from coin_ray.tracking.mlflow_store import tracking_uri
from coin_ray.tracking.records import STUDY, RunRecord, fold
from coin_ray.tracking.replay import study_identity
from tests.hostile import markdown_text
from tests.tracking_study import info, study

pytestmark = pytest.mark.usefixtures("no_tracker_of_the_user")


@pytest.mark.parametrize("name", ["it's", 'say "x"', "' OR 1=1 --", "a b", "%41?#"])
def test_a_filter_and_an_address_hold_any_name(name: str, tmp_path: Path) -> None:
    from mlflow.utils.search_utils import SearchUtils
    from sqlalchemy.engine import make_url

    (found,) = SearchUtils.parse_search_filter(f"tags.study = {safe.literal(name)}")
    assert found["value"] == name
    assert make_url(tracking_uri(tmp_path / name)).database == str(tmp_path / name / "mlflow.db")


def test_no_filter_holds_both_kinds_of_quotes() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        safe.literal("'\"")


def test_notes_and_tables_are_the_text_that_was_given() -> None:
    told = info("notes") | {"question": "<b>*any*</b>", "command": "coin-ray sweep '```'"}
    note, tags = markdown_text(study_event(told).tags["mlflow.note.content"])
    assert "<b>*any*</b>" in note and "coin-ray sweep '```'" in note
    assert not tags & {"b", "em"}
    rows = [{"image": "=1+1", "value": -0.5}]
    records: dict[str, RunRecord] = {}
    fold(records, Line(1, event=Table("t", rows)))
    assert records[STUDY].texts["t.csv"] == "image,value\n'=1+1,-0.5\n"
    assert json.loads(records[STUDY].texts["t.json"])["data"] == [["=1+1", -0.5]]


def test_identity_is_name_profile_and_data() -> None:
    assert study_identity(info("0123456789abcdef")) == "uss_backbones-mini-0123456789ab"
    alike = [
        {**info("x"), **changes}
        for changes in (
            {"study": "a_b"},
            {"study": "a-b"},
            {"study": "a b'c"},
            {"study": "a b_c"},
            {"study": "a", "profile": "b-mini"},
            {"study": "a-b", "profile": "mini"},
            {"study": "a_b", "overrides": {"student.iterations": 9}},
            {"study": "a_b", "overrides": {"student.iterations": 8}},
            {"study": "a_b", "profile": "Mini"},
            {"study": "a_b", "profile": "../../mini"},
        )
    ]
    found = [study_identity(one) for one in alike]
    assert len({one.lower() for one in found}) == len(found) - 1  # a-b with mini is there twice
    assert all(re.fullmatch(r"[\w.-]{1,130}", one, re.ASCII) for one in found)


def test_cells_are_told_apart_by_configuration_data_and_seed() -> None:
    cells = study(seeds=(0, 1)).cells
    assert len({cell_digest(cell) for cell in cells}) == 4
    described = info("x", levels=("mae", "mae"))  # two levels that come to the same
    assert len({cell["digest"] for cell in described["cells"]}) == 2


def test_two_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    files = [tmp_path / folder / "s.yaml" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)
    made = replace(study(), source_files=tuple(map(str, files)))
    found = describe_study(made, data_digest="x")["sources"]
    assert found == {"s.yaml": "a", "1-s.yaml": "b"}
