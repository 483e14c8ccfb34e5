"""What a study may not begin without: machines that can run it, weights, labels."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from coin_ray.confidence.settings import segmenter_name
from coin_ray.data.dataset import DataSet
from coin_ray.distillation.memory import refuse_large
from coin_ray.distillation.settings import Student
from coin_ray.errors import UserError
from coin_ray.execution.executor import Executor
from coin_ray.planning.machines import Node, find_device
from coin_ray.planning.plan import plan_cells
from coin_ray.study.metrics import METRICS
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.search import proposal
from coin_ray.weights.registry import entry

WEIGHTS = (
    *("ucis.model", "ucis.weights", "uss.family", "uss.size", "uss.weights", "sam.model"),
    *("student.arch", "student.encoder"),
)
"""Settings that say which model files are read."""


@dataclass(frozen=True)
class Target:
    """Where a study is to run: ``device`` is cpu or cuda, ``workers`` train one round together."""

    nodes: Sequence[Node]
    device: str
    workers: int


def target(study: ResolvedStudy, executor: Executor, *, ahead: bool = False) -> Target:
    """What of an executor a study uses, now or ``ahead`` of its run. UserError if the study asks
    for more, or if its models need a GPU that is not there."""
    nodes = executor.nodes(study.cluster, ahead=ahead)
    device = find_device(executor.device, nodes, (study.profile, *study.extended))
    workers = executor.workers
    if workers is None:
        workers = int(study.resources.get("round", {}).get("workers", 1))
    if workers < 1:
        raise UserError(
            "nobody can train a round", found=f"{workers} workers", expected="1 or more"
        )
    executor.check(study, nodes, device, workers)
    cards = [node.card for node in nodes if node.gpus and node.card]
    if device.startswith("cuda") and cards:
        for student, beside in trainings(study):
            refuse_large(student, 0, beside, max(cards))
    return Target(nodes, device, workers)


def trainings(study: ResolvedStudy) -> list[tuple[Student, int]]:
    """The students that a study trains, and bytes of the largest segmenter beside each."""
    found: dict[Student, int] = {}
    for cell in study.cells if study.until is None else ():
        config = cell.config
        if config.rounds.count:
            size = int(entry(segmenter_name(config.sam.model)).size_mb * 1e6)
            found[config.student] = max(size, found.get(config.student, 0))
    return list(found.items())


def segmenters(study: ResolvedStudy) -> int:
    """How many kinds of segmenters a study may use at once, those of a search included."""
    if study.until == "ucis_model":
        return 0
    space = study.search.space if study.search else ()
    searched = [model for d in space if d.key == "sam.model" for model in d.values]
    return len({*(cell.config.sam.model for cell in study.cells), *searched})


def refuse_missing(study: ResolvedStudy, data: Mapping[str, DataSet], workspace: Path) -> None:
    """UserError for weights that a search may propose and that are missing, for an objective that
    chooses by labels which are not there, for claims about them, and for results that evaluated
    images cannot have."""
    _refuse_claims(study, data)
    for cell in study.cells:
        found = data[cell.data.name]
        only_trained = cell.config.evaluate.result == "pseudo labels"
        if only_trained and not {s.image for s in found.samples} <= set(found.train):
            raise UserError(
                "pseudo labels are made for images that are trained on",
                where=f"evaluate.result of {cell.level}",
                found=f"images of {cell.data.name} that are evaluated alone",
                do="evaluate this level on training images, without --train",
            )
    chooses = study.search is not None or study.stopping.rule != "none"
    if chooses and study.objective.metric in METRICS:
        for name, found in data.items():
            if not any(sample.has_truth for sample in found.samples):
                raise UserError(
                    f"the objective {study.objective.metric} needs labels, {name} has none",
                    do="rank by agreement, which reads no label",
                )
    if study.search is None:
        return
    first = {dimension.key: dimension.values[:1] for dimension in study.search.space}
    models = {d.key: d.values for d in study.search.space if d.key in WEIGHTS and d.kind == "any"}
    choices = first | models
    for values in itertools.product(*choices.values()):
        with contextlib.suppress(ValidationError):  # settings that do not go together
            cell = proposal(study, dict(zip(choices, values, strict=True)))[0]
            plan_cells([cell], data, workspace)


def _refuse_claims(study: ResolvedStudy, data: Mapping[str, DataSet]) -> None:
    """UserError for a claim that could never be decided, or never be looked at."""
    for claim in study.gates.claims if study.gates else ():
        needed = {claim.data: claim.images}
        if claim.watch is not None:
            needed.setdefault(claim.watch, 2)
        for name, images in needed.items():
            labelled = sum(sample.has_truth for sample in data[name].samples)
            if labelled < images:
                raise UserError(
                    f"the claim {claim.claim!r} is about more labelled images than there are",
                    where=f"data {name}",
                    expected=f"{images} or more",
                    found=f"{labelled} of {len(data[name].samples)} images with labels",
                    do=f"write images: {labelled}, or name other data"
                    if labelled > 1
                    else "name data with labels",
                )
