"""The stages: how each side is set up and run, and when their results count as the same.

``ours`` and ``literal`` take the inputs and return the function that is measured; what they do
before returning it is set-up and not measured. Steps 1 and 2 have modules of their own; here are
step 3, the metrics and the list of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks import step1, step2
from benchmarks.case import Agreement, Case, Result, Side
from benchmarks.inputs import Inputs


def _training(bf16: bool) -> Side:
    def side(inputs: Inputs) -> Callable[[], Result]:
        from coin_ray.distillation.settings import Student
        from coin_ray.distillation.targets import pseudo_labels
        from coin_ray.distillation.training import train_round

        labels = pseudo_labels(
            inputs.label_map, inputs.masks, inputs.scores, inputs.accepted, source="segmenter"
        )
        student = Student(
            arch="unet",
            iterations=6,
            batch=4,
            crop=min(256, inputs.size // 16 * 16),
            optimiser="adamw",
            lr=3e-3,
            head_lr=1.0,
            scale=(0.7, 1.4),
            rotate=True,
            color_jitter=0.2,
            stain_jitter=0.1,
            precision="bf16" if bf16 else "fp32",
        )

        def run() -> Result:
            stamps: list[tuple[float, float]] = []
            train_round(
                [(inputs.image, labels)],
                student,
                progress=lambda *_: stamps.append((time.perf_counter(), time.process_time())),
            )
            wall, cpu = np.diff(np.array(stamps), axis=0).min(axis=0).tolist()
            return {"wall": wall, "cpu": cpu}

        return run

    return side


def inference_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.distillation.inference import instances_from_probability, predict_probability
    from coin_ray.distillation.network import build_student
    from coin_ray.distillation.settings import Infer, Student
    from coin_ray.imaging.settings import Instances
    from coin_ray.training.layout import placed

    model = placed(build_student(Student(arch="unet")), "cpu").eval()
    infer, instances = Infer(scales=(1.0,), minmax=False, opening=2), Instances(footprint=9)

    def run() -> Result:
        maps = predict_probability(model, inputs.image, infer)
        return {"labels": instances_from_probability(*maps, infer, instances)}

    return run


def metrics_ours(inputs: Inputs) -> Callable[[], Result]:
    from coin_ray.metrics.evaluate import evaluate
    from coin_ray.metrics.settings import Evaluate

    return lambda: evaluate(inputs.truth, inputs.label_map, Evaluate(adjacency_radius=None))


def metrics_literal(inputs: Inputs) -> Callable[[], Result]:
    from benchmarks import literal

    return lambda: dict(literal.evaluate(inputs.truth, inputs.label_map))


def metrics_compare(ours: Result, literal: Result) -> Agreement:
    worst = max(abs(ours[f"official_{k}"] - v) for k, v in literal.items())
    return worst <= 1e-9, f"{len(literal)} values, max difference {worst:.1g} (allowed 1e-9)"


CASES = {
    **step1.CASES,
    **step2.CASES,
    "step": Case("training step, U-Net, 4 crops of 256 px", _training(False)),
    "step_bf16": Case("training step, same in bf16", _training(True)),
    "inference": Case("student inference with its mirror image, and instances", inference_ours),
    "metrics": Case(
        "metrics",
        metrics_ours,
        metrics_literal,
        metrics_compare,
        "ours computes the correct metrics and the public evaluator's; the latter are compared",
    ),
}
