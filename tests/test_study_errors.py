"""Bad studies: every problem at once, each with its place and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from coin_ray.errors import UserError
from coin_ray.study.command_line import Request
from coin_ray.study.study import resolve
from tests.bad_studies import CASES, LEVELS, SPACE, factor


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    return tmp_path


def refused(text: str, request: Request | None = None) -> str:
    """The message for a study of this text; lines 1 and 2 are written here."""
    Path("s.yaml").write_text("study: s\nextends: tiny.yaml\n" + text)
    with pytest.raises(UserError) as caught:
        resolve("s.yaml", request)
    return str(caught.value)


def test_the_style_of_a_message() -> None:
    message = refused(factor("      mae: {uss.famly: mae, uss.size: mini}\n"))
    lines = message.splitlines()
    assert lines[0] == "s.yaml:7:13  unknown key 'uss.famly'"
    assert lines[1] == "    7 |       mae: {uss.famly: mae, uss.size: mini}"
    assert lines[2].startswith(
        "      |             ^^^^^^^^^  did you mean 'uss.family'?  (keys of"
    )
    assert lines[-1] == "1 problem. Nothing was started."


def test_all_problems_of_all_files_at_once() -> None:
    Path("tiny.yaml").write_text(SPACE.replace("uss.size: mini", "uss.size: mni"))
    message = refused(
        factor(LEVELS.replace("uss.family: none", "uss.family: nne, ot.lambda: -1"))
        + "seeds: none\nscren: 3\nobjective: {metric: aij}\n",
        Request(settings=("ot.lambd=1",), data=("nowhere",)),
    )
    for part in (
        "tiny.yaml:3:22  uss.size cannot be mni",
        "did you mean 'mini'?",
        "s.yaml:8:26  uss.family cannot be nne",
        "s.yaml:8:42  ot.lambda cannot be -1",
        "expected a number > 0",
        "s.yaml:9:8  seeds cannot be none",
        "s.yaml:10:1  unknown key 'scren'",
        "did you mean 'screen'?",
        "s.yaml:11:21  metric cannot be aij",
        "--set ot.lambd=1  unknown key 'ot.lambd'",
        "--data nowhere  there is no such folder",
    ):
        assert part in message
    assert message.endswith("8 problems. Nothing was started.")


@pytest.mark.parametrize("name", list(CASES))
def test_bad_studies(name: str) -> None:
    text, part = CASES[name]
    message = refused(text)
    assert part in message
    assert message.endswith("Nothing was started.")
    assert message.count("s.yaml:") == 1  # one problem, and no others that only follow from it


def test_a_study_needs_a_name_that_names_a_folder() -> None:
    Path("s.yaml").write_text("study: My Study\nextends: tiny.yaml\n")
    with pytest.raises(UserError, match=r"s\.yaml:1:8  'My Study' cannot name a study"):
        resolve("s.yaml")
    Path("s.yaml").write_text("extends: tiny.yaml\n")
    with pytest.raises(UserError, match="missing key 'study'"):
        resolve("s.yaml")


def test_extends() -> None:
    Path("s.yaml").write_text("study: s\nextends: tinny\n")
    with pytest.raises(UserError, match=r"s\.yaml:2:10  no such file or name 'tinny'"):
        resolve("s.yaml")
    Path("s.yaml").write_text("study: s\n")
    with pytest.raises(UserError, match="no search space to start from"):
        resolve("s.yaml")
    Path("s.yaml").write_text("study: s\nextends: t.yaml\n")
    Path("t.yaml").write_text("study: t\nextends: s.yaml\n")
    with pytest.raises(UserError, match=r"t\.yaml:2:10  s\.yaml extends itself in the end"):
        resolve("s.yaml")
    Path("t.yaml").write_text("profile: t\nextends: u.yaml\n")
    Path("u.yaml").write_text("study: u\nextends: tiny.yaml\n")
    with pytest.raises(UserError, match="a search space cannot extend a study"):
        resolve("s.yaml")


def test_a_missing_study_names_what_there_is() -> None:
    with pytest.raises(UserError) as caught:
        resolve("ablations/uss_backbone.yaml")
    message = str(caught.value)
    assert "no such study" in message and "did you mean uss_backbones?" in message
    assert "thresholds" in message


def test_an_unknown_profile_names_what_there_is() -> None:
    with pytest.raises(UserError) as caught:
        resolve("uss_backbones", Request(profile="coinn"))
    message = str(caught.value)
    assert "no such profile" in message and "did you mean coin?" in message
    assert "official" in message


def test_a_search_space_is_no_study() -> None:
    with pytest.raises(UserError, match="--profile tiny"):
        resolve("tiny.yaml")


def test_a_file_that_cannot_be_read_is_the_only_problem() -> None:
    Path("s.yaml").write_text("study: s\nfactors: {\n")
    for profile in (None, "mini"):
        with pytest.raises(UserError) as caught:
            resolve("s.yaml", Request(profile=profile))
        assert "not valid YAML" in str(caught.value)
        assert str(caught.value).endswith("1 problem. Nothing was started.")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ot.lambda", "expected KEY=VALUE"),
        ("ot.lamda=1", "did you mean 'ot.lambda'?"),
        ("ot.lambda=high", "ot.lambda cannot be high"),
        ("uss.family=mea", "did you mean 'mae'?"),
        ("ucis.model=files", "ucis.model: files needs ucis.path"),
    ],
)
def test_bad_overrides(text: str, part: str) -> None:
    message = refused("", Request(settings=(text,)))
    assert message.startswith(f"--set {text}  ") and part in message


def test_bad_data_and_seeds_of_the_command_line() -> None:
    Path("a/test").mkdir(parents=True)
    message = refused("", Request(data=("a/test", "a-test=a"), seeds="two"))
    assert "two data sets are called 'a-test'" in message
    assert "--seeds two  expected a number of seeds (3) or a list (0,1,5)" in message
    assert "there is no such folder" in refused("", Request(data=("a",), train=("b",)))
    assert "--data mine=  a path is missing" in refused("", Request(data=("mine=",)))
    assert "--train   a path is missing" in refused("", Request(data=("a",), train=("",)))
    with pytest.raises(UserError, match="--train needs --data"):
        resolve("s.yaml", Request(train=("a",)))
    with pytest.raises(UserError, match="--mpp needs --data"):
        resolve("s.yaml", Request(mpp=0.25))
    with pytest.raises(UserError, match="--binary needs --data"):
        resolve("s.yaml", Request(binary="components"))
