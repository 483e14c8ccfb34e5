"""Pixel metrics of the foreground, read from the overlap table."""

from __future__ import annotations

from coin_ray.metrics.contingency import Contingency


def semantic(table: Contingency) -> dict[str, float]:
    """dice, iou, miou, fn, fp of one image, each in [0, 1]; all NaN if both maps are empty.

    ``iou`` is that of the foreground, ``miou`` the mean over foreground and background (what the
    tables of COIN call IoU); ``fn`` and ``fp`` are shares of the foreground union, so that
    iou + fn + fp = 1.
    """
    if table.empty:
        return dict.fromkeys(("dice", "iou", "miou", "fn", "fp"), float("nan"))
    true, predicted = int(table.true_areas.sum()), int(table.predicted_areas.sum())
    both = int(table.intersection.sum())
    union = true + predicted - both
    # a background that neither map has cannot be wrong
    outside = (table.pixels - union) / (table.pixels - both) if table.pixels > both else 1.0
    iou = both / union
    return {
        "dice": 2 * both / (true + predicted),
        "iou": iou,
        "miou": (iou + outside) / 2,
        "fn": (true - both) / union,
        "fp": (predicted - both) / union,
    }
