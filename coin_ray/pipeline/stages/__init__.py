"""The stages, in the chain's order: one declaration each, and what it computes.

Here the method rooms meet, through plain arrays. None of the computations sees a key, a store or a
cluster, and only ``evaluate`` takes a ground truth. ``ORACLES`` take one, too; no cell has them
but one that was opened for it (``Chain.with_oracle``).
"""

from __future__ import annotations

from coin_ray.pipeline.stage import Stage
from coin_ray.pipeline.stages.coarse import UCIS, UCIS_MODEL
from coin_ray.pipeline.stages.confidence import EMBED, MASKS, SCORE, SELECT
from coin_ray.pipeline.stages.distillation import PREDICT, REDRAW, ROUND
from coin_ray.pipeline.stages.measure import EVALUATE
from coin_ray.pipeline.stages.mining import CANDIDATES, COMPLETE, MINE, PEAKS
from coin_ray.pipeline.stages.oracle import ORACLES
from coin_ray.pipeline.stages.propagation import (
    CENTROIDS,
    FEATURES,
    INSTANCES,
    REFINE,
    SIMILARITY,
    TRANSPORT,
)

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        *(UCIS_MODEL, UCIS, FEATURES, CENTROIDS, SIMILARITY, TRANSPORT, REFINE, INSTANCES),
        *(EMBED, MASKS, SCORE, PEAKS, CANDIDATES, MINE, SELECT),
        *(ROUND, PREDICT, REDRAW, COMPLETE, EVALUATE),
        *ORACLES,
    )
}
LARGE = tuple(name for name, stage in STAGES.items() if stage.large)
"""What is collected first."""
