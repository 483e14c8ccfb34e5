"""The views that the experiment carries in MLflow: which runs, columns, groups and charts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

CELLS, LEVELS, SEEDS = "coin-ray", "coin-ray-levels", "coin-ray-seeds"
"""Names: one row a cell; one row a level, by the lower ends of the intervals, with a chart of low,
mean and high by round; the cells by level, with MLflow's band from the smallest to the largest
seed. No tree: it could not be sorted or filtered by factor."""
_OF_CELLS = "params.seed LIKE '%'"
_ENDS = ("mean", "low", "high")
"""In MLflow the first is a solid line, the others are dashed and dotted."""


def _view(search: str, order: str, columns: Sequence[str], *, ascending: bool, **shown: Any) -> str:
    state = {"searchFilter": search, "orderByKey": order, "orderByAsc": ascending}
    return json.dumps({**state, "selectedColumns": columns, **shown})


def _charts(section: str, metrics: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A section with a line chart of each list of metrics, by round. MLflow adds its own below."""
    made = {"type": "LINE", "runsCountToCompare": 10, "deleted": False, "isGenerated": False}
    axes = {"xAxisKey": "step", "useGlobalXaxisKey": True, "yAxisKey": "metric", "range": {}}
    axes |= {"xAxisScaleType": "linear", "scaleType": "linear", "selectedXAxisMetricKey": ""}
    axes |= {"lineSmoothness": 0, "useGlobalLineSmoothing": True, "yAxisExpressions": []}
    cards = [
        {
            **made,
            **axes,
            "uuid": f"coin-ray-{own[0]}",
            "metricSectionId": section,
            "metricKey": own[0],
            "selectedMetricKeys": own,
            "displayPoints": True,
            "ignoreOutliers": False,
        }
        for own in metrics
    ]
    there = {"uuid": section, "name": section, "display": True, "isReordered": False, "columns": 2}
    return {"compareRunCharts": cards, "compareRunSections": [there]}


_VIEWS = {
    CELLS: _view(
        _OF_CELLS,
        "tags.`mlflow.runName`",
        (
            *(f"params.`{param}`" for param in ("level", "dataset", "seed")),
            *(f"metrics.`{metric}`" for metric in ("aji", "pq", "dice", "agreement")),
        ),
        ascending=True,
    ),
    LEVELS: _view(
        "tags.kind = 'level'",
        "metrics.`aji_low`",
        (
            *(f"params.`{param}`" for param in ("level", "dataset")),
            "tags.`seeds`",
            *(f"metrics.`aji_{end}`" for end in _ENDS),
            *(f"metrics.`pq_{end}`" for end in _ENDS),
        ),
        ascending=False,
        **_charts("Levels", [[f"{metric}_{end}" for end in _ENDS] for metric in ("aji", "pq")]),
    ),
    SEEDS: _view(
        _OF_CELLS,
        "params.`level`",
        [f"metrics.`{metric}`" for metric in ("aji", "pq", "agreement")],
        ascending=True,
        groupBy={
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "level"}],
        },
        **_charts("Levels", [["aji"], ["pq"]]),
    ),
}
VIEW_TAGS = {f"mlflow.sharedViewState.{view}": state for view, state in _VIEWS.items()}
"""Tags of the experiment that hold them."""
