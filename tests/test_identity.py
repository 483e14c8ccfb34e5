"""Whose code runs: its identity, where workers look for modules, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import coin_ray
from coin_ray import identity
from coin_ray.cluster.same_code import CODE, check_worker, module_path
from coin_ray.errors import UserError
from coin_ray.identity import code_identity
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import make_key

PACKAGE = Path(coin_ray.__file__).parent
LIBRARY = sysconfig.get_path("stdlib")


def test_a_copy_has_the_same_digest_and_an_edited_one_another(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    assert re.fullmatch(rf"{re.escape(coin_ray.__version__)} [0-9a-f]{{16}}", code_identity())
    assert code_identity().endswith(identity._digest(copy))
    (copy / "labels.py").write_text((copy / "labels.py").read_text() + "\n# edited\n")
    assert not code_identity().endswith(identity._digest(copy))


def test_the_path_of_workers_has_nothing_of_the_working_folder(tmp_path: Path) -> None:
    here, own, bin_ = tmp_path / "here", tmp_path / "own", tmp_path / "bin"
    for folder in (here, own, bin_):
        folder.mkdir()
    rest = ["/usr/lib/python311.zip", LIBRARY, "/site-packages"]
    assert module_path([str(bin_), str(own), *rest], here, own) == [str(bin_), str(own)]
    for entry in ("", ".", str(here)):
        assert module_path([entry, str(own), *rest], here, own) == [str(own)]
        assert module_path([entry, *rest], here, here) == [str(here)], "where we were found"
    (tmp_path / "link").symlink_to(here)
    assert module_path([str(tmp_path / "link"), "sub", *rest], here, own) == [str(here / "sub")]


def test_a_worker_of_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CODE, raising=False)
    check_worker()
    monkeypatch.setenv(CODE, code_identity())
    check_worker()
    monkeypatch.setenv(CODE, "0.0.9 0123456789abcdef")
    with pytest.raises(UserError, match="another coin-ray than who started it") as caught:
        check_worker()
    assert (caught.value.expected, caught.value.found) == (
        "0.0.9 0123456789abcdef",
        code_identity(),
    )
    assert caught.value.where == str(PACKAGE)


def test_a_foreign_worker_does_not_import_the_room_of_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import coin_ray.cluster.tasks"],
        env={**os.environ, CODE: "9.9 0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "this process has another coin-ray" in done.stderr


def test_the_manifest_says_whose_code_made_it_and_the_key_does_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = make_key("ucis", 1, "t", {"a": 1}, {})
    store.save(key, Artifact({}, {"n": 1}), 0.0)
    manifest = json.loads((store.folder(key) / "manifest.json").read_text())
    assert manifest["code"] == code_identity()
    assert "code" not in key.fields


@pytest.mark.parametrize("module", ["random.py", "code.py", "typer.py"])
def test_python_m_does_not_read_modules_of_the_working_folder(module: str, tmp_path: Path) -> None:
    (tmp_path / module).write_text("raise SystemExit('from the working folder')\n")
    command = [sys.executable, "-m", "coin_ray.cli", "--version"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("coin-ray ")
