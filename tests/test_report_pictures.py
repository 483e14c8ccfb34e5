"""``coin-ray figure``: each kind of picture of a study that ran, and what is in it."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import coin_ray
from coin_ray.api.results import Results
from coin_ray.data.write import write_label_map
from coin_ray.metrics.adjacency import neighbours
from coin_ray.metrics.contingency import contingency
from coin_ray.metrics.mistakes import errors
from coin_ray.report.figures.gallery import gallery
from coin_ray.report.figures.of_scores import binned, correlation, told
from coin_ray.report.figures.of_steps import scored
from coin_ray.report.figures.pictures import KINDS, Asked, pictures
from coin_ray.report.figures.sheet import COLUMN, PAGE
from coin_ray.report.values import images
from coin_ray.report.values.finished import open_finished
from coin_ray.report.values.tidy import measured
from tests.cli_calls import call
from tests.report_study import NUMBERS, finished

STUDY = """
study: drawn
extends: mini
seeds: 1
baseline:
  rounds.count: 2
  student.iterations: 2
  student.later_iterations: 2
  student.width: 4
data: {generated: {train: 0, test: 3, size: 96}}
factors:
  backbone:
    baseline: mae
    levels:
      mae: {uss.family: mae}
      none: {uss.family: none}
"""
WHOLE = (0, 0, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the study has run."""
    made = tmp_path_factory.mktemp("pictures")
    (made / "drawn.yaml").write_text(STUDY)
    coin_ray.run(made / "drawn.yaml", workspace=made, tracking=False)
    return made


@pytest.fixture
def results(folder: Path) -> Results:
    return coin_ray.results(folder, folder / "drawn.yaml")


def words(svg: bytes) -> list[str]:
    """The texts of a figure: matplotlib draws letters as paths and says beside them what they
    are."""
    return re.findall(r"<!-- (.*?) -->", svg.decode())


def boxes(svg: bytes, kind: str) -> int:
    return len(re.findall(rf'id="box-{kind}-\d+-\d+"', svg.decode()))


def drawn(results: Results, kind: str, **options: object) -> tuple[str, bytes]:
    (picture,) = results.pictures(kind, **options)  # type: ignore[arg-type]
    svg = picture.to("svg")
    assert ET.fromstring(svg).tag.endswith("svg") and picture.caption.endswith(".")
    assert picture.figure.get_figwidth() in (COLUMN, PAGE)
    return picture.caption, svg


def test_the_chain_of_an_image(results: Results) -> None:
    caption, svg = drawn(results, "stages")
    order = images.ranked(results.values, results.values.study.cells[0])
    said = words(svg)
    assert caption.startswith(f"{order[1]} (generated): mae, random seed 0.")  # the middle one
    shown = (
        *(order[1], "coarse mask", "similarity to nuclei", "transport to nuclei", "step 1"),
        *("scores", "pseudo labels", "round 2", "truth"),
    )
    assert [text for text in said if text in shown] == list(shown)
    row = results.per_image().filter(level="mae", image=order[1], metric="aji")
    for step in ("ucis", "step1", "round_2"):
        assert f"AJI {row.filter(step=step)['value'][0]:.3f}" in said
    assert "scale-bar" in svg.decode()


def test_a_level_without_propagation_has_no_panels_of_it(results: Results) -> None:
    _, svg = drawn(results, "stages", levels=["none"])
    assert not {"similarity to nuclei", "transport to nuclei"} & set(words(svg))


def test_pseudo_masks_of_a_round(results: Results) -> None:
    _, last = drawn(results, "labels")
    _, first = drawn(results, "labels", round_=1)
    assert {"of round 2", "binary mask", "ignored", "edge mask", "boundary"} <= set(words(last))
    assert "of round 1" in words(first)
    with pytest.raises(coin_ray.UserError, match=r"no such round(?s:.*)1 to 2"):
        results.pictures("labels", round_=3)


def test_scores_from_the_highest_to_the_lowest(results: Results, folder: Path) -> None:
    _, svg = drawn(results, "scores", images=[results.values.data["generated"].samples[0].name])
    said = words(svg)
    shown = [float(text.removeprefix("score ")) for text in said if text.startswith("score ")]
    assert shown == sorted(shown, reverse=True) and {"highest", "lowest"} <= set(said)
    assert {"instance", "segmenter's mask"} <= set(said)
    assert sum(text.startswith("true IoU ") for text in said) == len(shown) > 2


def test_adjacent_cells_are_counted_as_the_metric_counts_them(results: Results) -> None:
    sample = results.values.data["generated"].samples[1]
    caption, svg = drawn(results, "adjacency", images=[sample.name])
    near = neighbours(sample.load_label_map(), radius=1)
    count = int((near > 0).sum())
    assert f"{count} adjacent, {len(near) - count} not" in words(svg)
    assert "within 1 px" in caption


def test_boxes_are_the_errors_that_the_metric_counts(results: Results) -> None:
    data = results.values.data["generated"]
    for sample in data.samples:
        _, svg = drawn(results, "compare", images=[sample.name], window=WHOLE)
        fp = fn = 0
        for level in ("mae", "none"):
            rows = results.per_image().filter(level=level, image=sample.name, step="round_2")
            value = dict(rows.select("metric", "value").iter_rows())
            cell = images.finished_cell(results.values, level, results.values.study.data[0])
            assert cell is not None
            found = images.label_map_of(results.values, cell, sample)
            wrong = errors(contingency(sample.load_label_map(), found))
            extra, lost = len(wrong.false_positive), len(wrong.false_negative)
            matched = value["n_true"] - lost
            assert value["dq"] == pytest.approx(matched / (matched + extra / 2 + lost / 2))
            assert f"{extra} FP, {lost} FN, AJI {value['aji']:.2f}" in words(svg)
            fp, fn = fp + extra, fn + lost
        assert (boxes(svg, "extra"), boxes(svg, "lost")) == (fp, fn)
        assert fp + fn > 0


def test_a_result_that_is_not_split_is_read_back_as_it_is(results: Results, tmp_path: Path) -> None:
    """As of the first rows of table 11: one instance in many pieces, which looks like a mask."""
    cell = results.values.study.cells[0]
    sample = results.values.data[cell.data.name].samples[0]
    elsewhere = replace(results.values, runs=tmp_path)
    path = images.file_of(elsewhere, cell, sample)
    path.parent.mkdir(parents=True)
    pieces = np.zeros(sample.image.shape(), np.int32)
    pieces[4:20, 4:20] = pieces[40:60, 40:60] = 1
    write_label_map(path, pieces)
    assert (images.label_map_of(elsewhere, cell, sample) == pieces).all()


def test_levels_in_columns_and_images_in_rows(results: Results) -> None:
    order = images.ranked(results.values, results.values.study.cells[0])
    caption, svg = drawn(results, "compare")
    said = words(svg)
    assert [text for text in said if text in order] == order
    assert said.count("mae") == said.count("none") == 3
    assert caption.startswith(f"{', '.join(order)} (generated): mae, none, random seed 0.")
    _, svg = drawn(results, "compare", levels=["none"])
    assert "mae" not in words(svg)


def test_the_worst_images_and_what_went_wrong(results: Results) -> None:
    caption, svg = drawn(results, "failures", window=WHOLE)
    order = images.ranked(results.values, results.values.study.cells[0])
    said = words(svg)
    assert [text for text in said if text in order] == order
    notes = [text for text in said if text.startswith(("step 1: ", "result: "))]
    assert len(notes) == 6 and all(name in caption for name in order)
    fn = sum(int(n) for text in said for n in re.findall(r"(\d+) FN", text))
    causes = r"(\d+) (?:missed|merged|split|outlined badly)"
    assert fn == sum(int(n) for text in notes for n in re.findall(causes, text)) > 0


def test_curves_over_the_rounds(results: Results, folder: Path) -> None:
    caption, svg = drawn(results, "curves", metric="iou")
    assert caption.startswith("The mean IoU (fg) after step 1 (0) and after each round, generated")
    assert {"mean IoU (fg)", "std. dev. of scores", "round", "mae", "none"} <= set(words(svg))
    with pytest.raises(coin_ray.UserError, match=r"no 'sun' was measured(?s:.*)aji"):
        results.pictures("curves", metric="sun")


def test_curves_over_a_setting(tmp_path: Path) -> None:
    found = finished(tmp_path, NUMBERS)
    over, rounds = pictures(found, tmp_path, "curves", Asked(metric="pq"))
    assert (over.name, rounds.name) == (
        "curves-ot-lambda-generated-metric-pq",
        "curves-rounds-generated-metric-pq",
    )
    step1, end = over.figure.axes[0].get_lines()
    rows = measured(found.frame).filter(metric="pq", level="1.0")
    for line, step in ((step1, "step1"), (end, "round_2")):
        value = dict(zip(*line.get_data(), strict=True))
        assert value[1.0] == pytest.approx(rows.filter(step=step)["value"].mean())
        assert sorted(value) == [0.1, 1.0, 3.0]
    assert {"ot.lambda", "mean PQ", "step 1", "end of the chain"} <= set(words(over.to("svg")))


def test_pictures_without_labels_of_images_that_are_not_trained_on(folder: Path) -> None:
    bare, other = folder / "bare", folder / "other"
    tiles = coin_ray.load_study(folder / "drawn.yaml", workspace=folder).data["generated"].samples
    for place, sample in ((bare, tiles[0]), (bare, tiles[1]), (other, tiles[2])):
        place.mkdir(exist_ok=True)
        shutil.copy(sample.image.path, place)
    given = coin_ray.load_study(folder / "drawn.yaml", data=bare, train=other, workspace=folder)
    results = coin_ray.run(given, tracking=False)
    _, svg = drawn(results, "compare")
    assert not boxes(svg, "extra") and "truth" not in words(svg)
    assert any(text.endswith(" nuclei") for text in words(svg))
    _, svg = drawn(results, "stages")
    assert not {"scores", "pseudo labels"} & set(words(svg)) and "round 2" in words(svg)
    caption, _ = drawn(results, "scores")
    assert caption.startswith(f"{tiles[2].name} (")
    with pytest.raises(coin_ray.UserError, match=f"not trained on(?s:.*){tiles[2].name}"):
        results.pictures("scores", images=[tiles[0].name])
    for kind in ("adjacency", "failures"):
        with pytest.raises(coin_ray.UserError, match="no image of this study has labels"):
            results.pictures(kind)


def test_what_the_store_lacks_is_said_and_made_again_if_asked(folder: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "copy"
    shutil.copytree(folder, workspace)
    results = coin_ray.results(workspace, workspace / "drawn.yaml")
    before = results.pictures("stages")[0].to("svg")
    shutil.rmtree(workspace / "store" / "similarity")
    with pytest.raises(coin_ray.UserError, match=r"no similarity(?s:.*)--compute"):
        results.pictures("stages")
    assert not (workspace / "store" / "similarity").exists()
    assert results.pictures("stages", compute=True)[0].to("svg") == before
    shutil.rmtree(workspace / "store" / "round")
    with pytest.raises(coin_ray.UserError, match="not finished"):
        results.pictures("stages")
    for path in results.folder.rglob("*.tif"):
        path.unlink()
    with pytest.raises(coin_ray.UserError, match="label map of this image has gone"):
        results.pictures("compare")
    assert not gallery(results.values)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "curves"])
def test_names_that_are_not_there(results: Results, kind: str) -> None:
    (image, *_) = results.values.data["generated"].samples
    with pytest.raises(coin_ray.UserError, match=f"did you mean '{image.name}'"):
        results.pictures(kind, images=[image.name.upper()])
    with pytest.raises(coin_ray.UserError, match=r"no level 'may'(?s:.*)mae"):
        results.pictures(kind, levels=["may"])
    with pytest.raises(coin_ray.UserError, match=r"no pictures of 'sun'(?s:.*)stages, labels"):
        results.pictures("sun")
    if kind != "compare":
        with pytest.raises(coin_ray.UserError, match="of one level"):
            results.pictures(kind, levels=["mae", "none"])
    if kind not in ("scores", "reliability"):
        with pytest.raises(coin_ray.UserError, match="the window leaves the image"):
            results.pictures(kind, window=(50, 0, 60))
    for window in ((0,), (1, 2), (-5, 0, 20)):
        with pytest.raises(coin_ray.UserError, match="no window"):
            results.pictures("stages", window=window)


def test_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    study = ("drawn.yaml", "--workspace", str(folder))
    done = call("figure", "compare", *study, "--window", "64")
    assert done.exit_code == 0, done.output
    (made,) = (folder / "runs").glob("*/pictures/compare-generated-window-64.svg")
    assert str(made) in done.output and "mae, none, random seed 0" in done.output
    first = made.read_bytes()
    call("figure", "compare", *study, "--window", "64")
    assert made.read_bytes() == first
    call("figure", "compare", *study)
    assert made.read_bytes() == first and made.with_stem("compare-generated").exists()
    out = ("--out", str(tmp_path))
    for suffix, begin in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        assert call("figure", "scores", *study, *out, "--format", suffix).exit_code == 0
        (made,) = tmp_path.glob(f"scores-*.{suffix}")
        assert made.read_bytes().startswith(begin)
    for wrong in ("0", "1,2", "a", "1,2,-3"):
        refused = call("figure", "compare", *study, "--window", wrong)
        assert refused.exit_code == 2 and "SIDE or X,Y,SIDE" in refused.output
    assert call("figure", "sun", *study).exit_code == 2


def test_the_gallery_shows_the_same_drawings(results: Results) -> None:
    photos = gallery(results.values)
    order = images.ranked(results.values, results.values.study.cells[0])
    assert [photo.caption for photo in photos] == [
        f"{name} (generated): mae (seed 0), none (seed 0); the {word} image of mae"
        for name, word in zip(order, ("worst", "median", "best"), strict=True)
    ]
    (picture,) = results.pictures("compare", images=order[:1])
    assert photos[0].jpeg == picture.to("jpg")
    assert not gallery(replace(results.values, data={}))


def test_reliability_is_of_every_scored_instance(results: Results) -> None:
    """The IoU beside each score, counted anew from full masks."""
    data = results.values.data["generated"]
    caption, svg = drawn(results, "reliability", levels=["mae"])
    cell = images.finished_cell(results.values, "mae", results.values.study.data[0])
    assert cell is not None
    run = open_finished(cell, data.train, results.workspace, "cpu")
    count, best = 0, []
    for sample in data.samples:
        truth = sample.load_label_map()
        masks = run.masks(sample.image, 1)
        for i in range(len(masks)):
            mask = masks.take(np.array([i])).paint(truth.shape, np.ones(1)) > 0
            ids = np.unique(truth[mask & (truth > 0)])
            best.append(max([(mask & (truth == j)).sum() / (mask | (truth == j)).sum()
                             for j in ids], default=0))  # fmt: skip
        count += len(masks)
        _, _, iou = scored(run, sample, 1, compute=False)
        np.testing.assert_allclose(iou, best[-len(masks) :])
    assert f"{count} instances of 3 images: mean true IoU {np.mean(best):.2f}" in caption
    said = words(svg)
    assert {"score", "segmenter's estimate", "true IoU of the mask"} <= set(said)
    with pytest.raises(coin_ray.UserError, match="no such round"):
        results.pictures("reliability", round_=9)


def test_scores_that_say_everything_and_nothing() -> None:
    iou = np.linspace(0, 1, 40)
    assert correlation(iou**2, iou) == "1.00" and correlation(-iou, iou) == "-1.00"
    assert correlation(np.ones(40), iou) == "–"
    at, means = binned(iou, iou)
    assert at == means == sorted(at) and len(binned(iou[:10] / 10, iou[:10])[0]) == 1
    assert "half with the higher scores 0.76" in told(iou, iou, 1)[0]
