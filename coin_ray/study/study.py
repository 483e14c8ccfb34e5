"""From a study file and the command line to a ``ResolvedStudy``.

Precedence of a setting, the later wins: search space < ``baseline:`` of the study < level <
``--set``. A study file that extends another takes over its blocks, key by key; ``--profile``
exchanges the search spaces at the end of the chain and leaves the study files as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coin_ray import safe
from coin_ray.data.dataset import DataSpec
from coin_ray.errors import UserError
from coin_ray.pipeline.settings import Cell
from coin_ray.planning.growth import Growth
from coin_ray.section import Values
from coin_ray.study import blocks, designs, files
from coin_ray.study.base import read_base
from coin_ray.study.cells import Level, make_cells
from coin_ray.study.chain import Chain, read_chain
from coin_ray.study.command_line import Request, given_data, given_seeds
from coin_ray.study.data_block import read_data
from coin_ray.study.errors import Problems, shown_path, suggestion
from coin_ray.study.grammar import Node
from coin_ray.study.metrics import AGREEMENT, METRICS
from coin_ray.study.patches import Patch, configure, plain, read_override
from coin_ray.study.resolved import (
    Analysis,
    Budget,
    Gates,
    Objective,
    ResolvedStudy,
    Screen,
    Search,
    Stopping,
)
from coin_ray.study.rows import (
    Row,
    make_rows,
    note_clashes,
    note_twins,
    row_warnings,
    rows_made_elsewhere,
)
from coin_ray.study.search import baseline_labels, most_trials, settings_of, wanted
from coin_ray.study.varied import SEARCH, Varied, read_varied

_REPORT = ("aji", "pq", "dice", "miou")
MOST_CELLS = 1_000_000


def resolve(study: str, request: Request | None = None) -> ResolvedStudy:
    """The cells of a study, by path or name, with what the command line changes.

    Raises UserError that shows every problem of all files read and of ``--set`` at once, each with
    file:line:column, the line and the nearest valid name.
    """
    request = request or Request()
    problems = Problems()
    chain = read_chain(files.find_study(study), problems)
    if not chain.files:
        problems.raise_if_any()
    if chain.files[0].is_profile:
        raise UserError(
            "this is a search space, not a study",
            where=shown_path(chain.files[0].path),
            do=f"coin-ray sweep STUDY --profile {safe.shell(chain.files[0].name())}",
        )
    reason = "the study's extends"
    if request.profile:
        base = read_chain(files.find_profile(request.profile), problems)
        chain = replace(chain, files=[*chain.studies, *base.files])
        reason = "--profile"
    elif not problems and not chain.files[-1].is_profile:
        hint = suggestion("", files.available("search_spaces"), "search spaces")
        problems.add(
            chain.files[-1].head, "no search space to start from", f"write extends: NAME  {hint}"
        )
    return _resolve(chain, request, reason)


def _resolve(chain: Chain, request: Request, reason: str) -> ResolvedStudy:
    problems, head = chain.problems, chain.files[0].head
    data = given_data(request, problems) or _data(chain)
    generated = not request.own and all(spec.kind == "generated" for spec in data)
    base, extras = read_base(chain, generated=generated)
    overrides: Patch = {}
    for text in request.settings:
        overrides |= read_override(text, problems)
    varied = read_varied(chain, base)
    rows = make_rows(varied.combinations, varied.factors, base, head)
    for row in rows:
        note_clashes(row)
    if varied.search is None:
        rows += rows_made_elsewhere(chain, base)
    note_twins(rows, problems)
    made = [configure([*row.patches, overrides], row.place, problems) for row in rows]
    labels = tuple(row.combination.label for row in rows)
    seeds, first_seeds = _seeds(chain, request, varied.design)
    asked = varied.search
    if asked is not None and made[0] is not None:
        trials = most_trials(asked, made[0], overrides)
        varied = replace(varied, search=replace(asked, trials=trials))
    if varied.search is not None and varied.search.repeats is not None:
        varied, first_seeds = _repeated(chain, varied, seeds, given=bool(request.seeds))
    levels_run = len(rows) if varied.search is None else 1 + varied.search.trials
    cells = levels_run * len(data) * len(seeds)
    if cells > MOST_CELLS:
        counts = f"{levels_run:,} levels, {len(data):,} data, {len(seeds):,} seeds"
        problems.add(head, f"this study has {cells:,} cells ({counts})", f"at most {MOST_CELLS:,}")
    told = _blocks(chain, varied, labels, data)
    _check_race(chain, told["stopping"], told["objective"], seeds)
    told["gates"] = _gates(chain, varied, rows, data, len(seeds))
    _stops_whole_trainings(chain, told["stopping"], [config for config in made if config])
    problems.raise_if_any()

    configs = [config for config in made if config is not None]
    baseline = _at_baseline(varied, rows)[0]
    levels = [
        Level(label, row.combination.levels, config)
        for label, row, config in zip(labels, rows, configs, strict=True)
    ]
    if varied.search is not None:
        levels = [Level(baseline, baseline_labels(varied.search, configs[0]), configs[0])]
    fixed = plain(overrides)
    return ResolvedStudy(
        **told,
        profile=next((doc.name() for doc in chain.files if doc.is_profile), ""),
        extended=tuple(doc.name() for doc in chain.files if doc.is_profile)[1:],
        profile_reason=reason,
        extras=extras,
        source_files=tuple(str(doc.path) for doc in chain.files),
        data=data,
        levels=labels,
        baseline_level=baseline,
        cells=make_cells(levels, data, seeds),
        design=varied.design,
        search=varied.search,
        seeds=seeds,
        first_seeds=first_seeds,
        factors={block.factor.name: block.factor.levels for block in varied.factors},
        patches={
            row.combination.label: {k: v for p in row.patches[1:] for k, v in plain(p).items()}
            for row in rows
        },
        overrides=fixed,
        warnings=(
            *row_warnings(rows, configs, varied, fixed),
            *_search_warnings(varied.search, configs[0], fixed),
            *_trials_warnings(varied.search, asked, chain.get("trials")),
            *_screen_warnings(told["screen"], len(levels)),
        ),
    )


def _blocks(
    chain: Chain, varied: Varied, labels: Sequence[str], data: Sequence[DataSpec]
) -> Values:
    """What stands in the files as it is, as fields of a ``ResolvedStudy``."""
    name, is_search = chain.name(), varied.design == SEARCH
    names = ("published", "objective", "report", "steps", "resources")
    published, objective, report, steps, resources = map(chain.get, names)
    known = labels if varied.complete and varied.search is None else ()
    goal = blocks.read_objective(objective) if objective else Objective()
    stopping = chain.block("stopping", Stopping) or Stopping("none")
    if objective and (is_search or stopping.rule != "none"):
        _no_choice_on_test(goal, objective, data)
    metrics = [n.one_of(METRICS, "metric", "metrics") for n in report.each()] if report else _REPORT
    return {
        "name": name,
        "title": _text(chain, "title") or name,
        "question": _text(chain, "question"),
        "published": blocks.read_published(published, known) if published else None,
        "objective": goal,
        "report": tuple(metrics),
        "steps": blocks.read_steps(steps) if steps else (),
        "resources": blocks.read_resources(resources) if resources else {},
        "stopping": stopping,
        "screen": None if is_search else chain.block("screen", Screen),
        "analysis": chain.block("analysis", Analysis) or Analysis(),
        "budget": chain.block("budget", Budget) or Budget(),
        "cluster": chain.block("cluster", Growth),
    }


def _stops_whole_trainings(chain: Chain, stopping: Stopping, configs: Sequence[Cell]) -> None:
    """Notes a problem where cells are to be stopped between rounds that are parts of one training:
    how fast it learns depends on its end, so that none is the beginning of another."""
    node = chain.get("stopping")
    if node is None or stopping.rule != "asha":
        return
    if any(config.rounds.schedule == "continuous" for config in configs):
        node.note(
            "rounds.schedule: continuous is one training, which is not stopped between rounds",
            "rounds.schedule: restart, or no stopping",
        )


def _check_race(chain: Chain, stopping: Stopping, goal: Objective, seeds: Sequence[int]) -> None:
    """Notes what a race cannot do: it compares levels image by image, after two seeds and more."""
    node = chain.get("stopping")
    if node is None or stopping.rule != "race":
        return
    if len(seeds) < 3:
        node.note("a race looks after two random seeds and more", "write seeds: 3, or more")
    if goal.metric != AGREEMENT and goal.metric not in METRICS:
        hint = f"rank by {AGREEMENT}, which reads no label, or a metric of labels"
        node.note(f"a race compares image by image, and {goal.metric} has no such values", hint)
    design = chain.get("design")
    if design is not None and design.text == SEARCH:
        node.note("a search proposes its levels one after the other", "stopping: {rule: asha}")


def _at_baseline(varied: Varied, rows: Sequence[Row]) -> list[str]:
    """The level of a study whose factors are all at their baselines."""
    levels = designs.baseline([block.factor for block in varied.factors])
    return [r.combination.label for r in rows if r.combination.levels == levels]


def _gates(
    chain: Chain, varied: Varied, rows: Sequence[Row], data: Sequence[DataSpec], seeds: int
) -> Gates | None:
    node = chain.get("gates")
    if node is None:
        return None
    if varied.search is not None:
        node.note("what a search will propose cannot be claimed", "claim levels of another design")
        return None
    known: dict[str, None] = {}
    if varied.complete:
        labels = [row.combination.label for row in rows]
        known = dict.fromkeys([*_at_baseline(varied, rows), *labels])
    return blocks.read_gates(node, tuple(known), [spec.name for spec in data], seeds)


def _text(chain: Chain, key: str) -> str:
    node = replace(chain, files=chain.studies).get(key)
    if node and node.kind != "scalar":
        node.note(f"{key} has to be text", "put it in quotes")
    return node.text if node else ""


def _data(chain: Chain) -> tuple[DataSpec, ...]:
    doc = next((doc for doc in chain.files if "data" in doc.root.value), None)
    if doc is None:
        hint = "write data: generated, or give --data PATH"
        chain.problems.add(chain.files[0].head, "no data", hint)
        return ()
    return read_data(doc.root.value["data"], doc.path.parent)


def _seeds(chain: Chain, request: Request, design: str) -> tuple[tuple[int, ...], int | None]:
    given = given_seeds(request, chain.problems)
    if given:
        return given, None
    node = chain.get("seeds")
    if node is None:
        return (0,), None
    seeds, sequential = blocks.read_seeds(node)
    if sequential and design == SEARCH:
        hint = "every configuration gets the same: a number, or a list"
        node.note(f"sequential seeds do not go with design: {SEARCH}", hint)
    return seeds, sequential


def _repeated(
    chain: Chain, varied: Varied, seeds: Sequence[int], *, given: bool
) -> tuple[Varied, int | None]:
    """The best trials are repeated with the seeds after the first; with ``--seeds`` that name one
    none is."""
    assert varied.search is not None
    if len(seeds) > 1:
        return varied, 1
    node = chain.get("repeats")
    if node is not None and not given:
        node.note("repeats needs further random seeds", "such as seeds: 3")
    return replace(varied, search=replace(varied.search, repeats=None)), None


def _no_choice_on_test(goal: Objective, node: Node, data: Sequence[DataSpec]) -> None:
    """A test split may be evaluated by any design and chosen by none."""
    tested = [spec.name for spec in data if spec.is_test]
    if goal.metric in METRICS and tested:
        node.value["metric"].note(
            f"{goal.metric} of {', '.join(tested)} may not choose: it is a test split",
            "rank by agreement, which reads no label, or by data with split: val",
        )


def _search_warnings(search: Search | None, base: Cell, overrides: Values) -> list[str]:
    if search is None:
        return []
    varied = {dimension.key for dimension in search.space}
    out = [f"--set {key} fixes what the search varies" for key in overrides if key in varied]
    settings = settings_of(base)
    for dimension in search.space:
        if not (dimension.when.keys() & varied or wanted(dimension, settings)):
            conditions = ", ".join(f"{key} is {settings[key]}" for key in dimension.when)
            out.append(f"{dimension.key} is never asked for: {conditions} in every trial")
    return out


def _trials_warnings(search: Search | None, asked: Search | None, node: Node | None) -> list[str]:
    if search is None or asked is None or node is None or search.trials == asked.trials:
        return []
    return [
        f"trials: {asked.trials} is more than the space has: {search.trials} configurations beside "
        "the baseline"
    ]


def _screen_warnings(screen: Screen | None, levels: int) -> list[str]:
    if screen is None or screen.keep < levels - 1:
        return []
    return [f"screen keeps {screen.keep} of {levels - 1} levels: it saves nothing"]
