"""A million generated nuclei as GeoJSON and as Parquet, beside the plain geopandas way.

    python -m benchmarks.slides [NUCLEI] [--geopandas]

Each format is written by a process of its own, which tells its seconds and its peak of memory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from coin_ray.data.synthetic import generate_tile
from coin_ray.slides.nuclei import Nuclei, measure
from coin_ray.slides.writing import FORMATS, Frame, writers

SIDE = 1024
WAYS = ("geojson", "table", "geopandas geojson", "geopandas table")


def slide(nuclei: int) -> tuple[Frame, Callable[[], Iterator[Nuclei]]]:
    """Copies of one generated tile side by side until there are so many nuclei."""
    image, label_map = generate_tile(11, SIDE, diameter=22, crowding=0.6)
    tile = measure(image, label_map, (0, 0), np.linspace(0, 1, int(label_map.max())))
    many = -(-nuclei // len(tile))
    wide = int(np.ceil(np.sqrt(many)))

    def parts() -> Iterator[Nuclei]:
        for index in range(many):
            y, x = (n * SIDE for n in divmod(index, wide))
            moved = {"y": tile.table["y"] + y, "x": tile.table["x"] + x}
            corner = (tile.corner_yx[0] + y, tile.corner_yx[1] + x)
            yield Nuclei(corner, tile.label_map, tile.table | moved)

    tops = tuple(tile.corner_yx[0] + index // wide * SIDE for index in range(many))
    shape = (-(-many // wide) * SIDE, wide * SIDE)
    return Frame("benchmark", 0.25, shape, 1.0, tops, many * len(tile)), parts


def plain(frame: Frame, parts: Callable[[], Iterator[Nuclei]], kind: str, path: Path) -> None:
    """Everything in one GeoDataFrame, a shapely polygon a nucleus."""
    import geopandas
    import shapely

    from coin_ray.slides.writing.geojson import outlines

    rows, shapes = [], []
    for part in parts():
        for polygons in outlines(frame, part):
            drawn = [shapely.Polygon(rings[0], rings[1:]) for rings in polygons]
            shapes.append(drawn[0] if len(drawn) == 1 else shapely.MultiPolygon(drawn))
        rows += [
            dict(zip(part.table, v, strict=True)) for v in zip(*part.table.values(), strict=True)
        ]
    frame_ = geopandas.GeoDataFrame(rows, geometry=shapes)
    if kind == "table":
        frame_.to_parquet(path)
    else:
        path.write_text(frame_.to_json(), encoding="utf-8")


def one(way: str, nuclei: int) -> None:
    frame, parts = slide(nuclei)
    kind = way.split()[-1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"nuclei{FORMATS[kind]}"
        start, cpu = time.perf_counter(), time.process_time()
        if way == kind:
            writers(frame, parts)[kind](path)
        else:
            plain(frame, parts, kind, path)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        size = path.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{way:18} {frame.most:9,} nuclei  {seconds:6.1f} s ({cpu:.1f} s of CPU)  {peak:5.2f} GB  "
        f"{size:6.0f} MB",
        flush=True,
    )


def main() -> None:
    nuclei = int(next((a for a in sys.argv[1:] if a.isdigit()), "1000000"))
    if "--way" in sys.argv:
        one(sys.argv[sys.argv.index("--way") + 1], nuclei)
        return
    for way in WAYS if "--geopandas" in sys.argv else WAYS[:2]:
        subprocess.run([sys.executable, "-m", __spec__.name, str(nuclei), "--way", way], check=True)


if __name__ == "__main__":
    main()
