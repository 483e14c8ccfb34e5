"""`coin-ray evaluate`: numbers, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coin_ray.data.write import write_label_map
from tests.cli_calls import call, enter


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


def squares(path: Path, name: str, *boxes: tuple[int, int]) -> None:
    label_map = np.zeros((20, 20), np.int32)
    for i, (y, x) in enumerate(boxes):
        label_map[y : y + 4, x : x + 4] = i + 1
    path.mkdir(exist_ok=True)
    write_label_map(path / f"{name}.tif", label_map)


def test_evaluate_by_hand(folder: Path) -> None:
    for name in ("a", "b"):
        squares(folder / "truth", name, (0, 0), (10, 10))
    squares(folder / "found", "a", (0, 0), (10, 10))
    squares(folder / "found", "b", (0, 0))  # one of two nuclei: AJI 1/2
    done = call("evaluate", "found", "truth", "--out", "values.csv")
    assert done.exit_code == 0, done.output
    rows = {li.split()[0]: li.split() for li in done.output.splitlines() if li.strip()}
    assert rows["a"][1] == "1.000" and rows["b"][1] == "0.500"
    assert rows["mean"][3] == "0.750"
    assert (folder / "values.csv").read_text().splitlines()[0].startswith("image,aji,aji_plus")


def test_evaluate_refuses_a_truth_without_a_prediction(folder: Path) -> None:
    squares(folder / "truth", "a", (0, 0))
    squares(folder / "truth", "b", (0, 0))
    squares(folder / "found", "a", (0, 0))
    done = call("evaluate", "found", "truth")
    assert done.exit_code == 2 and "1 of 2 images have no prediction" in done.stderr
    assert call("evaluate", "nowhere", "truth").exit_code == 2


@pytest.mark.parametrize("truth", ["Tile_1", "Tile_1_mask", "mask_Tile_1"])
@pytest.mark.parametrize("image", ["Tile_1", "image_1"])
def test_evaluate_pairs_label_maps_of_any_two_sources(folder: Path, image: str, truth: str) -> None:
    squares(folder / "truth", truth.replace("Tile_1", image), (0, 0))
    squares(folder / "found", f"{image}.labels.ome", (0, 0))
    done = call("evaluate", "found", "truth")
    assert done.exit_code == 0 and f" {image} " in done.output, done.stderr


@pytest.mark.parametrize("out", [".", "there", "link", "file/x.csv"])
def test_evaluate_says_before_it_begins_that_it_cannot_write(folder: Path, out: str) -> None:
    squares(folder / "truth", "a", (0, 0))
    (folder / "there").mkdir()
    (folder / "file").write_text("")
    (folder / "link").symlink_to("there")
    done = call("evaluate", "truth", "truth", "--out", out)
    assert done.exit_code == 2 and done.stdout == ""
    assert f"{out.partition('/')[0]}: " in done.stderr and "  do: " in done.stderr
    assert list((folder / "there").iterdir()) == []


def test_evaluate_shows_every_number_beside_long_names() -> None:
    from rich.console import Console

    from coin_ray.cli.verbs.evaluate import SHOWN, _table

    names = ["TCGA-18-5592-01Z-00-DX1_x=0,y=0,w=1000,h=1000" * 3, "b"]
    values = {name: dict.fromkeys(SHOWN, 0.125) for name in names}
    screen = Console(width=80)
    with screen.capture() as captured:
        screen.print(_table(values))
    text = captured.get()
    assert text.count("0.125") == len(SHOWN) * (len(names) + 3) and "…" not in text
    shown = "".join(li[1:].split("0.125")[0].strip() for li in text.splitlines())
    assert names[0] in shown
