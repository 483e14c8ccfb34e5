"""The studies and profiles that ship."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from coin_ray.cli.screen.preamble import opening
from coin_ray.errors import UserError
from coin_ray.pipeline.settings import Cell
from coin_ray.study.command_line import Request
from coin_ray.study.files import find_profile
from coin_ray.study.study import resolve

SHIPPED = [path.stem for path in (Path(__file__).parent.parent / "ablations").glob("*.yaml")]


ITS_OWN = {"prompts_negative": "coin"}
"""Profiles of studies that start from another than ``mini``, which cannot run them."""


@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize("profile", [None, "mini", "coin", "official"])
def test_shipped_studies_resolve_on_every_profile(name: str, profile: str | None) -> None:
    if name in ITS_OWN and profile == "mini":
        with pytest.raises(UserError, match=r"needs a sam\.model other than mini"):
            resolve(name, Request(profile=profile))
        return
    study = resolve(name, Request(profile=profile))
    assert study.name == name and study.profile == (profile or ITS_OWN.get(name, "mini"))
    assert not study.warnings
    assert study.baseline_level in study.levels
    size = {"mini": "mini"}.get(study.profile, "base")
    assert all(cell.config.uss.size == size for cell in study.cells)


def test_every_shipped_study_stands_in_the_table_of_studies() -> None:
    root = Path(__file__).parent.parent
    text = (root / "README.md").read_text(encoding="utf-8")
    studies = {path.name for path in (root / "ablations").glob("*.yaml")}
    assert studies == {name for name in studies if f"](ablations/{name})" in text}


def test_shipped_profiles_say_what_they_are_for() -> None:
    def base(profile: str) -> Cell:
        return resolve("ot_lambda", Request(profile=profile)).configuration("0.1")

    official, coin, mini = base("official"), base("coin"), base("mini")
    assert (official.ot.mode, official.ot.foreground_mass) == ("one_step", 0.5)
    assert (coin.ot.mode, coin.ot.foreground_mass) == ("converged", "coarse")
    assert (coin.sam.model, mini.sam.model) == ("vit_h", "mini")
    assert official.rounds.count == 1 and official.student.iterations == 23100
    assert "SAM 2.1" in find_profile("official").read_text()
    levels = {"none", "mae", "dinov1", "dinov2", "dinov2_reg", "sam"}
    assert levels == set(resolve("uss_backbones").levels)


@pytest.mark.parametrize("installed", [True, False])
def test_official_takes_sam_2_where_it_is_installed_and_says_so(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = importlib.util.find_spec
    there = importlib.machinery.ModuleSpec("sam2", None) if installed else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: there if name == "sam2" else plain(name)
    )
    study = resolve("ot_lambda", Request(profile="official"))
    config, said = study.configuration("0.1"), opening(study)
    if installed:
        assert config.sam.model == "sam2_hiera_l"
        assert "sam.model: sam2_hiera_l, of the extra sam2" in said
    else:
        assert config.sam.model == "vit_h"
        assert "sam.model: vit_h, without the extra sam2, which is not installed" in said
    # A level, and --set, count more than what a search space prefers.
    asked = Request(profile="official", settings=("sam.model=vit_b",))
    assert resolve("ot_lambda", asked).configuration("0.1").sam.model == "vit_b"
    assert not resolve("ot_lambda", Request(profile="coin")).extras


def test_generated_tiles_have_a_schedule_of_their_own_and_what_is_nearer_counts_more(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(
        "profile: p\nextends: mini\nbaseline: {student.iterations: 30, rounds.count: 3}\n"
        "generated: {student.iterations: 7, rounds.count: 1}\ndata: generated\n"
    )
    study = tmp_path / "own.yaml"
    study.write_text("study: own\nextends: p.yaml\nbaseline: {rounds.count: 2}\n")
    (tmp_path / "images").mkdir()

    def found(**asked: Any) -> tuple[int, int, bool]:
        study = resolve("own.yaml", Request(**asked))
        config = study.configuration(study.baseline_level)
        said = "student.iterations: 7, for generated tiles" in opening(study)
        return config.student.iterations, config.rounds.count, said

    assert found() == (7, 2, True)
    assert found(settings=("student.iterations=9",))[0] == 9
    # One's own images are none: all settings are those of the search space.
    assert found(data=(str(tmp_path / "images"),)) == (30, 2, False)
    study.write_text("study: own\nextends: p.yaml\ndata: {generated: , a: {path: images}}\n")
    assert found() == (30, 3, False)
    study.write_text("study: own\nextends: p.yaml\ngenerated: {rounds.count: 2}\n")
    with pytest.raises(UserError, match="unknown key 'generated'"):
        resolve("own.yaml")
