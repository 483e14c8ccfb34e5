"""What a version finished is found by the next one: the names of cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coin_ray.pipeline.settings import Cell, flatten, nest
from coin_ray.section import without_younger
from coin_ray.study.cells import config_digest
from tests.fixtures.make_store import configuration

FIXTURE = Path(__file__).parent / "fixtures" / "store_0_2"
OF_0_2 = {
    "base": "beab756e67b2",
    "redraw": "c9d7d8e77857",
    "mean": "d1db91d6aec2",
    "weak transport": "bbbbc93a1293",
    "no transport": "fec0c8727cb4",
    "coarse alone": "383a1e1b873e",
    "ssa": "d7d0dd4a1ee6",
}
"""Level of the fixture -> how 0.2.0 began the digest of its configuration."""


@pytest.mark.parametrize("level", OF_0_2)
def test_a_cell_is_called_as_0_2_called_it(level: str) -> None:
    assert config_digest(configuration(level)).startswith(OF_0_2[level])


def test_a_name_holds_the_settings_of_0_2_and_a_younger_one_only_where_it_is_said() -> None:
    known = set(json.loads((FIXTURE / "settings.json").read_text()))
    # A new setting here wants `json_schema_extra=YOUNGER`.
    assert set(flatten(without_younger(Cell()))) == known
    said = {"mine.points": ["grid"], "ucis.detector.views": 4, "student.output_stride": 16}
    settings = flatten(Cell().model_dump(mode="json"))
    whole = {key for key in settings if key.startswith(("mine.", "ucis.detector."))}
    found = set(flatten(without_younger(Cell.model_validate(nest(said)))))
    assert found - known == {"student.output_stride"} | whole
