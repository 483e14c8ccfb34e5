"""From a study file and the command line to a ``ResolvedStudy``.

Precedence of a setting, the later wins: search space < ``baseline:`` of the study < level <
``--set``. A study file that extends another takes over its blocks, key by key; ``--profile``
exchanges the search spaces at the end of the chain and leaves the study files as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coin_ray.errors import UserError
from coin_ray.pipeline.settings import Cell
from coin_ray.study import blocks, designs, files
from coin_ray.study.chain import Document, first, read_chain
from coin_ray.study.command_line import Request, given_data, given_seeds
from coin_ray.study.data_block import read_data
from coin_ray.study.designs import Combination
from coin_ray.study.errors import Place, Problems, shown_path, suggestion
from coin_ray.study.factors import FactorBlock, read_exclude, read_factors
from coin_ray.study.grammar import label
from coin_ray.study.names import unique_slugs
from coin_ray.study.patches import Patch, configure, read_override, read_patch
from coin_ray.study.resolved import DataSpec, Objective, ResolvedStudy, StudyCell

_LATER = ("search",)
_REPORT = ("aji", "pq", "dice", "miou")
_MOST_CELLS = 100_000
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]*$")


@dataclass(frozen=True)
class Row:
    """A level of the result table with everything needed to make its configuration."""

    combination: Combination
    patches: Sequence[Patch]
    place: Place


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
            do=f"coin-ray sweep STUDY --profile {chain[0].name()}",
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

    design = _design(chain, problems)
    factors, complete = _factors(chain, design, problems)
    exclude = _exclude(chain, factors, problems) if complete else []
    rows = _rows(design, factors, exclude, base, head)
    for row in rows:
        _clash(row, problems)
    data = given_data(request, problems) or _data(chain, problems)
    seeds = given_seeds(request, problems) or _seeds(chain, problems)
    name = _name(chain, head, problems)
    made = [configure([*row.patches, overrides], row.place, problems) for row in rows]
    configs = [config for config in made if config is not None]
    labels = tuple(row.combination.label for row in rows)
    published = first(chain, "published")
    objective = first(chain, "objective")
    report = first(chain, "report")
    resources = first(chain, "resources")
    known = labels if complete else ()
    numbers = blocks.read_published(published[0], known, problems) if published else None
    goal = blocks.read_objective(objective[0], problems) if objective else Objective()
    metrics = blocks.read_report(report[0], problems) if report else _REPORT
    needs = blocks.read_resources(resources[0], problems) if resources else {}
    problems.raise_if_any()
    base_levels = designs.baseline([block.factor for block in factors])
    baseline = next(r.combination.label for r in rows if r.combination.levels == base_levels)
    return ResolvedStudy(
        name=name,
        title=_text(chain, "title") or name,
        question=_text(chain, "question"),
        profile=profiles[0].name() if profiles else "",
        profile_reason=reason,
        source_files=tuple(str(doc.path) for doc in chain),
        data=data,
        levels=labels,
        baseline_level=baseline,
        cells=_cells(rows, configs, data, seeds),
        design=design,
        seeds=seeds,
        factors={block.factor.name: block.factor.levels for block in factors},
        patches={
            row.combination.label: {k: s.value for p in row.patches[1:] for k, s in p.items()}
            for row in rows
        },
        overrides={key: setting.value for key, setting in overrides.items()},
        warnings=_warnings(rows, configs, factors, overrides),
        published=numbers,
        objective=goal,
        report=metrics,
        resources=needs,
    )


def _name(chain: Sequence[Document], head: Place, problems: Problems) -> str:
    node = chain[0].root.value.get("study")
    if node is None:
        problems.add(head, "missing key 'study'", f"write study: {chain[0].path.stem}")
        return chain[0].path.stem
    name = label(node, problems)
    if not _SLUG.match(name):
        problems.add(
            node.place, f"'{name}' cannot name a study", "use a-z, 0-9, _ and - (it names folders)"
        )
    return name


def _text(chain: Sequence[Document], key: str) -> str:
    found = first([doc for doc in chain if not doc.is_profile], key)
    return found[0].text if found else ""


def _data(chain: Sequence[Document], problems: Problems) -> tuple[DataSpec, ...]:
    found = first(chain, "data")
    if found is None:
        head = Place(shown_path(chain[0].path), 1, 1)
        problems.add(head, "no data", "write data: generated, or give --data PATH")
        return ()
    return read_data(found[0], found[1].path.parent, problems)


def _seeds(chain: Sequence[Document], problems: Problems) -> tuple[int, ...]:
    found = first(chain, "seeds")
    return blocks.read_seeds(found[0], problems) if found else (0,)


def _design(chain: Sequence[Document], problems: Problems) -> str:
    found = first(chain, "design")
    if found is None:
        return "one_at_a_time"
    design = label(found[0], problems)
    if design in designs.names():
        return design
    if design in _LATER:
        problems.add(found[0].place, f"design: {design} does not exist yet", "use grid")
    else:
        hint = suggestion(design, designs.names(), "designs")
        problems.add(found[0].place, f"unknown design '{design}'", hint)
    return "one_at_a_time"


def _factors(
    chain: Sequence[Document], design: str, problems: Problems
) -> tuple[list[FactorBlock], bool]:
    """The factors that can be varied, and whether they are all that the file names."""
    found = first(chain, "factors")
    if found is None:
        return [], True
    node = found[0]
    factors = read_factors(node, design, problems)
    cells = math.prod(len(block.factor.levels) for block in factors)
    if design in ("grid", "factorial") and cells > _MOST_CELLS:
        message = f"this {design} has {cells} combinations"
        problems.add(node.place, message, f"at most {_MOST_CELLS}")
        return [], False
    return factors, node.kind == "map" and len(factors) == len(node.value)


def _exclude(
    chain: Sequence[Document], factors: Sequence[FactorBlock], problems: Problems
) -> list[dict[str, str]]:
    found = first(chain, "exclude")
    if found is None:
        return []
    plain = [block.factor for block in factors]
    entries = read_exclude(found[0], plain, problems)
    for entry, place in entries:
        if entry.items() <= designs.baseline(plain).items():
            problems.add(place, "this excludes the baseline", "every level is compared with it")
    return [entry for entry, _ in entries]


def _rows(
    design: str,
    factors: Sequence[FactorBlock],
    exclude: Sequence[Mapping[str, str]],
    base: Patch,
    head: Place,
) -> list[Row]:
    by_name = {block.factor.name: block for block in factors}
    rows = []
    for combination in designs.expand(design, [block.factor for block in factors], exclude):
        chosen = [(by_name[name], level) for name, level in combination.levels.items()]
        patches = [base, *(block.patches[level] for block, level in chosen)]
        place = chosen[0][0].places[chosen[0][1]] if chosen else head
        rows.append(Row(combination, patches, place))
    return rows


def _clash(row: Row, problems: Problems) -> None:
    """Two factors that set the same key would silently hide each other."""
    owner: dict[str, str] = {}
    for name, patch in zip(row.combination.levels, row.patches[1:], strict=True):
        for key, setting in patch.items():
            if key in owner:
                problems.add(
                    setting.place,
                    f"factors '{owner[key]}' and '{name}' both set {key}",
                    "let one factor own a key",
                )
            owner[key] = name


def _cells(
    rows: Sequence[Row], configs: Sequence[Cell], data: Sequence[DataSpec], seeds: Sequence[int]
) -> tuple[StudyCell, ...]:
    """Seeds outermost: every level gets its first seed before any gets a second."""
    slugs = unique_slugs([row.combination.label for row in rows])
    data_slugs = unique_slugs([spec.name for spec in data])
    return tuple(
        StudyCell(
            level=row.combination.label,
            labels=row.combination.levels,
            data=spec,
            seed=seed,
            config=config,
            key_label=f"{slug}--{data_slug}--s{seed}",
        )
        for seed in seeds
        for spec, data_slug in zip(data, data_slugs, strict=True)
        for row, config, slug in zip(rows, configs, slugs, strict=True)
    )


def _warnings(
    rows: Sequence[Row],
    configs: Sequence[Cell],
    factors: Sequence[FactorBlock],
    overrides: Mapping[str, Any],
) -> tuple[str, ...]:
    """What is allowed and probably not meant."""
    out = []
    first: dict[Cell, str] = {}
    for row, config in zip(rows, configs, strict=True):
        twin = first.setdefault(config, row.combination.label)
        if twin != row.combination.label:
            out.append(f"levels '{twin}' and '{row.combination.label}' are the same configuration")
    varied = {key for block in factors for patch in block.patches.values() for key in patch}
    out += [
        f"--set {key} overrides what the study's levels set" for key in overrides.keys() & varied
    ]
    for block in factors:
        used = {row.combination.levels[block.factor.name] for row in rows}
        out += [
            f"level '{level}' of {block.factor.name} is never used"
            for level in block.factor.levels
            if level not in used
        ]
    return tuple(out)
