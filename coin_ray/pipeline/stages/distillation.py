"""Step 3: a round's student, what it predicts, and that redrawn by the segmenter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.distillation.settings import Infer, Student
from coin_ray.imaging.settings import Instances
from coin_ray.labels import BoolArray, InstanceMasks, LabelMap, relabel
from coin_ray.pipeline import refs
from coin_ray.pipeline.needs import round_schedule, student_has_encoder
from coin_ray.pipeline.stage import FP32, Given, Keyed, Read, Ref, Stage, Take, Values
from coin_ray.pipeline.stages.coarse import EVIDENCE
from coin_ray.propagation.settings import Crf
from coin_ray.store.artifacts import Artifact, leave_out
from coin_ray.training.checkpoint import Checkpoint
from coin_ray.training.world import Progress, World

SCHEDULED = ("epochs", "later_iterations", "later_lr")
"""Settings of the student that say how long a round is and how fast it learns; the key of a round
holds what they come to."""
REDRAW_SETTINGS = ("redraw", "redraw_min_iou", "redraw_grow")
"""Settings of the section infer that act after the prediction."""


def _train(
    given: Given, world: World, progress: Progress | None, checkpoint: Checkpoint
) -> Artifact:
    """Student of a round (EMA weights); equal on every process of ``world``.

    Labels that changed by less than ``rounds.early_stop`` since the last refresh stop the training:
    the artifact is then the last student, whose next labels are these again.
    """
    from coin_ray.distillation.targets import PseudoLabels
    from coin_ray.distillation.training import Part, train_round

    s, runtime = given.settings, given.runtime.student
    labels = list(given.each("labels"))
    previous = given["previous"] if s.round > 1 else None
    renewed = given.all("labels")[0].round > 1  # the first labels replace none
    if renewed and churn([one.info for one in labels]) < s.early_stop:
        assert previous is not None
        nothing = {"iterations": 0, "stopped": True, "seconds": 0.0}
        return Artifact(previous.arrays, previous.info | nothing)
    if "encoder" in given:
        assert given["encoder"] == f"{s.encoder}_imagenet"
    pseudo = (PseudoLabels(one.arrays["label_map"], one.arrays["ignore"]) for one in labels)
    student = s.options(Student, *SCHEDULED, *() if "precision" in s else ("precision",))
    student |= {"channels_last": runtime.channels_last, "compile": runtime.compile}
    part = Part(s.before, s.total) if "total" in s else None
    weights, log = train_round(
        list(zip(given.each("images"), pseudo, strict=True)),
        Student.model_validate(student),
        place=(s.seed, s.round),
        part=part,
        initial=None if previous is None else previous.arrays,
        world=replace(world, device=given.device),
        checkpoint=checkpoint,
        progress=progress,
    )
    loss = log["loss"][-max(1, len(log["loss"]) // 10) :]
    info = {
        "loss": sum(loss) / len(loss),
        "iterations": s.iterations,
        "stopped": False,
        "seconds": round(log.seconds, 3),
    }
    return Artifact(weights, info)


def student_weights(trained: Artifact) -> dict[str, NDArray[Any]]:
    """The student's own of a round's arrays, without what a next round goes on with."""
    return {name: array for name, array in trained.arrays.items() if "/" not in name}


def churn(facts: list[dict[str, Any]]) -> float:
    """1 - IoU of the label foreground with that of the refresh before, over all images."""
    shared, either = (sum(fact[f"label_{k}"] for fact in facts) for k in ("shared", "either"))
    return 1 - shared / either if either else 0.0


def _round_values(chain: Any, ref: Ref) -> Values:
    found = round_schedule(chain.config, ref.round, chain.images)
    if refs.previous_refresh(chain, ref.round) is not None:
        found["early_stop"] = chain.config.rounds.early_stop
    return found | {"seed": chain.seed, "round": ref.round}


def _student(config: Any) -> str:
    student = config.student
    if student.arch == "unet":
        return f"unet {student.width}"
    size = f"deeplabv3plus {student.encoder}"
    size += " os16" if student.output_stride == 16 else ""
    return size + (" shared" if student.shared_aspp else "")


ROUND = Stage(
    "round",
    _train,
    reads=(
        Read(
            "student",
            but=(*SCHEDULED, "precision"),
            old={"output_stride": 8, "shared_aspp": False, "deterministic": False},
        ),
        # What `bf16` has no word for.
        Read("student", ("precision",), when=lambda c: c.student.precision == "tf32"),
    ),
    takes=(
        Take("images", lambda chain, ref: [chain.pixels(image) for image in chain.train]),
        Take(
            "labels",
            lambda chain, ref: [refs.labels(chain, image, ref.round) for image in chain.train],
            stages=("select",),
        ),
        Take(
            "encoder",
            lambda chain, ref: chain.weights(f"{chain.config.student.encoder}_imagenet"),
            when=lambda chain, ref: (
                chain.config.student.encoder_weights == "imagenet"
                and student_has_encoder(chain.config)
            ),
        ),
        Take(
            "previous",
            lambda chain, ref: Ref("round", round=ref.round - 1),
            stages=("round",),
            when=lambda chain, ref: ref.round > 1,
        ),
    ),
    adds=_round_values,
    runs="device",
    trains=True,
    grows=False,
    work=lambda config, values: (
        _student(config),
        float(config.student.batch * config.student.crop**2) * values["iterations"],
    ),
    label=lambda chain, ref: f"round{ref.round}-seed{chain.seed}",
)


def _evidence(settings: Keyed, image: NDArray[np.uint8], scale: float) -> NDArray[np.float32]:
    from coin_ray.imaging.stain import evidence_maps

    return evidence_maps(
        image, sigma=settings.sigma, contrast_sigma=settings.contrast_sigma, scale=scale
    ).evidence


@dataclass(frozen=True)
class Maps:
    """What a student sees in an image, and how long it looked."""

    probability: NDArray[np.float32]
    edge: NDArray[np.float32] | None
    seconds: float


def student_maps(asked: Iterable[Given]) -> Iterator[Maps]:
    """Of one student, which is built once, for one image after the other. On a GPU those of one
    size go through together, up to the pixels of a step of its training: where that had room, these
    have."""
    from coin_ray.distillation.inference import predict_batch
    from coin_ray.distillation.network import student_from_weights

    asked = iter(asked)
    first = next(asked)
    student = first.made_with("round").section(Student)
    model = student_from_weights(student_weights(first["round"]), student, first.device)
    infer, device = first.settings.infer.section(Infer), first.device
    images = (given["image"] for given in chain((first,), asked))
    for (height, width, _), alike in groupby(images, key=lambda image: image.shape):
        largest = height * width * max(infer.scales) ** 2
        most = 1 if device == "cpu" else max(1, int(student.batch * student.crop**2 / largest))
        while batch := list(islice(alike, most)):
            began = time.perf_counter()
            found = predict_batch(model, np.stack(batch), infer, device)
            seconds = (time.perf_counter() - began) / len(batch)
            yield from (Maps(*maps, seconds) for maps in found)


def _predict(given: Given, ahead: Maps | None = None) -> Artifact:
    """Label map (H, W) of the student. ``infer.edge_markers`` acts where it has an edge head."""
    s, infer = given.settings, given.settings.infer.section(Infer)
    image, scale = given["image"], given["scale"]
    if ahead is not None:
        leave_out(-ahead.seconds)  # its work too, done before
    (maps,) = [ahead] if ahead is not None else student_maps([given])
    found = drawn(
        (maps.probability, maps.edge),
        image,
        infer,
        Instances.model_validate(s.instances.options(Instances)),
        crf=s.crf.section(Crf) if infer.crf else None,
        evidence=_evidence(s.evidence, image, scale) if infer.stain_weight else None,
        scale=scale,
        apart=ahead is not None,
    )
    return Artifact({"array": found})


def drawn(
    maps: tuple[NDArray[np.float32], NDArray[np.float32] | None],
    image: NDArray[np.uint8],
    infer: Infer,
    instances: Instances,
    *,
    crf: Crf | None,
    evidence: NDArray[np.float32] | None,
    scale: float,
    apart: bool = False,
) -> LabelMap:
    """Label map (H, W) of the foreground and edge probability (H, W) that a student gives for an
    image (H, W, 3); ``crf`` refines the foreground, ``apart`` in another process; ``evidence``
    (H, W) is the stain's."""
    from coin_ray.distillation.inference import instances_from_probability

    def refine(values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Posterior (H, W) of the foreground after the dense CRF on [1 - p, p]."""
        from coin_ray.propagation.crf import dense_crf, dense_crf_apart

        assert crf is not None
        refined = dense_crf_apart if apart else dense_crf
        return refined(image, np.stack([1 - values, values]), crf)[1]

    return instances_from_probability(
        *maps,
        infer,
        instances,
        evidence=evidence,
        refine=None if crf is None else refine,
        scale=scale,
    )


def predicting(config: Any, infer: Values) -> tuple[str, float]:
    views = sum(scale**2 for scale in infer["scales"]) * (1 + infer["hflip"])
    return _student(config) + (" crf" if infer["crf"] else ""), views


class _Relabelling:
    """A cell as a prediction sees it that labels are made of."""

    def __init__(self, config: Any) -> None:
        self._config, self.infer = config, config.relabel.of(config.infer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


PREDICT = Stage(
    "predict",
    _predict,
    ahead=student_maps,
    reads=(
        Read("infer", but=REDRAW_SETTINGS, under="infer", old=FP32),
        Read("instances", under="instances"),
        Read("ucis", EVIDENCE, under="evidence", when=lambda c: bool(c.infer.stain_weight)),
        Read(
            "crf",
            but=("enabled", "gamma"),
            under="crf",
            when=lambda c: c.infer.crf,
            former={"gamma": 1.0},
        ),
    ),
    takes=(
        Take("image", lambda chain, ref: chain.pixels(ref.image)),
        Take("scale", lambda chain, ref: chain.scale(ref.image)),
        Take("round", lambda chain, ref: Ref("round", round=ref.round), stages=("round",)),
    ),
    sees=lambda chain, ref: _Relabelling(chain.config) if ref.step == "labels" else chain.config,
    runs="device",
    work=lambda config, values: predicting(config, values["infer"]),
)


def redraw(given: Given) -> Artifact:
    """The segmenter's masks of the predicted instances in their place, (H, W)."""
    s = given.settings
    assert s.redraw
    drawn = given.source("masks")
    assert isinstance(drawn, Ref)
    found = redrawn(
        InstanceMasks.from_arrays(given["masks"].arrays),
        given.array("predict") > 0 if s.redraw_grow else np.zeros(drawn.image.shape(), dtype=bool),
        s,
        min_area=s.min_area,
        scale=given["scale"],
    )
    return Artifact({"array": found})


def redrawn(
    masks: InstanceMasks, predicted: BoolArray, infer: Any, *, min_area: int, scale: float
) -> LabelMap:
    """``masks`` in one label map (H, W) by the ``redraw_`` settings of ``infer``.

    Painted in ascending predicted IoU, the segmenter's own estimate, so that the surest is on top,
    and grown by a few pixels where the student saw foreground (``predicted``) that no mask holds:
    the small segmenter draws tight. What is left of a mask below ``min_area`` is dropped.
    """
    from skimage.segmentation import expand_labels

    sure = masks.take(np.flatnonzero(masks.predicted_iou >= infer.redraw_min_iou))
    painted = sure.paint(predicted.shape, sure.predicted_iou)
    if infer.redraw_grow:
        grown = expand_labels(painted, infer.redraw_grow * scale)
        painted = np.where((painted > 0) | predicted, grown, 0)
    keep = np.bincount(painted.ravel()) >= min_area * scale**2
    return relabel(np.where(keep[painted], painted, 0))


REDRAW = Stage(
    "redraw",
    redraw,
    reads=(Read("instances", ("min_area",)), Read("infer", REDRAW_SETTINGS)),
    takes=(
        Take(
            "masks",
            lambda chain, ref: Ref("masks", ref.image, ref.round + 1, step="result"),
            stages=("masks",),
        ),
        Take("scale", lambda chain, ref: chain.scale(ref.image)),
        Take(
            "predict",
            lambda chain, ref: Ref("predict", ref.image, ref.round),
            stages=("predict",),
            when=lambda chain, ref: bool(chain.config.infer.redraw_grow),
        ),
    ),
)
