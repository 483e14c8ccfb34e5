"""Options that several verbs share, spelled once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from typer.models import ArgumentInfo

from coin_ray.errors import UserError
from coin_ray.workspace import Workspace as Folder

if TYPE_CHECKING:
    from coin_ray.execution.executor import Executor
    from coin_ray.study.command_line import Request
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
    Folder,
    typer.Option(
        "--workspace",
        envvar="COIN_RAY_WORKSPACE",
        path_type=Path,
        callback=lambda ctx, path: _workspace(ctx, path),
        help="results, store and tracker",
    ),
]
WORKSPACE = Folder(".coin-ray")
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="RAY",
        envvar="RAY_ADDRESS",
        callback=lambda ctx, param, value: _address(ctx, param, value),
        help="an existing Ray cluster; default: RAY_ADDRESS (as in a Ray job), else our own",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=4096, help="processes that train one round together"),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=0.0,
        metavar="MINUTES",
        help="for nodes of --address that are still to come; default: 15 where the study has "
        "cluster:, else 0",
    ),
]
Here = Annotated[
    bool,
    typer.Option(
        "--local", is_eager=True, help="in this one process, without Ray: breakpoints work"
    ),
]
NoTracking = Annotated[bool, typer.Option("--no-tracking", help="keep nothing in MLflow")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="what computes; auto finds a GPU")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="replace files that coin-ray did not write; no input")
]


def out_folder(help: str) -> Any:
    """``--out FOLDER`` of a verb that may compute for hours first: a file there is said before."""
    return typer.Option("--out", metavar="FOLDER", help=help, callback=_no_file)


def _no_file(path: Path | None) -> Path | None:
    from coin_ray.outputs import check_folder

    if path is not None:
        check_folder(path)
    return path


def _workspace(ctx: typer.Context, path: Path) -> Folder:
    from coin_ray.api.studies import default_workspace
    from coin_ray.cli.screen import fault

    found = Folder(default_workspace(path))
    ctx.meta[fault.WORKSPACE] = found
    return found


def _address(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """``local`` is a cluster of our own. The environment's is that of the job that we are in; a
    dashboard's URL in it is for those who submit jobs."""
    from coin_ray.cli.screen.output import say

    if not value or value == "local":
        return None
    source = ctx.get_parameter_source(str(param.name))
    of_job = source is not None and source.name == "ENVIRONMENT"
    if ctx.params.get("local"):
        if of_job:
            return None
        raise UserError("--local is one process", found=f"--address {value}", do="leave one out")
    if of_job:
        if value.startswith(("http://", "https://")):
            return None
        where = f"Ray cluster: {value} (RAY_ADDRESS; --address local starts one of our own)"
        say(where, err=True)
    return value


class Asked(NamedTuple):
    """A study as it is asked for on the command line; ``study`` is empty where a verb needs
    none."""

    study: str
    request: Request
    workspace: Folder

    def resolve(self) -> ResolvedStudy:
        """The study under these options, its data not yet read."""
        from coin_ray.study.study import resolve

        return resolve(self.study, self.request)


_ASKED: dict[str, tuple[Any, Any]] = {
    "study": (Study, inspect.Parameter.empty),
    "profile": (Profile, None),
    "data": (Data, None),
    "train": (Train, None),
    "mpp": (Mpp, None),
    "binary": (Binary, None),
    "settings": (Set, None),
    "seeds": (Seeds, None),
    "workspace": (Workspace, WORKSPACE),
}
"""The options of a verb that takes a study -> what it is and its default."""


def takes_study(**changed: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of a study, in front of its own; it is handed them as its first
    argument (``Asked``). ``changed``: another declaration of an option, with its default, or None
    to leave it out."""
    declared = {name: kind for name, kind in (_ASKED | changed).items() if kind is not None}
    return shared(declared, _asked)


def shared(
    declared: Mapping[str, tuple[Any, Any]], gathered: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb options that others have too, in front of its own: name -> what it is and its
    default. It is handed what ``gathered`` makes of them as its first argument."""

    def give(verb: Callable[..., None]) -> Callable[..., None]:
        named = inspect.Parameter.KEYWORD_ONLY
        own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
        common = [
            inspect.Parameter(name, named, default=default, annotation=annotation)
            for name, (annotation, default) in declared.items()
        ]
        own = [parameter.replace(kind=named) for parameter in own]
        # What a verb asks for by place comes before the rest.
        placed = [p for p in own if isinstance(p.annotation.__metadata__[0], ArgumentInfo)]
        parameters = [*placed, *common, *(p for p in own if p not in placed)]

        @functools.wraps(verb)
        def call(**given: Any) -> None:
            taken = {name: given.pop(name) for name in declared}
            verb(gathered(**taken), **given)

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return give


def _asked(study: str | None = None, workspace: Folder = WORKSPACE, **options: Any) -> Asked:
    from coin_ray.study.command_line import Request

    for name in ("data", "train", "settings"):
        options[name] = tuple(options.get(name) or ())
    return Asked(study or "", Request(**options), workspace)


def executor(
    address: str | None,
    workers: int | None,
    device: str,
    *,
    local: bool = False,
    wait: float | None = None,
) -> Executor:
    """Where a verb is to compute. UserError for options that do not go together."""
    from coin_ray.cluster.executor import Cluster
    from coin_ray.execution.local import Local

    if wait is not None and (local or address is None):
        found, do = "no --address", "leave --wait out, or name a cluster that grows"
        raise UserError("--wait is for the nodes of a cluster", found=found, do=do)
    if not local:
        return Cluster(address, device, workers, wait=wait)
    if workers is not None and workers > 1:
        found, do = f"--workers {workers}", "leave one of both out"
        raise UserError("--local is one process", found=found, do=do)
    return Local(device)
