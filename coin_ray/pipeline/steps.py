"""What a run asks of a cell, step by step; the plan reads it from here too.

A run pulls: it asks for these results, and a stage asks for its inputs only where its own artifact
is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coin_ray.data.dataset import DataSet
from coin_ray.data.sample import Image, Sample
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES


def _nothing(run: CellRun, item: object) -> None:
    return None


@dataclass(frozen=True)
class Step:
    """One task an image: it ``asks`` for stages that end in ``stages``, and ``gives`` what the run
    wants to know. It goes over the training images, or over the ``samples`` that are evaluated."""

    stages: tuple[str, ...]
    asks: Callable[[Chain, Any], Sequence[Ref]]
    gives: Callable[[CellRun, Any], Any] = _nothing
    samples: bool = False

    def run(self, run: CellRun, item: Any) -> Any:
        """The step for one image or sample."""
        for ref in self.asks(run.chain, item):
            if not run.store.has(run.chain.key(ref)):
                run.get(ref)
        return self.gives(run, item)

    def on_device(self, run: CellRun, item: Any) -> bool:
        """Whether any stage that is missing for it computes on the device, in this process."""
        seen: set[str] = set()
        left = [run.chain.key(ref) for ref in self.asks(run.chain, item)]
        while left:
            key = left.pop()
            if key.digest in seen or run.store.has(key):
                continue
            seen.add(key.digest)
            stage = STAGES[key.stage]
            if stage.runs == "device" and stage.on_card(run.config):
                return True
            left += run.chain.memo.inputs(key)
        return False

    @property
    def computes(self) -> tuple[str, ...]:
        """The stages that may be computed on the way, in one process; trained ones never are."""
        found: dict[str, None] = {}
        left = list(self.stages)
        while left:
            stage = STAGES[left.pop()]
            if stage.name not in found and not stage.trains:
                found[stage.name] = None
                left += [name for take in stage.takes for name in take.stages]
        return tuple(name for name in STAGES if name in found and STAGES[name].runs != "segmenter")


def _centroids(chain: Chain, image: Image) -> Sequence[Ref]:
    if chain.config.uss.family == "none":
        return ()
    return [Ref("centroids", image, zoom=zoom) for zoom in refs.zooms(chain.config)]


def _last(chain: Chain, image: Image) -> Sequence[Ref]:
    last = chain.config.rounds.count
    return Ref("score", image, last + 1), refs.behind(chain, image, refs.final_step(chain))


def _last_scores(run: CellRun, image: Image) -> dict[str, float]:
    """Agreement of the finished student with the segmenter, the objective that reads no label, and
    the number of instances in its result. It is the student's own instances that are scored, also
    where the segmenter redraws them: it would agree with its own masks whatever the student saw."""
    info = run.info(Ref("score", image, run.config.rounds.count + 1))
    found = run.labels_at(image, refs.final_step(run.chain)).max(initial=0)
    return {
        "scored": info["instances"],
        "agreement_sum": info["agreement_sum"],
        "instances": int(found),
    }


def _measured(chain: Chain, sample: Sample) -> Sequence[Ref]:
    """What ``export`` shows is made here too, in parallel."""
    image = sample.image
    steps = () if refs.elsewhere(chain) else ("ucis", refs.final_step(chain))
    shown = [refs.behind(chain, image, step) for step in steps]
    if not sample.has_truth:
        return shown
    truth = chain.memo.truth(sample)
    rows = refs.steps(chain, image)
    return [*shown, *(Ref("evaluate", image, step=step, truth=truth) for step in rows)]


def _metrics(run: CellRun, sample: Sample) -> dict[str, dict[str, float]]:
    if not sample.has_truth:
        return {}
    found = {step: run.evaluate(sample, step) for step in refs.steps(run.chain, sample.image)}
    final = refs.final_step(run.chain)
    if final in found and final != refs.last_step(run.chain):
        # Who reads the rows takes the last step for the result, unless one of them says so.
        found[refs.FINAL] = found[final]
    return found


STEPS: Mapping[str, Step] = {
    "centroids": Step(("centroids",), _centroids),
    "first_scores": Step(("score",), lambda chain, image: [Ref("score", image, 1)]),
    "first_labels": Step(("select",), lambda chain, image: [Ref("select", image, 1)]),
    "last_scores": Step(("score", "predict", "redraw", "complete"), _last, _last_scores),
    "evaluate": Step(("evaluate",), _measured, _metrics, samples=True),
}


def of_rounds(ref: Ref) -> bool:
    """True if a trained round is part of an artifact."""
    if ref.stage in ("score", "select", "masks", "mine"):
        return ref.round > 1
    made = ("round", "predict", "redraw", "peaks", "complete")
    return (
        ref.stage in made
        or (ref.stage == "candidates" and ref.round > 0)
        or ref.step.startswith("round_")
    )


def begins(chain: Chain, data: DataSet) -> Iterator[Ref]:
    """What a cell is asked for before its first round, if it misses one."""
    if refs.elsewhere(chain):
        return
    for image in data.train:
        for step in ("centroids", "first_scores", "first_labels"):
            yield from STEPS[step].asks(chain, image)


def asks(chain: Chain, data: DataSet, until: str | None = None) -> Iterator[Ref]:
    """What a cell is asked for in any case, up to a stage or its end."""
    config, rounds = chain.config, chain.config.rounds.count
    if refs.elsewhere(chain):
        for sample in () if until else data.samples:
            yield from STEPS["evaluate"].asks(chain, sample)
        return
    if config.ucis.trained is not None:
        yield Ref("ucis_model")
    if until == "ucis_model":
        return
    for round_ in range(1, rounds + 1):
        yield Ref("round", round=round_)
    labelled = sorted({refs.refresh(chain, round_) for round_ in range(1, rounds + 1)} | {1})
    for image in data.train:
        for round_ in labelled:
            yield Ref("score", image, round_)
            yield Ref("select", image, round_)
        yield from STEPS["last_scores"].asks(chain, image)
    for sample in data.samples:
        yield from STEPS["evaluate"].asks(chain, sample)
