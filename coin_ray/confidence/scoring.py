"""Agreement of an instance with the promptable segmenter's mask of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import InstanceMasks, LabelMap, areas

EPSILON = 1e-5


def agreement(label_map: LabelMap, masks: InstanceMasks) -> NDArray[np.float32]:
    """COIN Eq. 6: C^i = |E^i and SAM^i| / (|E^i or SAM^i| + 1e-5), (N,) float32 in [0, 1).

    ``masks`` holds one mask per instance 1..N in order (an empty one scores 0). Only the masks'
    boxes are looked at, never N full images. ValueError if their number differs.
    """
    own = areas(label_map)
    if len(masks) != len(own):
        raise ValueError(f"{len(masks)} masks for {len(own)} instances")
    both = np.array(
        [
            np.count_nonzero(crop & (label_map[y0:y1, x0:x1] == i + 1))
            for i, ((y0, x0, y1, x1), crop) in enumerate(
                zip(masks.boxes.tolist(), masks.crops, strict=True)
            )
        ],
        dtype=np.float64,
    )
    return (both / (own + masks.areas() - both + EPSILON)).astype(np.float32)
