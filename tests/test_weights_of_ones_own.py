from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from coin_ray.cli.verbs.models import app
from coin_ray.errors import UserError
from coin_ray.weights import registry
from coin_ray.weights.fetch import register as enter
from coin_ray.weights.state_files import read_state

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "weights").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def official(tmp_path: Path) -> Path:
    path = tmp_path / "official.safetensors"
    save_file(STATE, path)
    return path


BAD_FILES: dict[str, tuple[str, bytes | None]] = {
    "nothing in it": (".pth", b""),
    "nothing in it, safetensors": (".safetensors", b""),
    "text": (".pth", b"these are no weights\n"),
    "text, safetensors": (".safetensors", b"these are no weights\n" * 100),
    "a web page": (".pt", b"<!DOCTYPE html><html>" * 20),
    "a pickle that ends": (".pth", b"\x80\x02}q\x00(X"),
    "a pickle that pops nothing": (".pth", b"\x80\x020."),
    "a pickle of an unknown memo": (".pth", b"\x80\x02h\x07."),
    "a pickle of a function": (".pth", b"cos\nsystem\n(S'touch owned'\ntR."),
    "a pickle with bad text": (".pth", b"\x80\x02X\x02\x00\x00\x00\xff\xff."),
    "an archive of nothing": (".pth", b"PK\x05\x06" + b"\0" * 18),
    "a list": (".pth", b"\x80\x02]q\x00."),
    "a header that lies": (".safetensors", b"\xff" * 8 + b"{}"),
    "a header that is no JSON": (".safetensors", (8).to_bytes(8, "little") + b"{{{{{{{{"),
    "a folder": (".pth", None),
    "a folder, safetensors": (".safetensors", None),
}


@pytest.mark.parametrize("kind", list(BAD_FILES))
def test_what_is_no_weight_file_is_one_message(
    kind: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suffix, content = BAD_FILES[kind]
    path = tmp_path / f"weights{suffix}"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable weight file") as caught:
        read_state(path)
    assert caught.value.where == str(path) and caught.value.found and caught.value.do
    assert not (tmp_path / "owned").exists()
    told = CliRunner().invoke(
        app, ["add", "own", str(path), "--licence", "MIT", "--like", "mae_base"]
    )
    assert isinstance(told.exception, UserError)
    assert list((home / "weights").iterdir()) == []


@pytest.mark.parametrize("text", [b"a: {file: \xff}", b"a: [" * 3000, b"\0", b"a: 9" + b"9" * 5000])
def test_a_broken_registry_of_ones_own_is_one_message(home: Path, text: bytes) -> None:
    (home / "registry.yaml").write_bytes(text)
    with pytest.raises(UserError, match="the weights registry cannot be read") as caught:
        registry.names()
    assert (caught.value.where or "").startswith(str(home / "registry.yaml"))


@pytest.mark.parametrize(
    "name", ["a: b\nmae_base", "../../../escaped", "..", "", " a", "a b", "-a", "é", "a" * 101]
)
def test_what_cannot_name_weights_leaves_nothing(home: Path, official: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name weights"):
        enter(name, official, licence="mine", like="mae_base")
    assert [path.name for path in home.rglob("*") if path.is_file()] == []


def test_weights_of_ones_own_go_behind_what_the_user_wrote(home: Path, official: Path) -> None:
    own = home / "registry.yaml"
    own.write_text("# mine\ntoy: {file: toy.pth, licence: CC0, size_mb: 1}  # no line end")
    licence = "mine: 'and\nyours' # {"
    paths = [enter(name, official, licence=licence, like="mae_base") for name in ("null", "1e3")]
    assert own.read_text().startswith(
        "# mine\ntoy: {file: toy.pth, licence: CC0, size_mb: 1}  # no"
    )
    assert registry.own_names() == ["toy", "null", "1e3"]
    assert registry.entry("null").licence == licence and registry.locate("1e3") == paths[1]
    assert registry.entry("null").build == registry.entry("mae_base").build


def test_weights_of_ones_own_do_not_take_an_official_files_place(
    home: Path, official: Path
) -> None:
    theirs = registry.path_of(registry.entry("mae_base"))
    theirs.write_bytes(b"the official file")
    enter(theirs.stem, official, licence="mine", like="mae_base")
    assert theirs.read_bytes() == b"the official file"


def test_a_registry_that_takes_no_entry_says_what_to_write(home: Path, official: Path) -> None:
    own = home / "registry.yaml"
    own.write_text("{toy: {file: toy.pth, licence: CC0, size_mb: 1}}\n")
    with pytest.raises(UserError, match="add there by hand: mine:"):
        enter("mine", official, licence="CC0", like="mae_base")
    assert registry.own_names() == ["toy"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("toy: {file: x, licence: CC0, size_mb: 1}\na: b: c\n", r"registry\.yaml:2"),
        ("12: {file: x, licence: CC0, size_mb: 1}\n", "put it in quotes"),
        ("toy: x\n", "'toy' is no entry"),
        ("toy: {licence: CC0, size_mb: 1}\n", "'toy' is no entry"),
        ("- toy\n", "has no attribute"),
    ],
)
def test_a_broken_registry_says_how_to_mend_it(home: Path, text: str, said: str) -> None:
    (home / "registry.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        registry.entry("mae_base")
    assert "do: mend that entry, or delete it and `coin-ray models add` it again" in str(
        error.value
    )
