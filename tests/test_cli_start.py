"""The program itself: start-up, help, exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coin_ray import cli
from coin_ray.cli.screen import fault
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
    assert loaded_after(
        "import coin_ray.cli, coin_ray.cli.verbs.plan, coin_ray.cli.verbs.sweep", tmp_path
    ) == (set())


def test_help_does_not_import_the_verbs(tmp_path: Path) -> None:
    code = (
        "import coin_ray.cli as c\n"
        "try:\n    c.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not [verb for verb in c.VERBS if f'coin_ray.cli.verbs.{verb}' in sys.modules]"
    )
    loaded_after(code, tmp_path)


def test_resolving_a_study_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "from coin_ray.study.study import resolve\n"
        "from coin_ray.cli.screen import preamble\n"
        "import coin_ray.planning.plan, coin_ray.events.events, coin_ray.cli.screen.live\n"
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


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch, *args: str) -> Result:
    """A call of ``plan`` in which ``error`` is raised."""
    monkeypatch.setattr("coin_ray.study.study.resolve", raising(error))
    return CliRunner().invoke(cli.app, ["plan", "uss_backbones", *args])


@pytest.mark.parametrize("workspace", ["there", "missing"])
def test_a_fault_of_ours_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workspace: str
) -> None:
    """In the workspace where there is one, else in the temp folder."""
    (tmp_path / "there").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    where = tmp_path / workspace
    error = ZeroDivisionError("a \x1b[31mbug\n" * 40)
    done = failing(error, monkeypatch, "--workspace", str(where))
    assert done.exit_code == fault.CODE == 70
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and "\x1b" not in done.stderr
    (log,) = tmp_path.rglob("*.log")
    assert log.parent == (where if workspace == "there" else tmp_path)
    assert str(log) in done.stderr and "ZeroDivisionError: a [31mbug" in done.stderr
    text = log.read_text()
    assert "Traceback" in text and "ZeroDivisionError" in text and '"torch": "' in text
    assert log.stat().st_mode & 0o077 == 0


def test_a_fault_on_a_full_disk_still_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.mkstemp", raising(OSError(errno.ENOSPC, "full")))
    done = failing(ZeroDivisionError("bug"), monkeypatch, "--workspace", str(tmp_path))
    assert done.exit_code == 70 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x", "a/b.png"), "a/b.png: your share of the disk is used up"),
        (OSError(errno.EROFS, "x", "a"), "a: this file system is read-only"),
        (PermissionError(errno.EACCES, "x", "a"), "a: permission denied"),
        (FileExistsError(errno.EEXIST, "x", "a"), "a: something else is there already"),
        (NotADirectoryError(errno.ENOTDIR, "x", "a"), "a: there is a file where a folder belongs"),
        (IsADirectoryError(errno.EISDIR, "x", "a"), "a: there is a folder where a file belongs"),
        (OSError(errno.ENAMETOOLONG, "x", "a" * 5000), "the name is too long"),
        (ValueError("parquet: I/O error: No space left (os error 28)"), "the disk is full"),
        (MemoryError("1 EiB"), "the memory does not suffice"),
    ],
)
def test_what_the_machine_refuses_is_a_message(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, text: str
) -> None:
    done = failing(error, monkeypatch)
    assert done.exit_code == 2 and text in done.stderr and "\n  do: " in done.stderr
    assert "fault" not in done.stderr and len(done.stderr) < 600


def test_an_error_that_only_names_a_missing_file_is_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = FileNotFoundError(errno.ENOENT, "x", "store/manifest.json")
    done = failing(error, monkeypatch, "--workspace", str(tmp_path))
    assert done.exit_code == 70 and "store/manifest.json" in done.stderr


def test_a_reader_that_left_gets_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    done = failing(BrokenPipeError(errno.EPIPE, "x"), monkeypatch)
    assert done.exit_code == 1 and done.output == ""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """A real refusal of the system, in a process of its own."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500));"
        "from coin_ray.cli import main; main()"
    )
    arguments = ["data", "generate", str(tmp_path / "tiles"), "--count", "1", "--size", "64"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "this file may not grow any more" in done.stderr and "Traceback" not in done.stderr


def test_a_workspace_that_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name, text in (
        ("file", "the workspace is a file"),
        ("loop", "links that lead back to themselves"),
        ("~nobody_here/x", "there is no home folder for ~nobody_here"),
    ):
        where = name if name.startswith("~") else str(tmp_path / name)
        done = CliRunner().invoke(cli.app, ["plan", "uss_backbones", "--workspace", where])
        assert done.exit_code == 2 and text in done.stderr, done.output
