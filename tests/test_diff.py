"""Two cells, two levels, two studies: in what they differ is all that is said, and it is right."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import coin_ray
from coin_ray.api.diff import diff
from coin_ray.api.studies import Study
from coin_ray.data.write import write_image, write_label_map
from coin_ray.errors import UserError
from coin_ray.execution.local import Local
from coin_ray.report.diff_page import diff_document, write_diff
from coin_ray.report.values.differences import images, metrics, only, settings, stages
from tests.cli_calls import call

STUDY = """
study: {name}
extends: mini
baseline: {{rounds.count: 0, instances.footprint: {footprint}}}
data: {{generated: {{train: 0, test: 3, size: 96}}}}
report: [aji, pq]
factors:
  backbone:
    baseline: none
    levels:
      none: {{uss.family: none}}
      mae: {{uss.family: mae, ot.prior: 0.0}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diff")


def load(folder: Path, name: str, footprint: int) -> Study:
    path = folder / f"{name}.yaml"
    path.write_text(STUDY.format(name=name, footprint=footprint))
    return coin_ray.load_study(path, workspace=folder)


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    made = load(folder, "one", 9)
    coin_ray.run(made, executor=Local("cpu"), tracking=False)
    return made


@pytest.fixture(scope="module")
def other(folder: Path) -> Study:
    made = load(folder, "two", 15)
    coin_ray.run(made, executor=Local("cpu"), tracking=False)
    return made


def test_two_levels(study: Study, tmp_path: Path) -> None:
    found = diff(study, study, ("none", "mae"))
    (pair,) = found.pairs
    assert found.what == "levels"
    changed = {key: (a, b) for key, a, b in settings(pair)}
    assert changed == {"uss.family": ("none", "mae"), "ot.prior": (1.5, 0.0)}
    counts = {one.stage: one for one in stages(found, pair)}
    assert counts["ucis"].both == 3 and counts["ucis"].only_a == counts["ucis"].only_b == 0
    assert (counts["features"].only_a, counts["features"].only_b) == (0, 3)
    instances = counts["instances"]  # the coarse ones both have, and they are one level's step 1
    assert (instances.both, instances.only_a, instances.only_b) == (3, 0, 3)

    told = coin_ray.results(study.workspace, study)
    frame = told.per_image().filter(step="step1", metric="aji")
    means = dict(frame.group_by("level").agg(pl.col("value").mean()).iter_rows())
    one, said = metrics(found, pair)["aji"]
    assert one.delta.mean == pytest.approx(means["mae"] - means["none"])
    assert one.delta.images == 3 and said == "open"  # one random seed says nothing of another
    values = {
        level: dict(frame.filter(level=level).select("image", "value").iter_rows())
        for level in means
    }
    ranked = images(found, pair)
    sizes = [abs(values["mae"][i.image] - values["none"][i.image]) for i in ranked]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 3
    assert any(i.only_a or i.only_b for i in ranked)

    page = write_diff(found, diff_document(found), tmp_path / "page", overwrite=False)
    text = page.with_name("diff.md").read_text()
    assert "uss.family" in text and "they part at" in text
    assert len(list((tmp_path / "page" / "figures").iterdir())) == 1
    listed = pl.read_csv(page.with_name("diff_images.csv"))
    assert listed["image"].to_list() == [i.image for i in ranked]


def test_two_cells_and_a_name_that_is_neither(study: Study) -> None:
    cells = {cell.level: cell.key_label for cell in study.resolved.cells}
    found = diff(study, study, (cells["mae"], cells["mae"]))
    (pair,) = found.pairs
    assert found.what == "cells" and not settings(pair)
    assert all(one.only_a == one.only_b == 0 for one in stages(found, pair))
    same, _ = metrics(found, pair)["aji"]
    assert same.delta.mean == 0
    assert all(one.only_a == one.only_b == 0 for one in images(found, pair))
    document = diff_document(found)
    assert "No setting differs." in document.sections[0].blocks
    with pytest.raises(UserError, match="did you mean 'mae'"):
        diff(study, study, ("none", "maee"))


def test_two_studies_level_by_level(study: Study, other: Study) -> None:
    found = diff(study, other)
    assert [pair.title for pair in found.pairs] == ["none", "mae"]
    for pair in found.pairs:
        assert settings(pair) == [("instances.footprint", 9, 15)]
        counts = {one.stage: one for one in stages(found, pair)}
        assert counts["ucis"].only_a == 0 and counts["instances"].only_a > 0
        assert "aji" in metrics(found, pair)
    document = diff_document(found)
    (table, *_) = document.sections[0].blocks
    rows = [[value.text for value in row] for row in table.rows]  # type: ignore[union-attr]
    assert ["none, mae", "instances.footprint", "9", "15"] in rows  # said once for both


def test_what_has_nothing_in_common_is_refused(folder: Path, study: Study) -> None:
    path = folder / "four.yaml"
    path.write_text(
        STUDY.format(name="four", footprint=9).replace(
            "data: {generated", "data: {a: {test: 2, size: 64}, generated"
        )
    )
    four = coin_ray.load_study(path, workspace=folder)
    cells = {cell.data.name: cell.key_label for cell in four.resolved.cells}
    with pytest.raises(UserError, match="no level on a data set in common"):
        diff(four, four, (cells["a"], cells["generated"]))
    renamed = STUDY.format(name="five", footprint=9).replace("mae: {", "own: {")
    path.write_text(
        renamed.replace("none: {", "bare: {").replace("baseline: none", "baseline: bare")
    )
    with pytest.raises(UserError, match="no level on a data set in common"):
        diff(study, coin_ray.load_study(path, workspace=folder))


def test_levels_of_two_studies(study: Study, other: Study, folder: Path) -> None:
    found = diff(study, other, ("none", "mae"))
    (pair,) = found.pairs
    assert (found.what, found.a.name, found.b.name) == ("levels", "one: none", "two: mae")
    changed = {key: (a, b) for key, a, b in settings(pair)}
    assert changed.pop("instances.footprint") == (9, 15)
    assert changed == {"uss.family": ("none", "mae"), "ot.prior": (1.5, 0.0)}
    means = []
    for one, level in ((study, "none"), (other, "mae")):
        frame = coin_ray.results(one.workspace, one).per_image()
        own = frame.filter(step="step1", metric="aji", level=level)
        means.append(float(own["value"].to_numpy().mean()))
    told, _ = metrics(found, pair)["aji"]
    assert told.delta.mean == pytest.approx(means[1] - means[0])
    with pytest.raises(UserError, match="two has no level or cell 'male'"):
        diff(study, other, ("none", "male"))
    elsewhere = coin_ray.load_study(
        folder / "two.yaml", data=f"tiles={next(folder.glob('data/*'))}/test", workspace=folder
    )
    with pytest.raises(UserError, match="no level on a data set in common"):
        diff(study, elsewhere, ("none", "mae"))


def test_images_of_one_name_and_other_pixels_are_no_pair(study: Study, folder: Path) -> None:
    tiles = folder / "tiles"
    for sample in study.data["generated"].samples:
        write_image(tiles / f"{sample.name}.png", sample.image.load())
        write_label_map(tiles / "label" / f"{sample.name}.tif", sample.load_label_map())
    others = Path(shutil.copytree(tiles, folder / "others"))
    told = []
    for place, alike in ((tiles, 3), (others, 1)):
        for sample in study.data["generated"].samples[alike:]:
            write_image(place / f"{sample.name}.png", 255 - sample.image.load())
        made = coin_ray.load_study(folder / "one.yaml", data=f"mine={place}", workspace=folder)
        coin_ray.run(made, executor=Local("cpu"), tracking=False)
        told.append(made)
    found = diff(*told)
    for pair in found.pairs:
        (alone,), (one, _) = images(found, pair), metrics(found, pair)["aji"]
        assert alone.image == told[0].data["mine"].samples[0].name
        assert one.delta.images == 1 and one.delta.mean == 0


def test_what_has_not_run_is_compared_by_its_settings(folder: Path, study: Study) -> None:
    found = diff(study, load(folder, "three", 12))
    document = diff_document(found)
    assert "No metric that both have been measured by" in str(document.sections[1].blocks)
    for pair in found.pairs:
        told, samples = images(found, pair), study.data[pair.dataset].samples
        assert all(one.only_a is None for one in told)
        assert [one.image for one in told] == [sample.name for sample in samples]


def test_a_nucleus_is_of_both_above_half_an_overlap() -> None:
    a = np.zeros((10, 20), np.int32)
    a[1:5, 1:5], a[1:5, 10:14] = 1, 2
    b = np.zeros_like(a)
    b[1:5, 1:6], b[6:9, 10:14] = 1, 2
    found = only(a, b)
    assert found.false_negative.tolist() == [2] and found.false_positive.tolist() == [2]


def test_the_verb(study: Study, other: Study, folder: Path) -> None:
    one, two = (str(folder / f"{name}.yaml") for name in ("one", "two"))
    told = call("diff", "none", "mae", one, "--workspace", str(folder))
    assert told.exit_code == 0, told.output
    assert "they part at" in told.output and "B\u00a0−\u00a0A" in told.output
    assert list(folder.glob("runs/one-*/diffs/*/diff.html"))
    told = call("diff", one, two, "--workspace", str(folder))
    assert told.exit_code == 0, told.output
    assert "instances.footprint" in told.output
    told = call("diff", f"{one}:mae", f"{two}:none", "--workspace", str(folder))
    assert told.exit_code == 0, told.output
    assert "A is one: mae (mini)" in told.output and "B is two: none (mini)" in told.output
    assert "ot.prior" in told.output
    told = call("diff", f"{one}:mae", two, "--workspace", str(folder))
    assert told.exit_code == 2 and "write STUDY:LEVEL for both" in told.output
