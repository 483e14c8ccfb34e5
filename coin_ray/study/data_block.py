"""The ``data:`` block: which images a study reads, by name."""

from __future__ import annotations

from pathlib import Path

from coin_ray.study.blocks import Reader, items
from coin_ray.study.errors import Place, Problems
from coin_ray.study.grammar import Node, label
from coin_ray.study.resolved import DataSpec


def read_data(node: Node, folder: Path, problems: Problems) -> tuple[DataSpec, ...]:
    """``generated``, a list of names, or name -> where it is; paths are relative to ``folder``."""
    if node.kind == "map":
        return tuple(
            _data(name, child, node.keys[name], folder, problems)
            for name, child in node.value.items()
        )
    names = [label(n, problems) for n in items(node)]
    for index, item in enumerate(items(node)):
        if names[index] in names[:index]:
            problems.add(item.place, f"data '{names[index]}' is listed twice")
    return tuple(
        _data(name, None, item.place, folder, problems)
        for name, item in zip(names, items(node), strict=True)
    )


_GENERATED = ("train", "test", "size", "seed")
_FOLDER = ("path", "split", "train", "mpp")


def _data(name: str, node: Node | None, at: Place, folder: Path, problems: Problems) -> DataSpec:
    if node is None or node.value is None:
        if name != "generated":
            problems.add(
                at, f"where is the data '{name}'?", f"write {name}: {{path: FOLDER}}, or generated"
            )
        return DataSpec(name, "generated", options=_tiles(4, 4, 256, 0))
    on_disk = node.kind == "map" and "path" in node.value
    reader = Reader(node, problems, f"data {name}", _FOLDER if on_disk else _GENERATED)
    if not on_disk:
        if name != "generated" and node.kind == "map" and not set(node.value) & set(_GENERATED):
            problems.add(at, f"data '{name}' has no path", "write path: FOLDER")
        counts = [
            _at_least(reader, key, default, least)
            for key, default, least in (
                ("train", 4, 0),
                ("test", 4, 1),
                ("size", 256, 64),
                ("seed", 0, 0),
            )
        ]
        return DataSpec(name, "generated", options=_tiles(*counts))
    path = _existing(reader.values["path"], folder, problems)
    train = reader.values.get("train")
    trains = tuple(_existing(n, folder, problems) for n in items(train)) if train else ()
    split = reader.get("split", str, None, "the name of a split, such as test")
    mpp = reader.get("mpp", (int, float), None, "microns per pixel, such as 0.25")
    return DataSpec(name, "dataset" if split else "folder", path, split, trains, mpp)


def _tiles(train: int, test: int, size: int, seed: int) -> dict[str, int]:
    return {"train": train, "test": test, "size": size, "seed": seed}


def _at_least(reader: Reader, key: str, default: int, least: int) -> int:
    value = int(reader.get(key, int, default, f"a whole number >= {least}"))
    if value < least:
        reader.problems.add(
            reader.values[key].place, f"{key} cannot be {value}", f"expected {least} or more"
        )
        return default
    return value


def _existing(node: Node, folder: Path, problems: Problems) -> str:
    if node.kind != "scalar" or not node.text:
        problems.add(node.place, "expected the path of a folder")
        return ""
    path = (folder / Path(node.text).expanduser()).absolute()
    if not path.exists():
        problems.add(node.place, "there is no such folder or image", f"looked at {path}")
    return str(path)
