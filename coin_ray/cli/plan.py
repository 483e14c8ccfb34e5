"""``coin-ray plan``: what a study would run and cost, before anything runs."""

from __future__ import annotations

from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE
from coin_ray.cli.output import say
from coin_ray.cli.sweep import Address, Workers


def plan(
    study: options.Study,
    profile: options.Profile = None,
    data: options.Data = None,
    train: options.Train = None,
    mpp: options.Mpp = None,
    binary: options.Binary = None,
    settings: options.Set = None,
    seeds: options.Seeds = None,
    workspace: options.Workspace = WORKSPACE,
    address: Address = None,
    workers: Workers = None,
    device: options.Device = "auto",
) -> None:
    """Say what a study would run: its cells, their stages, what the store has already, hours.

    Hours come from what earlier stages took in this workspace. Code 1 if they exceed the budget.
    """
    from coin_ray.cli import costs, preamble
    from coin_ray.cli.output import console
    from coin_ray.cli.results import as_known, runs_folder
    from coin_ray.planning.plan import plan_cells
    from coin_ray.study.datasets import read_data

    asked = options.resolved(study, profile, data, train, mpp, settings, seeds, binary)
    asked, found = read_data(asked, workspace)
    resolved = as_known(asked, workspace)
    for text in (*preamble.opening(resolved), preamble.cells(resolved)):
        say(text)
    for text in preamble.levels(resolved):
        say(text)
    where = costs.target(resolved, address, device, workers)
    planned = plan_cells(resolved.cells, found, workspace)
    cost = costs.estimated(resolved, planned, workspace, where)
    console().print(costs.table(planned, cost))
    for text in costs.sentences(resolved, planned, cost, where):
        say(text)
    for text in preamble.power(resolved, found, runs_folder(workspace, resolved)):
        say(text)
    for text in preamble.cautions(resolved, found):
        say(f"warning: {text}")
    costs.stop_over_budget(resolved, cost)
