"""Options that several verbs share, spelled once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from coin_ray import safe
from coin_ray.errors import NOT_TEXT, RENAME, UserError

if TYPE_CHECKING:
    from coin_ray.study.resolved import ResolvedStudy


Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="a study file, or the name of one that is shipped")
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="search_spaces/NAME.yaml as the study's base"),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="[NAME=]PATH",
        help="images to segment and evaluate instead of the study's own; repeatable",
    ),
]
Train = Annotated[
    list[str] | None,
    typer.Option("--train", metavar="PATH", help="train on these images instead; repeatable"),
]
Mpp = Annotated[
    float | None,
    typer.Option("--mpp", metavar="UM", help="microns per pixel of --data; wins over the files"),
]
How = Literal["components", "watershed", "instances"]
Binary = Annotated[
    How | None,
    typer.Option(
        "--binary",
        metavar="HOW",
        help="label files of two values are masks: split them into components or by watershed; "
        "instances: each is one nucleus in pieces",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="a setting for every cell; repeatable"),
]
Seeds = Annotated[
    str | None, typer.Option("--seeds", metavar="N|LIST", help="how many random seeds, or which")
]
Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        envvar="COIN_RAY_WORKSPACE",
        callback=lambda ctx, path: _workspace(ctx, path),
        help="results, store and tracker",
    ),
]
WORKSPACE = Path(".coin-ray")
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="what computes; auto finds a GPU")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="replace files that coin-ray did not write; no input")
]


def _workspace(ctx: typer.Context, path: Path) -> Path:
    """Absolute. UserError for a file, or a name that no address of a tracker can hold."""
    from coin_ray.cli import fault
    from coin_ray.files import expanded

    try:
        found = expanded(path).resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, "links in a circle", str(path)) from error
    if found.exists() and not found.is_dir():
        raise UserError(
            "the workspace is a file",
            where=str(found),
            expected="a folder, or a name for a new one",
            do="choose another with --workspace or COIN_RAY_WORKSPACE",
        )
    if not safe.is_text(str(found)):
        raise UserError(NOT_TEXT, where=safe.printable(str(found)), do=RENAME)
    ctx.meta[fault.WORKSPACE] = found
    return found


def resolved(
    study: str,
    profile: str | None,
    data: list[str] | None,
    train: list[str] | None,
    mpp: float | None,
    settings: list[str] | None,
    seeds: str | None,
    binary: How | None = None,
) -> ResolvedStudy:
    """The study under these options."""
    from coin_ray.study.command_line import Request
    from coin_ray.study.study import resolve

    request = Request(
        profile=profile,
        data=tuple(data or ()),
        train=tuple(train or ()),
        settings=tuple(settings or ()),
        seeds=seeds,
        mpp=mpp,
        binary=binary,
    )
    return resolve(study, request)
