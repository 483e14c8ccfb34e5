"""LazySlide segments a slide with our model object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coin_ray.compat import ensure_torchvision
from tests.slide_files import tissue, write_svs

ensure_torchvision()  # LazySlide imports it, too
zs = pytest.importorskip("lazyslide", reason="LazySlide is not installed (extra: lazyslide)")


def test_lazyslide_finds_the_nuclei(tmp_path: Path) -> None:
    import shapely
    from lazyslide_models import SegmentationModelProtocol
    from wsidata import open_wsi

    from coin_ray.api.lazyslide import NucleusModel
    from coin_ray.api.segmenting import method_of
    from coin_ray.labels import areas, centroids
    from coin_ray.slides.method import segment

    image = np.full((1400, 1400, 3), 243, dtype=np.uint8)
    image[300:900, 400:1100] = tissue(600, 700)
    write_svs(tmp_path / "slide.svs", image)
    model = NucleusModel(mpp=0.25)
    assert isinstance(model, SegmentationModelProtocol)
    wsi = open_wsi(str(tmp_path / "slide.svs"), store=None)
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, 512, overlap=0.25, edge=True, mpp=0.25, background_fraction=0.95)
    zs.seg.cells(wsi, model=model, device="cpu", pbar=False)
    cells = wsi["cells"]
    label_map, _ = segment(image, method_of(), 1.0)
    sizes = areas(label_map)
    y, x = (centroids(label_map) + 0.5).T
    seen = shapely.contains_xy(wsi["tiles"].geometry.union_all().buffer(-20), x, y)
    assert seen.sum() > 100
    assert 0.7 * seen.sum() < len(cells) < 1.3 * len(sizes)
    assert cells.geometry.area.median() == pytest.approx(np.median(sizes), rel=0.3)
    assert cells["prob"].between(0, 1).all()
    x0, y0, x1, y1 = cells.total_bounds
    assert x0 >= 390 and y0 >= 290 and x1 <= 1110 and y1 <= 910
