"""``coin-ray store``: what the store holds, making room, finding what is broken."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray import bucket
from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.store.artifacts import Store

app = typer.Typer(no_args_is_help=True, help="The store of stages: ls, gc, verify.")

QUOTA = "20GB"
Quota = Annotated[
    str,
    typer.Option(
        "--quota", metavar="SIZE", help="of features and embeddings together: 500MB, 20GB"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would go, remove nothing")]
Fix = Annotated[bool, typer.Option("--fix", help="remove what is broken; it is then made again")]
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@app.command("ls")
def ls(workspace: options.Workspace = WORKSPACE) -> None:
    """Stages with the number, size and last use of their artifacts."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from coin_ray.cli.screen.output import console, duration, size
    from coin_ray.pipeline.stages import STAGES
    from coin_ray.store import bucket_upkeep
    from coin_ray.store.upkeep import entries

    store = _store(workspace)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_footer=True)
    url = bucket.address(store.root)
    if url is None:
        every = [entry for stage in store.stages() for entry in entries(store, stage)]
    else:
        every = bucket_upkeep.entries(bucket_upkeep.listing(store))
    total = size(sum(entry.bytes for entry in every))
    for title, footer in (("stage", "total"), ("artifacts", f"{len(every):,}"), ("size", total)):
        table.add_column(title, footer=footer, justify="left" if title == "stage" else "right")
    used, written = ("used last", "longest unused"), ("written last", "longest ago")
    for title in used if url is None else written:
        table.add_column(title, justify="right")
    now = time.time()
    found = defaultdict(list)
    for entry in every:
        found[entry.stage].append(entry)
    order = list(STAGES)
    for stage in sorted(found, key=lambda name: order.index(name) if name in order else 99):
        own = found[stage]
        ages = [max(0.0, now - entry.used) / 3600 for entry in own]
        row = (f"{len(own):,}", size(sum(entry.bytes for entry in own)))
        table.add_row(stage, *row, f"{duration(min(ages))} ago", f"{duration(max(ages))}")
    console().print(table)
    say(f"store: {bucket.shown(store.root)}")


@app.command()
def gc(
    workspace: options.Workspace = WORKSPACE, quota: Quota = QUOTA, dry_run: DryRun = False
) -> None:
    """Make room: features and embeddings beyond the quota, least recently used first, and what
    killed runs have left. Safe beside a running study: what is needed again is made again."""
    from coin_ray.cli.screen.output import size
    from coin_ray.cluster import folders
    from coin_ray.pipeline.stages import LARGE
    from coin_ray.store import bucket_upkeep, upkeep

    store = _store(workspace)
    limit, orphans, gone = _bytes(quota), upkeep.orphans(store), list[Path]()
    left = {folder: folders.size_of(folder) for folder in folders.abandoned(workspace)}
    if bucket.address(store.root) is None:
        going, lost = upkeep.collectable(store, limit, LARGE), dict[Path, int]()
    else:
        found = bucket_upkeep.listing(store)
        large = (entry for entry in bucket_upkeep.entries(found) if entry.stage in LARGE)
        going = upkeep.beyond(limit, large)
        gone = bucket_upkeep.orphans(store, found)
        lost = bucket_upkeep.abandoned(workspace.ray, folders.QUIET)
    if not dry_run:
        artifacts = [store.root / entry.stage / entry.name for entry in going]
        bucket.remove_many([*artifacts, *gone])
        for path in (*artifacts, *orphans, *gone):  # here, too: a copy would be served for ever
            upkeep.remove(store, path)
        for folder in left:
            folders.remove_abandoned(folder)
        for folder in lost:
            bucket.remove_all(folder)
    left |= lost
    for stage in dict.fromkeys(entry.stage for entry in going):
        own = [entry for entry in going if entry.stage == stage]
        say(f"{stage}: {len(own)} artifacts, {size(sum(e.bytes for e in own))}")
    if rest := [*orphans, *gone]:
        say(f"left by killed runs: {len(rest)} unfinished artifacts, checkpoints and dead leases")
    if left:
        say(f"left by killed runs: {len(left)} folders of Ray, {size(sum(left.values()))}")
    freed = size(sum(entry.bytes for entry in going) + sum(left.values()))
    say(f"{'would free' if dry_run else 'freed'} {freed} (quota {size(limit)})")


@app.command()
def verify(workspace: options.Workspace = WORKSPACE, fix: Fix = False) -> None:
    """Read every artifact and compare it with its digest; code 1 if any is broken and stays. Of a
    bucket its objects are read: a copy is compared each time that it is used."""
    from coin_ray.pipeline.stages import STAGES
    from coin_ray.store import bucket_upkeep
    from coin_ray.store.artifacts import DAMAGED
    from coin_ray.store.upkeep import check, remove

    store = _store(workspace)
    count, old, faults, left = 0, 0, 0, 0
    kept = bucket.address(store.root) is not None
    for found in bucket_upkeep.check(store) if kept else check(store, STAGES):
        count += 1
        old += found.version == 1
        if not found.fault:
            continue
        faults += 1
        say(f"{found.path.relative_to(store.root)}: {found.fault}")
        if fix:
            try:
                remove(store, found.path, found.fault)
            except (OSError, UserError) as error:
                left += 1
                say(f"  not removed: {error}", err=True)
    if old:
        say(f"{old:,} of version 1: of these the arrays have a digest, the values do not")
    if before := len(store.damaged()) - (faults - left if fix else 0):
        say(f"{before:,} found damaged and thrown away before: {store.root / DAMAGED}")
    if not faults:
        read = f", read from {bucket.shown(store.root)}" if kept else ""
        say(f"{count:,} artifacts, all as they were written{read}")
    elif fix:
        say(f"{faults - left} of {count:,} artifacts removed; the next run makes them again")
    else:
        say(f"{faults} of {count:,} artifacts are broken; --fix removes them", err=True)
    if left or (faults and not fix):
        raise typer.Exit(1)


def _store(workspace: options.Workspace) -> Store:
    from coin_ray.store.artifacts import Store

    store = Store(workspace.store)
    if bucket.address(store.root) is None and not store.root.is_dir():
        raise UserError(
            "there is no store", where=str(store.root), do="name its workspace with --workspace DIR"
        )
    return store


def _bytes(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UserError(f"--quota cannot be {text}", expected="a size such as 500MB or 20GB")
    return float(found[1]) * UNITS[found[2].upper()]
