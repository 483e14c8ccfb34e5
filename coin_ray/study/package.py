"""What of a study travels to a cluster: its files, what the command line changes, and small data.

The study's files keep what they say. Those that name images are extended by one more, whose
``data:`` and ``predictions:`` have the paths that count there: inside the package, or as they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from coin_ray import safe
from coin_ray.errors import UserError
from coin_ray.files import exists, expanded, write_text
from coin_ray.identity import digest
from coin_ray.study import files
from coin_ray.study.chain import Chain, Document, read_chain
from coin_ray.study.command_line import Request, data_name
from coin_ray.study.errors import Problems
from coin_ray.study.grammar import Node

MOST = 5_000_000
"""Bytes of a package: Ray keeps it in the memory of the cluster's head."""
DEEP = "study/a/b/c/d/e/f/g/h"
"""Folder of the study's file: what it extends may lie some folders up."""


@dataclass
class Package:
    """``folder`` holds what travels, ``size`` its bytes; ``left`` says line by line what does not,
    ``absent`` which of that is not here to be looked at. ``name`` is the study's, ``study`` its
    file there."""

    folder: Path
    name: str = ""
    study: str = ""
    request: Request = field(default_factory=Request)
    size: int = 0
    left: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    _there: dict[Path, str] = field(default_factory=dict)

    def digest(self, call: Sequence[str]) -> str:
        """Of all that travels, names and contents, and of what is called there."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        held = {str(path.relative_to(self.folder)): path.read_bytes().hex() for path in found}
        return digest([list(call), held])

    def carry(self, text: str, folder: Path) -> str:
        """A path that counts there for one from ``folder``: of a copy in the package where there is
        room for it, else the same. UserError for a relative path to nothing."""
        if text.startswith(("s3://", "gs://")):
            self.absent.append(text)
            return self._stays(text, "in its bucket")
        path = Path(os.path.realpath(folder), expanded(text))
        path = Path(os.path.normpath(path)) if ".." in path.parts else path
        if path in self._there:
            return self._there[path]
        if not exists(path):
            if not expanded(text).is_absolute():
                raise UserError("there is no such folder or image", where=str(path))
            self.absent.append(text)
            return self._stays(text, "not seen from here")
        found = list(_files_of(path))
        size = sum(file.stat().st_size for _, file in found)
        if self.size + size > MOST:
            return self._stays(str(path), f"{size / 1e6:.1f} MB are too much for the package")
        # Two of its folders are kept: `MoNuSeg/test` says that it is a test split.
        name = f"data/{len(self._there)}/{'/'.join(path.parts[1:][-2:])}"
        for below, file in found:
            target = self.folder / name / below
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        self.size += size
        self._there[path] = name
        return name

    def _stays(self, text: str, why: str) -> str:
        self.left.append(f"{text} ({why}): every node has to see it there under this name")
        return text


def packed(study: str, request: Request, folder: Path) -> Package:
    """Put what a study needs into an empty folder. UserError for a study that cannot be read, or
    whose files extend what lies elsewhere."""
    package, problems, here = Package(folder), Problems(), Path.cwd()
    chain = read_chain(files.find_study(study), problems)
    if chain.files:
        package.name = chain.name()
    problems.raise_if_any()
    package.study = _copied(package, chain.files, Path(DEEP, f"{chain.files[0].path.stem}.yaml"))
    data = tuple(_given(text, package, here) for text in request.data)
    train = tuple(package.carry(text, here) for text in request.train)
    package.request = replace(request, data=data, train=train)
    if request.profile:
        base = read_chain(files.find_profile(request.profile), problems)
        problems.raise_if_any()
        name = Path(DEEP, "profile", f"{base.files[0].path.stem}.yaml")
        package.request = replace(package.request, profile=_copied(package, base.files, name))
    blocks = dict(_with_paths(package, chain, data=not request.data))
    if blocks:
        over = {"study": package.name, "extends": package.study, **blocks}
        package.study = f"{chain.files[0].path.stem}.yaml"
        write_text(folder / package.study, yaml.safe_dump(over, sort_keys=False))
    return package


def words(request: Request) -> list[str]:
    """The options of a command line that ask for it."""
    one = {"--profile": request.profile, "--seeds": request.seeds, "--binary": request.binary}
    one["--mpp"] = None if request.mpp is None else repr(request.mpp)
    many = {"--data": request.data, "--train": request.train, "--set": request.settings}
    out = [word for option, value in one.items() if value is not None for word in (option, value)]
    return out + [word for option, values in many.items() for v in values for word in (option, v)]


def _given(text: str, package: Package, here: Path) -> str:
    """``[NAME=]PATH`` as it is there."""
    name, equals, path = text.partition("=")
    if not equals or exists(expanded(text)):
        name, path = data_name(Path(text)), text
    return f"{name}={package.carry(path, here)}"


def _copied(package: Package, chain: Sequence[Document], place: Path) -> str:
    """Copy a chain of files so that what each says it extends is found from its own folder."""
    first = str(place)
    for doc, following in zip(chain, (*chain[1:], None), strict=True):
        target = Path(os.path.normpath(package.folder / place))
        if not target.is_relative_to(package.folder / "study"):
            raise UserError(
                "a study can only be sent with what it extends where that lies near it",
                where=str(doc.path),
                do="extend it by its name, or by a path from the file's own folder",
            )
        write_text(target, doc.path.read_text(encoding="utf-8"))
        package.size += target.stat().st_size
        if following is not None:
            place = place.parent / doc.root.value["extends"].text
    return first


def _with_paths(package: Package, chain: Chain, *, data: bool) -> Iterator[tuple[str, Any]]:
    """The blocks of a study that name images, with the paths that count there."""
    for key in ("data", "predictions") if data else ("predictions",):
        doc = next((doc for doc in chain.files if key in doc.root.value), None)
        if doc is None:
            continue
        node = doc.root.value[key]
        block = _carried(node, package, doc.path.parent)
        if block != node.plain():
            yield key, block


def _carried(node: Node, package: Package, folder: Path) -> Any:
    """A block whose ``path``, ``labels`` and ``train`` (of folders) count there."""
    if node.kind == "list":
        return [_carried(child, package, folder) for child in node.value]
    if node.kind != "map":
        return node.value
    out: dict[str, Any] = {}
    for key, child in node.value.items():
        named = "path" in node.value and key in ("path", "labels", "train")
        if named and child.kind == "list":
            out[key] = [package.carry(one.text, folder) for one in child.value]
        elif named and child.kind == "scalar":
            out[key] = package.carry(child.text, folder)
        else:
            out[key] = _carried(child, package, folder)
    return out


def _files_of(path: Path) -> Iterator[tuple[str, Path]]:
    """What of a file or a folder travels, with its name in it: all that is not hidden."""
    if not path.is_dir():
        yield "", path
        return
    for top, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(top, name)
            if not name.startswith(".") and file.is_file() and safe.is_text(name):
                yield str(file.relative_to(path)), file
