"""What the command line changes in a study, as plain values: profile, data, seeds, settings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from coin_ray import safe
from coin_ray.data.dataset import DataSpec
from coin_ray.data.label_files import Binary
from coin_ray.errors import NOT_TEXT, RENAME, UserError
from coin_ray.files import brought, exists, expanded
from coin_ray.section import LARGEST_SEED
from coin_ray.study.blocks import MOST_SEEDS
from coin_ray.study.errors import Place, Problems
from coin_ray.study.names import data_name_problem, folded
from coin_ray.study.resolved import Mpp
from coin_ray.study.values import fits

_NUMBER = re.compile(r"\s*[0-9]{1,10}\s*")
_SPLITS = ("train", "test", "val", "valid", "validation", "image", "images")


@dataclass(frozen=True)
class Request:
    """Options of ``sweep``, ``plan`` and ``report`` that change which cells there are.

    ``data`` holds ``[NAME=]PATH`` texts, ``train`` folders, ``settings`` ``a.b=value`` texts,
    ``seeds`` a count or a comma-separated list, ``mpp`` microns per pixel of the ``data`` folders,
    ``binary`` how their label files are split that are binary masks. ``own``: it is asked for
    images that are no data of a study, so what counts for generated tiles does not.
    """

    profile: str | None = None
    data: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    seeds: str | None = None
    mpp: float | None = None
    binary: Binary | None = None
    own: bool = False


def given_data(request: Request, problems: Problems) -> tuple[DataSpec, ...]:
    """The data sets of ``--data``; none when the study's own count."""
    if not request.data:
        given = {"--train": request.train, "--mpp": request.mpp, "--binary": request.binary}
        option = next((name for name, value in given.items() if value not in (None, ())), None)
        if option is not None:
            raise UserError(f"{option} needs --data", do="add --data PATH, the images to evaluate")
        return ()
    if request.mpp is not None and not fits(Mpp, request.mpp):
        problems.add(Place(f"--mpp {request.mpp}"), "expected microns per pixel, such as 0.25")
    if request.binary not in (None, *get_args(Binary)):
        expected = f"expected {', '.join(get_args(Binary))}"
        problems.add(Place(f"--binary {request.binary}"), expected)
    train = tuple(_folder(text, f"--train {text}", problems) for text in request.train)
    specs: list[DataSpec] = []
    places: dict[str, Place] = {}
    for text in request.data:
        name, equals, path = text.partition("=")
        if not equals or os.path.exists(os.path.expanduser(text)):
            name, path = data_name(Path(text)), text
        place = Place(f"--data {text}")
        if found := data_name_problem(name):
            problems.add(place, f"{name!r} cannot name a data set: {found}", "write NAME=PATH")
        other = places.setdefault(folded(name), place)
        if other is not place:
            problems.add(
                place, f"two data sets are called '{name}'", f"the other: {other}; write NAME=PATH"
            )
        folder = _folder(path, str(place), problems)
        specs.append(
            DataSpec(name, "folder", folder, None, train, request.mpp, binary=request.binary)
        )
    return tuple(specs)


def _folder(text: str, option: str, problems: Problems) -> str:
    # Absolute: a Ray worker has another working folder.
    path = expanded(brought(text)).absolute()
    if not text.strip():  # of an empty shell variable: it would be the working folder
        problems.add(Place(option), "a path is missing", "write NAME=PATH, or PATH")
    if not exists(path):
        problems.add(Place(option), "there is no such folder or image", f"looked at {path}")
    if not safe.is_text(str(path)):
        problems.add(Place(option), NOT_TEXT, f"{path}: {RENAME}")
    return str(path)


def data_name(path: Path) -> str:
    """A short name for a folder: ``MoNuSeg/test`` is MoNuSeg-test, ``my_tiles`` is my_tiles."""
    path = path.expanduser().absolute()
    parts = [part for part in path.parts if part not in ("/", "..", ".")]
    if len(parts) > 1 and parts[-1].lower() in _SPLITS:
        return f"{parts[-2]}-{parts[-1]}"
    return parts[-1] if parts else "data"


def given_seeds(request: Request, problems: Problems) -> tuple[int, ...]:
    """``3`` is 0, 1, 2 and ``0,5`` is itself; none when the study's own count."""
    if request.seeds is None:
        return ()
    place, texts = Place(f"--seeds {request.seeds}"), request.seeds.split(",")
    if not all(_NUMBER.fullmatch(text) for text in texts) or texts == ["0"]:
        problems.add(place, "expected a number of seeds (3) or a list (0,1,5)")
        return ()
    values = list(dict.fromkeys(int(text) for text in texts))
    most = LARGEST_SEED if len(texts) > 1 else MOST_SEEDS
    if max(values) > most:
        problems.add(place, f"expected at most {most:,}")
        return ()
    return tuple(values) if len(texts) > 1 else tuple(range(values[0]))
