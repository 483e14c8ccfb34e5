"""The values of a level by image and random seed, of metrics of labels and of agreement alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coin_ray.report.values.collect import Collected, collect
from coin_ray.report.values.ends import ends
from coin_ray.statistics.paired import Values
from coin_ray.study.metrics import AGREEMENT
from coin_ray.study.resolved import ResolvedStudy


def values_by_image(
    study: ResolvedStudy, runs: Path, metric: str
) -> Mapping[tuple[str, str], Values]:
    """(Data set, level) -> (image, random seed) -> value at the end of the chain, of the finished
    cells of ``study`` in ``runs``; of ``agreement`` by training image, which reads no label."""
    found = collect(study, runs)
    if metric == AGREEMENT:
        return _agreement(study, found)
    ended = ends(found.frame, study)
    return {which: end.values.get(metric, {}) for which, end in ended.items()}


def _agreement(study: ResolvedStudy, found: Collected) -> Mapping[tuple[str, str], Values]:
    out: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for cell in study.cells:
        own = out.setdefault((cell.data.name, cell.level), {})
        told = found.agreement.get(cell.key_label, {})
        own.update({(image, cell.seed): value for image, value in told.items()})
    return out
