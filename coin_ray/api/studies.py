"""A study with its data, read."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from coin_ray import bucket, safe
from coin_ray.data.dataset import DataSet
from coin_ray.errors import NOT_TEXT, RENAME, UserError
from coin_ray.files import expanded
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import read_data
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.study import resolve
from coin_ray.workspace import for_group

if TYPE_CHECKING:
    from coin_ray.data.label_files import Binary

WORKSPACE = Path(".coin-ray")
PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]


@dataclass(frozen=True)
class Study:
    """What a study file comes to (``resolved``: its levels, cells, seeds …) on its ``data``, by
    name; ``workspace`` has the tiles that were generated for it, its store and its results."""

    resolved: ResolvedStudy
    data: Mapping[str, DataSet]
    workspace: Path


class OfImages(TypedDict, total=False):
    """What else can be said of ``data``: other images to ``train`` on, microns per pixel (``mpp``),
    how label files that are ``binary`` masks are split (components, watershed, instances)."""

    train: Paths
    mpp: float
    binary: Binary


def load_study(
    path: PathLike,
    *,
    profile: str | None = None,
    data: Paths = (),
    set: Mapping[str, object] | Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    workspace: PathLike | None = None,
    **images: Unpack[OfImages],
) -> Study:
    """Read a study file, or by its name one that is shipped, and find its images.

    ``profile``: a search space as its base (mini, coin, official, or one of yours). ``data``:
    folders of images to segment and evaluate instead of its own, ``"PATH"`` or ``"NAME=PATH"``.
    ``set``: settings for every cell, ``{"rounds.count": 1}`` or ``["rounds.count=1"]``. ``seeds``:
    how many random seeds, or which. ``workspace``: by default COIN_RAY_WORKSPACE, else
    ``.coin-ray`` here. ``images``: see ``OfImages``.

    >>> import coin_ray
    >>> study = coin_ray.load_study("baseline", set={"rounds.count": 1}, workspace=folder)
    >>> study.resolved.levels
    ('baseline',)

    Raises:
        UserError: every problem of the file and the settings at once, with line and nearest name;
            a folder that is missing or empty.
    """
    if unknown := sorted(images.keys() - OfImages.__annotations__.keys()):
        raise TypeError(f"load_study() got an unexpected keyword argument {unknown[0]!r}")
    if isinstance(set, Mapping):
        set = [f"{key}={_text(value)}" for key, value in set.items()]
    request = Request(
        profile=profile,
        data=_texts(data),
        train=_texts(images.get("train", ())),
        settings=_texts(set),
        seeds=_seeds(seeds),
        mpp=images.get("mpp"),
        binary=images.get("binary"),
    )
    return with_images(resolve(os.fspath(path), request), default_workspace(workspace))


def with_images(study: ResolvedStudy, workspace: Path) -> Study:
    """A study on its data. UserError for a folder that is missing or empty."""
    return Study(*read_data(study, workspace), workspace)


def default_workspace(given: PathLike | None = None) -> Path:
    """The given folder or bucket (the folder that stands for it), else COIN_RAY_WORKSPACE, else
    ``.coin-ray`` in the working folder. UserError for a file, or a name that no address of a
    tracker can hold."""
    said = given or os.environ.get("COIN_RAY_WORKSPACE") or WORKSPACE
    chosen = bucket.local(os.fspath(said))
    try:
        found = expanded(chosen).resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, "links in a circle", str(chosen)) from error
    if found.exists() and not found.is_dir():
        raise UserError(
            "the workspace is a file",
            where=str(found),
            expected="a folder, or a name for a new one",
            do="choose another with --workspace or COIN_RAY_WORKSPACE",
        )
    if not safe.is_text(str(found)):
        raise UserError(NOT_TEXT, where=safe.printable(str(found)), do=RENAME)
    for_group(found)
    return found


def _texts(paths: Paths) -> tuple[str, ...]:
    one = isinstance(paths, str | os.PathLike)
    return (os.fspath(paths),) if one else tuple(map(os.fspath, paths))  # type: ignore[arg-type]


def _text(value: object) -> str:
    """As it would be written in a study; a NumPy value as the number or the list that it holds."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return json.dumps(value, default=lambda held: held.tolist())


def _seeds(seeds: int | Sequence[int] | None) -> str | None:
    """As they would be typed: one number is a count, so a list of one names it twice."""
    if seeds is None:
        return None
    if isinstance(seeds, Iterable) and not isinstance(seeds, str):
        return ",".join(map(str, [*seeds, *seeds]))
    return str(seeds)
