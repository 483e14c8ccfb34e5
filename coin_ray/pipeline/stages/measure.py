"""The end: metrics of a label map. The only stage of the pipeline that takes a ground truth."""

from __future__ import annotations

import numpy as np

from coin_ray.metrics.settings import Evaluate
from coin_ray.pipeline import refs
from coin_ray.pipeline.stage import Content, Given, Read, Ref, Scope, Source, Stage, Take
from coin_ray.store.artifacts import Artifact


def _evaluate(given: Given) -> Artifact:
    """All metrics of one image; NaN: nothing to compare, skipped."""
    from coin_ray.metrics.evaluate import evaluate

    labels = given["labels"]
    arrays = labels.arrays if isinstance(labels, Artifact) else {"array": labels}
    found = arrays["label_map"] if "label_map" in arrays else arrays["array"]
    metrics = evaluate(given["truth"], found, given.settings.section(Evaluate))
    values = np.array(list(metrics.values()), dtype=np.float64)
    return Artifact({"values": values}, {"names": list(metrics)})


def _measured(chain: Scope, ref: Ref) -> Source:
    made = chain.prediction(ref.image) if refs.elsewhere(chain) else None
    return made or refs.behind(chain, ref.image, ref.step)


def true_label_map(ref: Ref) -> Content:
    """The ground truth that a stage is asked for with, (H, W) int32."""
    truth = ref.truth
    assert truth is not None
    return Content(truth.digest, lambda: truth.sample.load_label_map())


ONE_NEIGHBOUR = {"adjacency_neighbours": 1, "adjacency_miou": False}
"""What was measured before there was a choice."""
EVALUATE = Stage(
    "evaluate",
    _evaluate,
    reads=(Read("evaluate", but=("result",), old=ONE_NEIGHBOUR),),
    takes=(
        Take(
            "labels",
            _measured,
            stages=("instances", "select", "predict", "redraw", "complete"),
        ),
        Take("truth", lambda chain, ref: true_label_map(ref)),
    ),
    grows=False,
    label=lambda chain, ref: f"{ref.image.name}-{ref.step}",
)
