"""A study's ceilings as cells: each stage in turn replaced by its oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from coin_ray.data.dataset import DataSet
from coin_ray.errors import UserError
from coin_ray.execution.order import up_to_end
from coin_ray.pipeline.oracles import TITLES
from coin_ray.study.resolved import ResolvedStudy, StudyCell


def with_oracles(study: ResolvedStudy, level: str) -> ResolvedStudy:
    """The cells of one level as they are, and again with every oracle that differs from them. Its
    results can neither be searched nor reported: the cells with an oracle leave none."""
    own = [cell for cell in study.cells if cell.level == level]
    oracles = [name for name in TITLES if not _is_another(own[0], name)]
    cells = (*own, *(cell for name in oracles for cell in _ceilings(own, name)))
    levels = tuple(dict.fromkeys(cell.level for cell in cells))
    return replace(up_to_end(study), cells=cells, levels=levels, baseline_level=level)


def _ceilings(cells: list[StudyCell], oracle: str) -> Iterator[StudyCell]:
    for cell in cells:
        named = f"{cell.key_label}-oracle-{oracle}"
        yield replace(cell, level=f"oracle: {TITLES[oracle]}", key_label=named, oracle=oracle)


def _is_another(cell: StudyCell, oracle: str) -> bool:
    """Without propagation the foreground after step 1 is the coarse mask."""
    return oracle == "foreground" and cell.config.uss.family == "none"


def refuse_unlabelled(study: ResolvedStudy, level: str, data: Mapping[str, DataSet]) -> None:
    """UserError where an oracle would have nothing to know."""
    if study.configuration(level).predictions.path:
        raise UserError(
            "this level was made elsewhere: it has no stages to replace",
            where=f"{study.name}: {level}",
            do="take another with --level",
        )
    for name, found in data.items():
        labelled = {sample.image for sample in found.known if sample.has_truth}
        without = [image.name for image in found.images if image not in labelled]
        if not without:
            continue
        trained = any(image in found.train for image in found.images if image not in labelled)
        shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        raise UserError(
            "an oracle needs the labels of every image"
            + (", of those that are trained on, too" if trained else ""),
            where=f"data {name}",
            found=f"{len(without)} of {len(found.images)} without: {shown}",
            do="give images with label/ beside image/ to --data and --train, or leave --train out",
        )
