"""What is said about a study before anything runs: profile, data, levels, power, warnings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray import bucket, safe
from coin_ray.data.dataset import DataSpec
from coin_ray.files import read_object
from coin_ray.study.resolved import Dimension, ResolvedStudy, StudyCell

if TYPE_CHECKING:
    from coin_ray.data.dataset import DataSet

FEW_IMAGES = 50


def opening(study: ResolvedStudy) -> list[str]:
    """Name, question, and which models on which data: the reader of a number has to know."""
    lines = [f"{study.name}: {study.title}" if study.title != study.name else study.name]
    if study.question:
        lines.append(study.question.strip())
    how = f"profile {study.profile} ({study.profile_reason})"
    if study.profile == "mini":
        how += "; the paper's models: --profile coin"
    lines += [how, *study.extras]
    lines += [f"data {spec.name}: {_data(spec)}" for spec in study.data]
    if all(spec.kind == "generated" for spec in study.data):
        lines[-1] += "; your own images: --data PATH"
    if study.gates:
        claims = _count(len(study.gates.claims), "claim")
        sealed = study.gates.sealed
        lines.append(f"gates: {claims}{f', {sealed} is sealed until the end' if sealed else ''}")
    return [*lines, *(f"warning: {text}" for text in study.warnings)]


def _data(spec: DataSpec) -> str:
    if spec.kind == "generated":
        counts = spec.options
        where = f"{counts['test']} generated tiles of {counts['size']} px"
        where += f", {counts['train']} more to train on" if counts.get("train") else ""
    else:
        where = f"{bucket.shown(spec.path or '')}{f' ({spec.split})' if spec.split else ''}"
        trained = ", ".join(map(bucket.shown, spec.train_paths))
        where += f", trained on {trained}" if trained else ""
    return f"{where} ({spec.setting})"


def cells(study: ResolvedStudy) -> str:
    """``5 levels × 1 data set × 2 random seeds = 10 cells``; of a search also how many of its best
    trials the further random seeds repeat."""
    what, count = _count(len(study.levels), "level"), len(study.cells)
    data, seeds = len(study.data), len(study.seeds)
    if study.search is not None:
        trials = study.search.trials
        what, count = f"(baseline + {_count(trials, 'trial')})", (1 + trials) * data * seeds
    said = f"{study.design}: {what} × {_count(data, 'data set')}"
    if study.search is not None and study.search.repeats is not None:
        best = min(study.search.repeats, trials)
        count = (1 + trials + (1 + best) * (seeds - 1)) * data
        said += f", the best {best} and the baseline"
    return f"{said} × {_count(seeds, 'random seed')} = {_count(count, 'cell')}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def levels(study: ResolvedStudy, most: int = 30) -> list[str]:
    """Each level with the settings in which it differs; of a search, the space."""
    if study.search is not None:
        width = max(len(dimension.key) for dimension in study.search.space) + 2
        return [f"    {d.key:<{width}}{_range(d)}" for d in study.search.space]
    width = max(len(safe.line(level)) for level in study.levels) + 2
    out = []
    for level in study.levels[:most]:
        patch = ", ".join(f"{k}={_value(v)}" for k, v in study.patches.get(level, {}).items())
        star = "*" if level == study.baseline_level and len(study.levels) > 1 else " "
        out.append(f"  {star} {safe.line(level):<{width}}{patch}".rstrip())
    if len(study.levels) > most:
        out.append(f"    … and {len(study.levels) - most} more")
    return [*out, "  (* baseline)"] if len(study.levels) > 1 else out


def _range(dimension: Dimension) -> str:
    """``log 0.01 to 3.0, where select.rule is fixed``."""
    if dimension.kind == "any":
        text = f"any of {', '.join(_value(value) for value in dimension.values)}"
    else:
        text = f"{dimension.kind} {dimension.values[0]} to {dimension.values[1]}"
    for key, values in dimension.when.items():
        text += f", where {key} is {' or '.join(_value(value) for value in values)}"
    return text


def _value(value: Any) -> str:
    """As it would be written in the study."""
    words = {True: "true", False: "false"}
    return "null" if value is None else words[value] if isinstance(value, bool) else str(value)


def power(study: ResolvedStudy, data: Mapping[str, DataSet], runs: Path) -> Iterator[str]:
    """What the design can show: the smallest p, and the smallest effect as far as cells that have
    finished before tell the spread."""
    from coin_ray.statistics.power import detectable_effect, smallest_p

    images = {name: _labelled(found) for name, found in data.items()}
    if len(study.levels) < 2 and study.search is None:
        return
    units = [(len(study.seeds), "random seed", "")]
    units += [(n, "image", f" of {name}") for name, n in images.items() if n]
    parts = [f"{smallest_p(n):.2g} over {_count(n, word)}{of}" for n, word, of in units]
    yield f"smallest p that a paired test can reach: {', '.join(parts)}"
    metric = study.report[0]
    for name, n in images.items():
        spread = _spread(study, name, metric, runs)
        if spread is not None:
            sd, pairs = spread
            effect = detectable_effect(sd, n, alpha=study.analysis.alpha)
            found = "none" if effect is None else f"{effect:.3f}"
            yield (
                f"smallest difference in {metric} that {n} images of {name} show, at 80 % power: "
                f"{found} (spread of {_count(pairs, 'finished pair')} of cells)"
            )


def _spread(
    study: ResolvedStudy, data: str, metric: str, runs: Path, most: int = 20
) -> tuple[float, int] | None:
    """Standard deviation of the paired differences to the baseline by image, and from how many
    pairs of finished cells; None without any."""
    cells = {(c.level, c.seed): c for c in study.cells if c.data.name == data}
    values = {}
    variances: list[float] = []
    for (level, seed), cell in cells.items():
        base = cells[study.baseline_level, seed]
        if level == study.baseline_level or len(variances) == most:
            continue
        for one in (base, cell):
            if one.key_label not in values:
                values[one.key_label] = _final_values(one, metric, runs)
        ours, theirs = values[cell.key_label], values[base.key_label]
        differences = [ours[image] - theirs[image] for image in ours.keys() & theirs.keys()]
        if len(differences) > 1:
            variances.append(statistics.variance(differences))
    return (statistics.fmean(variances) ** 0.5, len(variances)) if variances else None


def _final_values(cell: StudyCell, metric: str, runs: Path) -> dict[str, float]:
    """Image -> value of a finished cell; empty for one that has not finished."""
    found = read_object(runs / cell.key_label / "metrics.json") or {}
    rounds = cell.config.rounds.count
    step = f"round_{rounds}" if rounds else "step1"
    return {
        row["image"]: row["value"]
        for row in found.get("rows", ())
        if row["step"] == step and row["metric"] == metric and math.isfinite(row["value"])
    }


def cautions(study: ResolvedStudy, data: Mapping[str, DataSet]) -> Iterator[str]:
    """What the numbers will not be able to show."""
    for spec in study.data:
        found = data[spec.name]
        n = _labelled(found)
        if n == 0:
            yield f"{spec.name} has no labels: nothing will be measured, label maps are written"
        elif n < FEW_IMAGES:
            yield f"{spec.name} has {_count(n, 'labelled image')}: intervals will be approximate"
        if spec.setting == "inductive":
            yield from _leaks(spec.name, found)
    n = len(study.seeds)
    if len(study.levels) > 1 and 2 / 2**n > study.analysis.alpha:
        needed = math.ceil(math.log2(2 / study.analysis.alpha))
        yield (
            f"{_count(n, 'random seed')}: no difference can be significant over seeds; "
            f"{needed} seeds can"
        )


def _leaks(name: str, found: DataSet) -> Iterator[str]:
    """Images that an inductive setting both trains on and evaluates, whatever they are called."""
    trained = {image.digest() for image in found.train}
    both = [s.image.name for s in found.samples if s.image.digest() in trained]
    if both:
        shown = ", ".join(both[:3]) + (", …" if len(both) > 3 else "")
        yield (
            f"leakage: {_count(len(both), 'evaluated image')} of {name} "
            f"{'is' if len(both) == 1 else 'are'} among the training images too: {shown}"
        )


def _labelled(found: DataSet) -> int:
    return sum(sample.has_truth for sample in found.samples)
