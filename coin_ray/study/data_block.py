"""The ``data:`` block: which images a study reads, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from coin_ray.data.dataset import DataSpec, Kind
from coin_ray.data.label_files import Binary
from coin_ray.errors import UserError
from coin_ray.files import brought, exists, expanded
from coin_ray.section import OneOrMore, Seed
from coin_ray.study.blocks import keys_of, read_block
from coin_ray.study.errors import Place, Problems
from coin_ray.study.grammar import Node
from coin_ray.study.names import data_name_problem, folded
from coin_ray.study.resolved import Mpp

GENERATED = "generated"


@dataclass(frozen=True)
class Tiles:
    """Tiles that the project draws: numbers of training and of evaluated tiles, side in px, random
    seed. ``train: 0`` trains on the evaluated ones, without their labels."""

    train: Annotated[int, Field(ge=0, le=100_000)] = 4
    test: Annotated[int, Field(ge=1, le=100_000)] = 4
    size: Annotated[int, Field(ge=64, le=10_000)] = 256
    seed: Seed = 0


@dataclass(frozen=True)
class Folder:
    """Images on disk: ``path`` from the file's own folder; ``split`` of a data set with splits;
    other folders to ``train`` on; microns per pixel where the files do not say; how to split label
    files that are ``binary`` masks; ``labels`` that a person corrected, evaluated against in place
    of those of the folder: label maps or GeoJSON, a folder of them or the file of one image."""

    path: Annotated[str, Field(min_length=1)]
    split: str | None = None
    train: OneOrMore[str] | None = None
    mpp: Mpp | None = None
    binary: Binary | None = None
    labels: str | None = None


TILES_ONLY = keys_of(Tiles).keys() - keys_of(Folder).keys()


def read_data(node: Node, folder: Path) -> tuple[DataSpec, ...]:
    """``generated``, a list of names, or name -> where it is; paths are relative to ``folder``."""
    if node.kind == "map":
        given = [(name, child, node.keys[name]) for name, child in node.value.items()]
    else:
        given = [(item.label(), None, item.place) for item in node.each()]
    _check_names([(name, at) for name, _, at in given], node.problems)
    return tuple(_data(name, child, at, folder, node.problems) for name, child, at in given)


def _check_names(names: Sequence[tuple[str, Place]], problems: Problems) -> None:
    first: dict[str, tuple[str, Place]] = {}
    for name, at in names:
        if found := data_name_problem(name):
            problems.add(at, f"{name!r} cannot name a data set: {found}")
        other, there = first.setdefault(folded(name), (name, at))
        if there is not at:
            how = "is listed twice" if other == name else f"differs from '{other}' in case alone"
            problems.add(at, f"data '{name}' {how}", f"the other one is in line {there.line}")


def _data(name: str, node: Node | None, at: Place, folder: Path, problems: Problems) -> DataSpec:
    if node is None or node.value is None:
        if name != GENERATED:
            hint = f"write {name}: {{path: FOLDER}}, or {GENERATED}"
            problems.add(at, f"where is the data '{name}'?", hint)
        return DataSpec(name, "generated", options=asdict(Tiles()))
    keys = set(node.value) if node.kind == "map" else set()
    if "path" not in keys and (name == GENERATED or keys & TILES_ONLY):
        tiles = read_block(node, Tiles, f"data {name}") or Tiles()
        return DataSpec(name, "generated", options=asdict(tiles))
    found = read_block(node, Folder, f"data {name}")
    if found is None:
        return DataSpec(name, "folder")
    path = existing(node.value["path"], folder)
    train = node.value["train"].each() if found.train else []
    trains = tuple(existing(child, folder) for child in train)
    kind: Kind = "dataset" if found.split else "folder"
    labels = existing(node.value["labels"], folder) if found.labels is not None else None
    return DataSpec(
        name, kind, path, found.split, trains, found.mpp, binary=found.binary, labels=labels
    )


def existing(node: Node, folder: Path) -> str:
    """A path from ``folder`` as an absolute one; noted where nothing lies there."""
    try:
        path = (folder / expanded(brought(node.text))).absolute()
    except UserError as error:
        node.note(error.what, error.do)
        return node.text
    if not node.text.strip():  # it would be the study's own folder
        node.note("a path is missing", "name a folder or a file")
    elif not exists(path):
        node.note("there is no such folder or image", f"looked at {path}")
    return str(path)
