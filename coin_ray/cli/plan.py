"""``coin-ray plan``: what a study would run, before anything runs."""

from __future__ import annotations

import typer

from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE


def plan(
    study: options.Study,
    profile: options.Profile = None,
    data: options.Data = None,
    train: options.Train = None,
    mpp: options.Mpp = None,
    settings: options.Set = None,
    seeds: options.Seeds = None,
    workspace: options.Workspace = WORKSPACE,
) -> None:
    """Say what a study would run: its cells, their stages, and what the store has already."""
    from coin_ray.cli import preamble
    from coin_ray.pipeline.plan import plan_cells
    from coin_ray.study.datasets import resolve_data

    resolved = options.resolved(study, profile, data, train, mpp, settings, seeds)
    for text in (*preamble.opening(resolved), preamble.cells(resolved)):
        typer.echo(text)
    for text in preamble.levels(resolved):
        typer.echo(text)
    found = {spec.name: resolve_data(spec, workspace) for spec in resolved.data}
    for text in preamble.stages(plan_cells(resolved.cells, found, workspace)):
        typer.echo(text)
    labelled = {name: sum(s.has_truth for s in d.samples) for name, d in found.items()}
    for text in preamble.cautions(resolved, labelled):
        typer.echo(f"note: {text}")
