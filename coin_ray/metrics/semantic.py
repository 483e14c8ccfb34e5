"""Pixel metrics of the foreground, read from the overlap table."""

from __future__ import annotations

from coin_ray.metrics.contingency import Contingency


def semantic(table: Contingency) -> dict[str, float]:
    """dice, iou, miou, fn, fp of one image, each in [0, 1]; all NaN if both maps are empty.

    ``iou`` is that of the foreground, ``miou`` the mean over foreground and background (what the
    tables of COIN call IoU); ``fn`` and ``fp`` are shares of the foreground union, so that
    iou + fn + fp = 1.
    """
    nan = float("nan")
    if table.empty:
        return {"dice": nan, "iou": nan, "miou": nan, "fn": nan, "fp": nan}
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


def dice2(table: Contingency) -> float:
    """Instance Dice of the CPM challenges: 2 sum(I) / sum(|G| + |P|) over the overlapping pairs.

    In [0, 1]; 0 without any overlap, NaN if both maps are empty.
    """
    if table.empty:
        return float("nan")
    below = int((table.union + table.intersection).sum())
    return 2 * int(table.intersection.sum()) / below if below else 0.0
