"""The program itself: start-up, help, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.errors import UserError

HEAVY = ("torch", "ray", "mlflow", "polars", "scipy", "skimage", "timm", "matplotlib")


def loaded_after(code: str, folder: Path) -> set[str]:
    """The heavy packages that are imported after running ``code`` in a fresh process."""
    script = f"import sys\n{code}\nprint('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr
    line = next(li for li in done.stdout.splitlines() if li.startswith("LOADED"))
    return set(line.split()[1:])


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import coin_ray.cli as c\n"
        "try:\n    c.app(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0"
    )
    assert loaded_after(code, tmp_path) == set()
    assert loaded_after("import coin_ray.cli, coin_ray.cli.plan, coin_ray.cli.sweep", tmp_path) == (
        set()
    )


def test_help_does_not_import_the_verbs(tmp_path: Path) -> None:
    code = (
        "import coin_ray.cli as c\n"
        "try:\n    c.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not [v for v in c.VERBS if f'coin_ray.cli.{v}' in sys.modules]"
    )
    loaded_after(code, tmp_path)


def test_resolving_a_study_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "from coin_ray.study.study import resolve\n"
        "from coin_ray.cli import preamble\n"
        "import coin_ray.pipeline.plan, coin_ray.pipeline.events, coin_ray.cli.live\n"
        "study = resolve('uss_backbones')\n"
        "preamble.opening(study), preamble.levels(study)"
    )
    assert loaded_after(code, tmp_path) == set()


def test_every_verb_is_listed_and_loads() -> None:
    runner = CliRunner()
    text = runner.invoke(cli.app, ["--help"]).output
    for verb in cli.VERBS:
        assert verb in text
        done = runner.invoke(cli.app, [verb, "--help"])
        assert done.exit_code == 0, f"{verb}: {done.output}"
        assert "--install-completion" not in done.output


def test_version_and_unknown_verbs() -> None:
    runner = CliRunner()
    assert runner.invoke(cli.app, ["--version"]).output.startswith("coin-ray 0.")
    assert runner.invoke(cli.app, ["sweeep"]).exit_code == 2


def raising(error: BaseException) -> object:
    def command(*args: object, **kwargs: object) -> None:
        raise error

    return command


def test_bad_input_is_a_message_and_code_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["plan", "nothing_here"])
    assert done.exit_code == 2
    assert done.stdout == "" and "no such study" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            UserError("too small", where="a.png", do="enlarge it"),
            2,
            "a.png: too small\n  do: enlarge",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues where it stopped"),
    ],
)
def test_how_a_verb_ends(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    monkeypatch.setattr("coin_ray.study.study.resolve", raising(error))
    done = CliRunner().invoke(cli.app, ["plan", "uss_backbones"])
    assert done.exit_code == code
    assert text in done.stderr and "Traceback" not in done.stderr


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coin_ray.study.study.resolve", raising(ZeroDivisionError("bug")))
    done = CliRunner().invoke(cli.app, ["plan", "uss_backbones"])
    assert done.exit_code == 1 and isinstance(done.exception, ZeroDivisionError)
