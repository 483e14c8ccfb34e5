"""Rows of the result table: the combinations of a design with the settings that make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coin_ray.pipeline.settings import Cell
from coin_ray.study.blocks import MadeElsewhere, read_block
from coin_ray.study.chain import Chain
from coin_ray.study.data_block import existing
from coin_ray.study.designs import Combination
from coin_ray.study.errors import Place, Problems
from coin_ray.study.factors import FactorBlock
from coin_ray.study.patches import Patch
from coin_ray.study.varied import Varied


@dataclass(frozen=True)
class Row:
    """A level of the result table with everything needed to make its configuration."""

    combination: Combination
    patches: Sequence[Patch]
    place: Place


def make_rows(
    combinations: Sequence[Combination], factors: Sequence[FactorBlock], base: Patch, head: Place
) -> list[Row]:
    """Each combination with its patches, the base first; ``head`` stands for a study without
    factors."""
    by_name = {block.factor.name: block for block in factors}
    rows = []
    for combination in combinations:
        chosen = [(by_name[name], level) for name, level in combination.levels.items()]
        patches = [base, *(block.patches[level] for block, level in chosen)]
        place = chosen[0][0].places[chosen[0][1]] if chosen else head
        rows.append(Row(combination, patches, place))
    return rows


def rows_made_elsewhere(chain: Chain, base: Patch) -> list[Row]:
    """A row for each entry of ``predictions:`` of the nearest file that has one."""
    doc = next((doc for doc in chain.files if "predictions" in doc.root.value), None)
    rows = []
    for node in doc.root.value["predictions"].each() if doc else ():
        found = read_block(node, MadeElsewhere, "predictions")
        if doc is None or found is None:
            continue
        path = existing(node.value["path"], doc.path.parent)
        where = replace(node.value["path"], value=path, text=path)
        patch = {"predictions.path": where}
        if found.binary:
            patch["predictions.binary"] = node.value["binary"]
        rows.append(Row(Combination(found.name, {}), [base, patch], node.place))
    return rows


def note_clashes(row: Row) -> None:
    """Two factors that set the same key would silently hide each other."""
    owner: dict[str, str] = {}
    for name, patch in zip(row.combination.levels, row.patches[1:], strict=True):
        for key, node in patch.items():
            if key in owner:
                message = f"factors '{owner[key]}' and '{name}' both set {key}"
                node.note(message, "let one factor own a key")
            owner[key] = name


def note_twins(rows: Sequence[Row], problems: Problems) -> None:
    """Two combinations of one name: a table could not tell them apart."""
    first: dict[str, Row] = {}
    for row in rows:
        twin = first.setdefault(row.combination.label, row)
        if twin is not row:
            said = ", ".join(f"{name} {level}" for name, level in twin.combination.levels.items())
            problems.add(
                row.place,
                f"two combinations of levels are called '{row.combination.label}'",
                f"rename a level: the other is {said}, of {twin.place}",
            )


def row_warnings(
    rows: Sequence[Row],
    configs: Sequence[Cell],
    varied: Varied,
    overrides: Mapping[str, Any],
) -> list[str]:
    """What a design allows and is probably not meant."""
    out = []
    first: dict[Cell, str] = {}
    for row, config in zip(rows, configs, strict=True):
        twin = first.setdefault(config, row.combination.label)
        if twin != row.combination.label:
            out.append(f"levels '{twin}' and '{row.combination.label}' are the same configuration")
    keys = {key for block in varied.factors for patch in block.patches.values() for key in patch}
    out += [
        f"--set {key} overrides what the study's levels set" for key in overrides if key in keys
    ]
    for block in varied.factors:
        used = {row.combination.levels.get(block.factor.name) for row in rows}
        out += [
            f"level '{level}' of {block.factor.name} is never used"
            for level in block.factor.levels
            if level not in used and (block.factor.name, level) not in varied.left_out
        ]
    return out
