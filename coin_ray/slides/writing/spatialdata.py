"""The nuclei of a slide as shapes of SpatialData."""

from __future__ import annotations

from pathlib import Path

from coin_ray.slides.writing import Frame, Parts
from coin_ray.slides.writing.table import write_table


def write_shapes(frame: Frame, parts: Parts, path: Path) -> None:
    """The element ``nuclei``: a row a nucleus, by id, with the columns of the table; coordinates
    "global" in px of level 0, "um" in um. In memory as a whole, as SpatialData has it."""
    import geopandas
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    table = path.with_name("nuclei.parquet")
    write_table(frame, parts, table)
    nuclei = geopandas.read_parquet(table).set_index("id")
    places = {"global": Identity(), "um": Scale([frame.mpp, frame.mpp], ("x", "y"))}
    shapes = {}
    if len(nuclei):  # it has no shapes of nothing
        shapes = {"nuclei": ShapesModel.parse(nuclei, transformations=places)}
    SpatialData(shapes=shapes).write(path)
