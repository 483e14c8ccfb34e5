"""Label maps as the files that every tool of the field opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coin_ray.labels import LabelMap, relabel


def write_label_tif(path: Path, label_map: LabelMap) -> None:
    """zlib-compressed TIFF, uint16 up to 65 535 instances, else uint32; ids 1..N. Whole or absent."""
    import tifffile

    ids = relabel(label_map)
    kind = np.uint16 if ids.max(initial=0) < 2**16 else np.uint32
    scratch = path.with_suffix(".tmp")
    tifffile.imwrite(scratch, ids.astype(kind), compression="zlib")
    scratch.replace(path)
