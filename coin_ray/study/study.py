"""From a study file and the command line to a ``ResolvedStudy``.

Precedence of a setting, the later wins: search space < ``baseline:`` of the study < level <
``--set``. A study file that extends another takes over its blocks, key by key; ``--profile``
exchanges the search spaces at the end of the chain and leaves the study files as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from coin_ray import safe
from coin_ray.data.dataset import DataSpec
from coin_ray.errors import UserError
from coin_ray.pipeline.settings import Cell
from coin_ray.study import blocks, designs, files
from coin_ray.study.cells import Level, make_cells
from coin_ray.study.chain import Document, first, read_chain
from coin_ray.study.command_line import Request, given_data, given_seeds
from coin_ray.study.data_block import read_data
from coin_ray.study.errors import Place, Problems, shown_path, suggestion
from coin_ray.study.grammar import Node, label
from coin_ray.study.metrics import METRICS
from coin_ray.study.patches import Patch, configure, read_override, read_patch
from coin_ray.study.resolved import (
    Analysis,
    Budget,
    Objective,
    ResolvedStudy,
    Screen,
    Search,
    Stopping,
)
from coin_ray.study.rows import make_rows, note_clashes, note_twins, row_warnings
from coin_ray.study.search import baseline_labels, settings_of, wanted
from coin_ray.study.varied import SEARCH, read_varied

_REPORT = ("aji", "pq", "dice", "miou")
MOST_CELLS = 1_000_000
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
T = TypeVar("T")


def resolve(study: str, request: Request | None = None) -> ResolvedStudy:
    """The cells of a study, by path or name, with what the command line changes.

    Raises UserError that shows every problem of all files read and of ``--set`` at once, each with
    file:line:column, the line and the nearest valid name.
    """
    request = request or Request()
    problems = Problems()
    chain = read_chain(files.find_study(study), problems)
    if not chain:
        problems.raise_if_any()
    if chain[0].is_profile:
        raise UserError(
            "this is a search space, not a study",
            where=shown_path(chain[0].path),
            do=f"coin-ray sweep STUDY --profile {safe.shell(chain[0].name())}",
        )
    reason = "the study's extends"
    if request.profile:
        base = read_chain(files.find_profile(request.profile), problems)
        chain = [doc for doc in chain if not doc.is_profile] + base
        reason = "--profile"
    elif not problems and not chain[-1].is_profile:
        place = Place(shown_path(chain[-1].path), 1, 1)
        hint = suggestion("", files.available("search_spaces"), "search spaces")
        problems.add(place, "no search space to start from", f"write extends: NAME  {hint}")
    return _resolve(chain, request, reason, problems)


def _resolve(
    chain: Sequence[Document], request: Request, reason: str, problems: Problems
) -> ResolvedStudy:
    head = Place(shown_path(chain[0].path), 1, 1)
    profiles = [doc for doc in chain if doc.is_profile]
    base: Patch = {}
    for doc in reversed(chain):
        if "baseline" in doc.root.value:
            base |= read_patch(doc.root.value["baseline"], problems)
    overrides: Patch = {}
    for text in request.settings:
        overrides |= read_override(text, problems)

    varied = read_varied(chain, base, problems)
    factors, search = varied.factors, varied.search
    rows = make_rows(varied.combinations, factors, base, head)
    note_twins(rows, problems)
    for row in rows:
        note_clashes(row, problems)
    made = [configure([*row.patches, overrides], row.place, problems) for row in rows]
    labels = tuple(row.combination.label for row in rows)

    data = given_data(request, problems) or _data(chain, problems)
    seeds, first_seeds = _seeds(chain, request, varied.design, problems)
    levels_run = len(rows) if search is None else 1 + search.trials
    _few_enough(levels_run, len(data), len(seeds), head, problems)
    name = _name(chain, head, problems)
    title, question = _text(chain, "title", problems), _text(chain, "question", problems)
    published = first(chain, "published")
    objective = first(chain, "objective")
    report = first(chain, "report")
    resources = first(chain, "resources")
    known = labels if varied.complete and search is None else ()
    numbers = blocks.read_published(published[0], known, problems) if published else None
    goal = blocks.read_objective(objective[0], problems) if objective else Objective()
    metrics = blocks.read_report(report[0], problems) if report else _REPORT
    needs = blocks.read_resources(resources[0], problems) if resources else {}
    stopping = _block(chain, "stopping", Stopping, problems) or Stopping("none")
    screen = _block(chain, "screen", Screen, problems) if varied.design != SEARCH else None
    analysis = _block(chain, "analysis", Analysis, problems) or Analysis()
    budget = _block(chain, "budget", Budget, problems) or Budget()
    if objective and (varied.design == SEARCH or stopping.rule != "none"):
        _no_choice_on_test(goal, objective[0], data, problems)
    problems.raise_if_any()

    configs = [config for config in made if config is not None]
    base_levels = designs.baseline([block.factor for block in factors])
    baseline = next(r.combination.label for r in rows if r.combination.levels == base_levels)
    levels = [
        Level(label, row.combination.levels, config)
        for label, row, config in zip(labels, rows, configs, strict=True)
    ]
    if search is not None:
        levels = [Level(baseline, baseline_labels(search, configs[0]), configs[0])]
    fixed = {key: setting.value for key, setting in overrides.items()}
    return ResolvedStudy(
        name=name,
        title=title or name,
        question=question,
        profile=profiles[0].name() if profiles else "",
        profile_reason=reason,
        source_files=tuple(str(doc.path) for doc in chain),
        data=data,
        levels=labels,
        baseline_level=baseline,
        cells=make_cells(levels, data, seeds),
        design=varied.design,
        seeds=seeds,
        first_seeds=first_seeds,
        factors={block.factor.name: block.factor.levels for block in factors},
        patches={
            row.combination.label: {k: s.value for p in row.patches[1:] for k, s in p.items()}
            for row in rows
        },
        overrides=fixed,
        warnings=(
            *row_warnings(rows, configs, factors, fixed),
            *_search_warnings(search, configs[0], fixed),
            *_screen_warnings(screen, len(levels)),
        ),
        published=numbers,
        objective=goal,
        report=metrics,
        resources=needs,
        search=search,
        stopping=stopping,
        screen=screen,
        analysis=analysis,
        budget=budget,
    )


def _few_enough(levels: int, data: int, seeds: int, head: Place, problems: Problems) -> None:
    cells = levels * data * seeds
    if cells > MOST_CELLS:
        message = (
            f"this study has {cells:,} cells ({levels:,} levels, {data:,} data, {seeds:,} seeds)"
        )
        problems.add(head, message, f"at most {MOST_CELLS:,}")


def _block(chain: Sequence[Document], key: str, kind: type[T], problems: Problems) -> T | None:
    found = first(chain, key)
    return blocks.read_block(found[0], kind, key, problems) if found else None


def _name(chain: Sequence[Document], head: Place, problems: Problems) -> str:
    node = chain[0].root.value.get("study")
    if node is None:
        problems.add(head, "missing key 'study'", f"write study: {chain[0].path.stem}")
        return chain[0].path.stem
    name = label(node, problems)
    if not _SLUG.fullmatch(name):
        hint = "use a-z, 0-9, _ and -, 64 at most (it names folders)"
        problems.add(node.place, f"'{name}' cannot name a study", hint)
    return name


def _text(chain: Sequence[Document], key: str, problems: Problems) -> str:
    found = first([doc for doc in chain if not doc.is_profile], key)
    if found and found[0].kind != "scalar":
        problems.add(found[0].place, f"{key} has to be text", "put it in quotes")
    return found[0].text if found else ""


def _data(chain: Sequence[Document], problems: Problems) -> tuple[DataSpec, ...]:
    found = first(chain, "data")
    if found is None:
        head = Place(shown_path(chain[0].path), 1, 1)
        problems.add(head, "no data", "write data: generated, or give --data PATH")
        return ()
    return read_data(found[0], found[1].path.parent, problems)


def _seeds(
    chain: Sequence[Document], request: Request, design: str, problems: Problems
) -> tuple[tuple[int, ...], int | None]:
    given = given_seeds(request, problems)
    if given:
        return given, None
    found = first(chain, "seeds")
    if found is None:
        return (0,), None
    seeds, sequential = blocks.read_seeds(found[0], problems)
    if sequential and design == SEARCH:
        hint = "every configuration gets the same: a number, or a list"
        problems.add(found[0].place, f"sequential seeds do not go with design: {SEARCH}", hint)
    return seeds, sequential


def _no_choice_on_test(
    goal: Objective, node: Node, data: Sequence[DataSpec], problems: Problems
) -> None:
    """A test split may be evaluated by any design and chosen by none."""
    tested = [spec.name for spec in data if spec.is_test]
    if goal.metric in METRICS and tested:
        problems.add(
            node.value["metric"].place,
            f"{goal.metric} of {', '.join(tested)} may not choose: it is a test split",
            "rank by agreement, which reads no label, or by data with split: val",
        )


def _search_warnings(search: Search | None, base: Cell, overrides: Mapping[str, Any]) -> list[str]:
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


def _screen_warnings(screen: Screen | None, levels: int) -> list[str]:
    if screen is None or screen.keep < levels - 1:
        return []
    return [f"screen keeps {screen.keep} of {levels - 1} levels: it saves nothing"]
