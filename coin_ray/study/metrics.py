"""The names of what cells are ranked by and what tables show."""

from __future__ import annotations

from typing import Literal, get_args

LabelFree = Literal[
    "agreement", "accepted_fraction", "score_mean", "score_std", "instances_per_image"
]
"""What a cell knows of itself without any label, over the training images: mean score of the
instances against the segmenter; share of instances accepted; mean and spread of their scores;
instances an image."""

Metric = Literal[
    "aji", "aji_plus", "pq", "sq", "dq", "dice", "iou", "miou", "fn", "fp", "n_true", "n_predicted",
    "n_adjacent", "n_one_neighbour", "adj_aji", "adj_iou", "adj_miou", "adj_fn", "adj_fp",
    "nonadj_aji", "nonadj_iou", "nonadj_miou", "nonadj_fn", "nonadj_fp", "official_aji",
    "official_pq", "official_sq", "official_dq", "official_dice", "official_miou",
    "official_mfn", "official_mfp",
]  # fmt: skip
"""What a label map is measured by against the true one: all that ``metrics.evaluate`` computes."""

Goal = Literal[LabelFree, Metric]

AGREEMENT: LabelFree = "agreement"
METRICS: tuple[str, ...] = get_args(Metric)


def mode(metric: str) -> Literal["max", "min"] | None:
    """Whether more of a metric is better, or less; None where it is neither."""
    if metric.startswith("n_"):
        return None
    return "min" if metric.endswith(("fn", "fp")) else "max"
