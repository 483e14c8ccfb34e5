"""``coin-ray data``, as typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from coin_ray.cli import app
from coin_ray.data.folder import find_samples

RNG = np.random.default_rng(0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, ["data", *map(str, args)])


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        for kind, array in (("image", RNG.integers(0, 256, (9, 9, 3))), ("mask", np.eye(9) * 7)):
            path = tmp_path / "tiles" / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    return tmp_path / "tiles"


def test_list_and_info(run):
    from coin_ray.data.catalogue import NAMES

    result = run("list")
    assert result.exit_code == 0
    for name in NAMES:
        assert name in result.output
        text = run("info", name).output
        for word in ("licence", "citation", "splits", "traps", "get it"):
            assert word in text


def test_unknown_data_set(run):
    result = run("info", "kumar")
    assert result.exit_code == 2
    assert "unknown data set" in result.output
    assert "monuseg" in result.output


def test_fetch_by_hand_prints_the_steps(run):
    result = run("fetch", "cpm17")
    assert result.exit_code == 1
    assert "1. " in result.output
    assert "licence" in result.output


def test_fetch_without_network_is_one_message(run, monkeypatch):
    from dataclasses import replace

    from coin_ray.data import tnbc

    archives = tuple(replace(a, url="http://127.0.0.1:1/a.zip") for a in tnbc.CARD.archives)
    monkeypatch.setattr(tnbc, "CARD", replace(tnbc.CARD, archives=archives))
    result = run("fetch", "tnbc", "--to", "here")
    assert result.exit_code == 2
    assert "could not be fetched" in result.output


def test_check_writes_a_manifest_and_compares(run, folder, tmp_path):
    result = run("check", folder, "--mpp", 0.25)
    assert result.exit_code == 0, result.output
    assert "2 images, 2 readable label maps" in result.output
    manifest = tmp_path / "tiles.manifest.json"
    assert len(json.loads(manifest.read_text())["samples"]) == 2
    assert run("check", folder, "--mpp", 0.25, "--against", manifest).exit_code == 0
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(folder / "mask" / "a.png")
    result = run("check", folder, "--mpp", 0.25, "--against", manifest)
    assert result.exit_code == 1
    assert "not that of the manifest" in result.output


def test_check_lists_all_errors_and_writes_nothing(run, folder, tmp_path):
    for name in "ab":
        (folder / "image" / f"{name}.png").write_bytes(b"\x89PNG")
    result = run("check", folder, "--mpp", 0.25)
    assert result.exit_code == 1
    assert result.output.count("cannot decode") == 2
    assert not list(tmp_path.glob("*.json"))


def test_missing_mpp_is_one_line_that_names_the_flag(run, folder):
    result = run("check", folder)
    assert sum("--mpp" in line for line in result.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["coin", "tif", "folder"])
def test_convert_and_read_again(run, folder, tmp_path, kind):
    result = run("convert", folder, "--to", kind, "--out", tmp_path / "out", "--mpp", 0.25)
    assert result.exit_code == 0, result.output
    place = tmp_path / "out" / "tiles" / "test" if kind == "coin" else tmp_path / "out"
    before, after = find_samples(folder, mpp=0.25), find_samples(place, mpp=0.25)
    assert [s.name for s in after] == ["a", "b"]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.load_image(), new.load_image())
        np.testing.assert_array_equal(old.load_label_map(), new.load_label_map())


def test_convert_refuses(run, folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for args, text in (
        (("--to", "bmp", "--out", "new"), "unknown format"),
        (("--to", "tif", "--out", "full"), "not empty"),
        (("--to", "tif", "--out", "new", "--dataset", "nothing"), "unknown data set"),
        (("--to", "tif", "--out", "new", "--option", "rater"), "name=value"),
    ):
        result = run("convert", folder, *args)
        assert result.exit_code == 2, result.output
        assert text in result.output
    assert not (tmp_path / "new").exists()


def test_generate(run, tmp_path):
    result = run("generate", tmp_path / "g", "--count", 1, "--size", 64)
    assert result.exit_code == 0, result.output
    assert len(find_samples(tmp_path / "g", mpp=0.25)) == 1
