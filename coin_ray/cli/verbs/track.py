"""``coin-ray track``: the tracker's copy of what the journals say."""

from __future__ import annotations

import typer

from coin_ray.cli.options import WORKSPACE, Workspace
from coin_ray.cli.screen.output import say

app = typer.Typer(no_args_is_help=True, help="The tracker: replay the journals into MLflow.")


@app.callback()
def main() -> None:
    """Without a callback Typer would drop the verb of a group that has only one."""


@app.command()
def sync(workspace: Workspace = WORKSPACE) -> None:
    """Write every run of the workspace's journals that MLflow does not have yet, or not all of."""
    from coin_ray.tracking.replay import sync_journals

    for done in sync_journals(workspace):
        say(f"{done.study}: {done.runs} runs, {done.written} written")
        for text in done.bad:
            say(f"  {text}", err=True)
        for path in done.missing:
            say(f"  not attached, the file is gone: {path}", err=True)
