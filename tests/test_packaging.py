"""What an installation takes along, and that the pinned set is one that pyproject.toml allows."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_every_requirement_is_pinned_inside_its_range() -> None:
    extras = project()["optional-dependencies"]
    wanted = [*project()["dependencies"], *(text for extra in extras.values() for text in extra)]
    for requirement in map(Requirement, wanted):
        if requirement.name == "coin-ray":
            continue  # other extras of its own
        version = pins().get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_the_pins_serve_every_build_of_torch() -> None:
    assert all(version.local is None for version in pins().values())
    # A release pair: with one of them free, pip takes gigabytes of the other's CUDA build.
    assert (str(pins()["torch"]), str(pins()["torchvision"])) == ("2.13.0", "0.28.0")


def test_the_wheel_has_every_package_study_and_weight_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", said.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    folders = {said["package_dir"].get(name, name.replace(".", "/")) for name in said["packages"]}
    modules = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("coin_ray/**/*.py")}
    assert modules <= folders, "a folder without __init__.py is left out of the wheel"

    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    carried = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / said["package_dir"].get(package, package)).glob(pattern)
    }
    suffixes = {".yaml", ".safetensors", ".md"}
    for top in ("coin_ray", "search_spaces", "ablations"):
        for path in (ROOT / top).rglob("*"):
            assert path.suffix not in suffixes or path in carried, f"{path} is left out"
