"""No command writes over or deletes what it did not make itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.errors import UserError
from coin_ray.outputs import LEDGER, Output, claim, claim_file


def write(output: Output, name: str, text: str) -> None:
    with output.file(name) as part:
        part.write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.name != LEDGER and p.is_file()}


def test_ours_is_replaced_as_often_as_wanted(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    for text in ("first", "second", "second"):
        write(claim(out, ["a.tif", "x/b.tif"]), "a.tif", text)
    assert contents(out) == {"a.tif": "second"}


def test_a_foreign_file_stays_and_the_message_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("user's")
    with pytest.raises(UserError, match=r"did not write[\s\S]*a\.tif[\s\S]*--overwrite"):
        claim(tmp_path, ["a.tif", "b.tif"])
    assert contents(tmp_path) == {"a.tif": "user's"}
    write(claim(tmp_path, ["a.tif"], overwrite=True), "a.tif", "asked for")
    assert contents(tmp_path) == {"a.tif": "asked for"}


def test_ours_that_the_user_changed_is_the_users(tmp_path: Path) -> None:
    write(claim(tmp_path, ["a.tif"]), "a.tif", "predicted")
    (tmp_path / "a.tif").write_text("corrected by hand")
    with pytest.raises(UserError, match="changed since"):
        claim(tmp_path, ["a.tif"])


def test_a_file_that_comes_in_meanwhile_stays(tmp_path: Path) -> None:
    output = claim(tmp_path, ["a.tif"])
    (tmp_path / "a.tif").write_text("user's")
    with pytest.raises(UserError, match="did not write"):
        write(output, "a.tif", "ours")
    assert contents(tmp_path) == {"a.tif": "user's"}


@pytest.mark.parametrize("link", ["itself", "symlink", "hard link", "folder link"])
def test_an_input_is_never_replaced(tmp_path: Path, link: str) -> None:
    source, out = tmp_path / "tiles" / "a.tif", tmp_path / "out"
    source.parent.mkdir()
    source.write_text("tile")
    if link == "folder link":
        out.symlink_to(source.parent)
    else:
        out.mkdir()
    if link == "itself":
        out = source.parent
    if link == "symlink":
        (out / "a.tif").symlink_to(source)
    if link == "hard link":
        os.link(source, out / "a.tif")
    with pytest.raises(UserError, match="replace what it is made from"):
        claim(out, ["a.tif"], inputs=[source], overwrite=True)
    assert source.read_text() == "tile"


def test_nothing_is_written_among_the_images(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link", tmp_path / "x" / ".."):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="among the images"):
            claim(out, ["a.tif"], sources=[tmp_path], overwrite=True)
    with pytest.raises(UserError, match="among the images"):
        claim(tmp_path.parent, [f"{tmp_path.name}/a.tif"], sources=[tmp_path])


def test_a_link_is_not_ours(tmp_path: Path) -> None:
    write(claim(tmp_path, ["a.csv"]), "a.csv", "ours")
    (tmp_path / "a.csv").rename(tmp_path / "moved.csv")
    (tmp_path / "a.csv").symlink_to(tmp_path / "moved.csv")
    with pytest.raises(UserError, match="did not write"):
        claim_file(tmp_path / "a.csv")
    (tmp_path / "a.csv").unlink()
    (tmp_path / "a.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="did not write"):
        claim_file(tmp_path / "a.csv")


def test_two_names_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path, ["a.tif", "A.tif"])  # this file system tells them apart
    with pytest.raises(UserError, match="overwrite each other"):
        claim(tmp_path, ["a.tif", "a.tif"])
    monkeypatch.setattr("coin_ray.outputs._folds", lambda folder: True)
    with pytest.raises(UserError, match=r"a\.tif and A\.tif"):
        claim(tmp_path, ["a.tif", "A.tif"])
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("user's")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="a file where a folder"):
            claim(out, ["a"])
    with pytest.raises(UserError, match="a folder where a file"):
        claim_file(tmp_path)


def test_stopped_after_the_note_the_old_file_is_still_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(claim(tmp_path, ["a"]), "a", "old")

    def full(self: Path, target: Path) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space"):
            write(claim(tmp_path, ["a"]), "a", "new")
    with (tmp_path / LEDGER).open("a") as ledger:
        ledger.write('\n{"name": "a", "sh')  # torn
    write(claim(tmp_path, ["a"]), "a", "newest")
    write(claim(tmp_path, ["a"]), "a", "again")
    assert contents(tmp_path) == {"a": "again"}


def test_only_what_is_ours_is_dropped(tmp_path: Path) -> None:
    inside = tmp_path / "out"
    output = claim(inside, ["figures/a.svg", "figures/b.svg", "figures/c.svg"])
    for name in "abc":
        write(output, f"figures/{name}.svg", name)
    (inside / "figures" / "user.svg").write_text("user's")
    (inside / "figures" / "b.svg").write_text("redrawn by hand")
    (tmp_path / "evil").write_text("a")
    digest = next(iter(output.noted["figures/a.svg"]))
    with (inside / LEDGER).open("a") as ledger:
        ledger.write(f'\n{{"name": "figures/../../evil", "sha256": "{digest}"}}')
    claim(inside, []).drop("figures/", keep=["figures/c.svg"])
    assert {p.name for p in (inside / "figures").iterdir()} == {"b.svg", "c.svg", "user.svg"}
    assert (tmp_path / "evil").exists()


# --- the commands

RGB = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: tiles, their label maps, notes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COIN_RAY_WORKSPACE", raising=False)
    for name in ("tiles", "truth"):
        (tmp_path / name).mkdir()
    for name in "ab":
        tifffile.imwrite(tmp_path / "tiles" / f"{name}.tif", RGB)
        ids = np.zeros((64, 64), np.uint16)
        ids[3:9, 4:9] = 1
        Image.fromarray(ids).save(tmp_path / "truth" / f"{name}.png")
    for name in ("notes.csv", "tiles.manifest.json", "model.ckpt", "generated.txt"):
        (tmp_path / name).write_text("user's")
    (tmp_path / "X.part").mkdir()
    (tmp_path / "X.part" / "thesis.tex").write_text("user's")
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and ".coin-ray" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.name != LEDGER}


AMONG, INPUT, FOREIGN = "among the images", "what it is made from", "did not write"
CALLS = {
    "segment tiles --mpp .25 --out tiles": AMONG,
    "segment tiles --mpp .25 --out truth/../tiles --overwrite": AMONG,
    "segment tiles --mpp .25 --out tiles/Mask": AMONG,  # read as the truth from then
    "ucis train ssa --data tiles=tiles --out .": AMONG,
    "ucis train ssa --data tiles=tiles --out . --overwrite": AMONG,
    "data convert tiles --to folder --out truth": "not empty",
    "data check tiles": FOREIGN,
    "data check tiles --manifest tiles/a.tif --overwrite": INPUT,
    "data generate .": "holds other files",
    "evaluate truth truth --out notes.csv": FOREIGN,
    "evaluate truth truth --out truth/a.png --overwrite": INPUT,
    "schema --out notes.csv": FOREIGN,
    "pretrain segmenter --out model.safetensors --steps 1": FOREIGN,
}


@pytest.mark.parametrize(("call", "words"), CALLS.items())
def test_a_command_leaves_what_is_there(here: Path, call: str, words: str) -> None:
    before = everything(here)
    done = CliRunner().invoke(cli.app, call.split())
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert everything(here) == before


def test_convert_and_evaluate_write_beside_the_users_files(here: Path) -> None:
    before = everything(here)
    calls = ("data convert tiles --to folder --out X --mpp .25", "evaluate truth truth --out v.csv")
    for call in calls:
        done = CliRunner().invoke(cli.app, call.split())
        assert done.exit_code == 0, done.output
    assert before.items() <= everything(here).items()
    assert CliRunner().invoke(cli.app, calls[1].split()).exit_code == 0
