"""The house keeps to its measures: short functions and modules, few parameters, and a default
stands once, in its section of settings. Read from the source; nothing is imported."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import coin_ray

ROOT = Path(coin_ray.__file__).parent
MOST_PARAMETERS, LONGEST_FUNCTION, LONGEST_MODULE = 8, 80, 350
OF_ITS_OWN = ("seed", "scales", "binary")
"""Parameters that mean something else than the settings of these names."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> Iterator[tuple[str, ast.Module, int]]:
    """(path below the package, syntax tree, lines) of every module."""
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(ROOT).as_posix(), ast.parse(text), len(text.splitlines())


def functions() -> Iterator[tuple[str, Function]]:
    for name, tree, _ in modules():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{name}:{node.lineno} {node.name}", node


def parameters(function: Function) -> list[str]:
    found = function.args
    names = [arg.arg for arg in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def defaults(function: Function) -> Iterator[tuple[str, ast.expr]]:
    found = function.args
    positional = [*found.posonlyargs, *found.args]
    yield from zip((a.arg for a in positional[::-1]), found.defaults[::-1], strict=False)
    for argument, value in zip(found.kwonlyargs, found.kw_defaults, strict=True):
        if value is not None:
            yield argument.arg, value


def section_defaults() -> set[tuple[str, str]]:
    """(field, default) of every section of settings, the default as it is written."""
    found = set()
    for path in ROOT.rglob("settings.py"):
        for section in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(section, ast.ClassDef):
                for field in section.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        found |= {(field.target.id, ast.unparse(d)) for d in _default(field.value)}
    return found


def _default(value: ast.expr | None) -> list[ast.expr]:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        named = [k.value for k in value.keywords if k.arg == "default"]
        return [*value.args[:1], *named]
    return [] if value is None else [value]


def test_no_function_has_too_many_parameters() -> None:
    many = {
        where: len(parameters(function))
        for where, function in functions()
        if len(parameters(function)) > MOST_PARAMETERS and not where.startswith("cli/")
    }
    assert not many


def test_no_function_and_no_module_is_too_long() -> None:
    long = {where: (f.end_lineno or 0) - f.lineno + 1 for where, f in functions()}
    assert not {where: lines for where, lines in long.items() if lines > LONGEST_FUNCTION}
    assert not {name: lines for name, _, lines in modules() if lines > LONGEST_MODULE}


def test_no_name_of_a_module_is_used_three_times() -> None:
    names = Counter(name.rpartition("/")[2] for name, _, _ in modules())
    used = {name for name, times in names.items() if times > 2}
    assert used == {"__init__.py", "settings.py"}


def test_a_default_of_a_setting_stands_in_its_section_alone() -> None:
    settings = section_defaults()
    assert {("lambda_", "0.1"), ("footprint", "12"), ("cap", "0.9")} <= settings
    twice = [
        f"{where}: {name} = {ast.unparse(value)}"
        for where, function in functions()
        for name, value in defaults(function)
        if (name, ast.unparse(value)) in settings and name not in OF_ITS_OWN
    ]
    assert not twice


def test_what_travels_between_the_rooms_has_types() -> None:
    """``Any`` in store, planning and pipeline, imports apart."""
    rooms = [
        path for room in ("store", "planning", "pipeline") for path in (ROOT / room).rglob("*.py")
    ]
    lines = [line for path in rooms for line in path.read_text("utf-8").splitlines()]
    used = [word for line in lines if "import" not in line for word in re.findall(r"\bAny\b", line)]
    assert len(used) <= 40


def test_what_lies_where_in_a_workspace_is_said_once() -> None:
    named = re.compile(
        r"""workspace\)?(\.resolve\(\))? / f?["']|["'](mlflow\.db|journal|ui\.log)["']"""
    )
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if named.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"workspace.py"}


def test_the_page_of_the_house_shows_the_rooms_as_imports_are_held_to_them() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["coin_ray"]
    )
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = page.split("```")[1].strip("\n").splitlines()
    assert [re.split(r" {3,}", line)[0].strip() for line in shown] == layers
