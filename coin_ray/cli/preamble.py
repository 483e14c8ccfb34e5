"""What is said about a study before anything runs: profile, data, levels, stages, warnings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from coin_ray.study.resolved import DataSpec, ResolvedStudy

if TYPE_CHECKING:
    from coin_ray.pipeline.plan import Plan

FEW_IMAGES = 50


def opening(study: ResolvedStudy) -> list[str]:
    """Name, question, and which models on which data: the reader of a number has to know."""
    lines = [f"{study.name}: {study.title}" if study.title != study.name else study.name]
    if study.question:
        lines.append(study.question.strip())
    how = f"profile {study.profile} ({study.profile_reason})"
    if study.profile == "mini":
        how += "; the paper's models: --profile coin"
    lines.append(how)
    lines += [f"data {spec.name}: {_data(spec)}" for spec in study.data]
    if all(spec.kind == "generated" for spec in study.data):
        lines[-1] += "; your own images: --data PATH"
    return [*lines, *(f"warning: {text}" for text in study.warnings)]


def _data(spec: DataSpec) -> str:
    if spec.kind == "generated":
        counts = spec.options
        where = f"{counts['test']} generated tiles of {counts['size']} px"
        where += f", {counts['train']} more to train on" if counts.get("train") else ""
    else:
        where = f"{spec.path}{f' ({spec.split})' if spec.split else ''}"
        where += f", trained on {', '.join(spec.train_paths)}" if spec.train_paths else ""
    return f"{where} ({spec.setting})"


def cells(study: ResolvedStudy) -> str:
    """``5 levels × 1 data set × 2 random seeds = 10 cells``."""
    return (
        f"{study.design}: {_count(len(study.levels), 'level')} × "
        f"{_count(len(study.data), 'data set')} × {_count(len(study.seeds), 'random seed')} = "
        f"{_count(len(study.cells), 'cell')}"
    )


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def levels(study: ResolvedStudy, most: int = 30) -> list[str]:
    """Each level with the settings in which it differs."""
    width = max(len(level) for level in study.levels) + 2
    out = []
    for level in study.levels[:most]:
        patch = ", ".join(f"{k}={_value(v)}" for k, v in study.patches.get(level, {}).items())
        star = "*" if level == study.baseline_level and len(study.levels) > 1 else " "
        out.append(f"  {star} {level:<{width}}{patch}".rstrip())
    if len(study.levels) > most:
        out.append(f"    … and {len(study.levels) - most} more")
    return [*out, "  (* baseline)"] if len(study.levels) > 1 else out


def _value(value: Any) -> str:
    """As it would be written in the study."""
    words = {True: "true", False: "false"}
    return "null" if value is None else words[value] if isinstance(value, bool) else str(value)


def stages(plan: Plan) -> list[str]:
    """The stage table: what every cell alone would need, shared, already stored, to compute."""
    rows: list[tuple[str, ...]] = [("stage", "alone", "unique", "stored", "to compute")]
    totals = [0, 0, 0, 0]
    for name, count in plan.stages.items():
        numbers = (count.naive, count.unique, count.stored, count.unique - count.stored)
        rows.append((name, *(str(n) for n in numbers)))
        totals = [a + b for a, b in zip(totals, numbers, strict=True)]
    rows.append(("total", *(str(n) for n in totals)))
    lines = [f"  {r[0]:<12}" + "".join(f"{text:>12}" for text in r[1:]) for r in rows]
    naive, unique, _, left = totals
    if naive > unique:
        saved = (naive - unique) / naive
        lines.append(f"sharing saves {saved:.0%} of the stages that the cells alone would compute")
    lines.append("nothing to compute: every stage is stored" if not left else f"{left} to compute")
    return lines


def cautions(study: ResolvedStudy, labelled: Mapping[str, int]) -> list[str]:
    """What the numbers will not be able to show; ``labelled``: data set -> labelled images."""
    out = list(_few(labelled))
    n = len(study.seeds)
    floor = 2 / 2**n
    if len(study.levels) > 1 and floor > 0.05:
        out.append(
            f"{_count(n, 'random seed')}: a paired test over seeds cannot go below p = "
            f"{min(floor, 1.0):g} (6 seeds reach 0.031)"
        )
    return out


def _few(labelled: Mapping[str, int]) -> Iterable[str]:
    for name, n in labelled.items():
        if n == 0:
            yield f"{name} has no labels: nothing will be measured, label maps are written"
        elif n < FEW_IMAGES:
            yield f"{name} has {_count(n, 'labelled image')}: intervals will be approximate"
