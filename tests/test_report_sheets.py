"""How a sheet of pictures is laid out: windows, scale bars, texts that stay apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from coin_ray.errors import UserError
from coin_ray.report.figures.panel import Panel, Window, window_of
from coin_ray.report.figures.pictures import KINDS, Asked, pictures
from coin_ray.report.figures.sheet import COLUMN, Row, draw_sheet, fitted, text_width
from coin_ray.report.figures.style import look, saved


def test_the_window_with_most_of_interest() -> None:
    interest = np.zeros((40, 50), dtype=bool)
    assert window_of(interest, 20) == Window(10, 15, 20, 20)  # the middle
    interest[3, 44] = True
    found = window_of(interest, 20)
    assert interest[found.slices].sum() == 1 and found == Window(3, 25, 20, 20)
    assert window_of(interest, 64) == Window(0, 0, 40, 50)


@pytest.mark.parametrize(
    ("mpp", "side", "said"), [(0.25, 256, "20 µm"), (0.5, 100, "10 µm"), (0.25, 4, "0.2 µm")]
)
def test_the_scale_bar_is_as_long_as_it_says(mpp: float, side: int, said: str) -> None:
    tile, whole = np.zeros((side, side, 3), np.uint8), Window(0, 0, side, side)
    with look():
        bare = draw_sheet([Row([Panel(("a",), tile, whole)])])
        figure = draw_sheet([Row([Panel(("a",), tile, whole)], mpp=mpp)])
    assert not bare.axes[0].lines
    (line,), (text,) = figure.axes[0].lines, figure.axes[0].texts
    x0, x1 = line.get_xdata()  # type: ignore[misc]
    assert text.get_text() == said and (x1 - x0) * mpp == pytest.approx(float(said[:-3]))
    assert x0 > 0 and x1 < side


def test_nothing_is_cut_off_or_written_over() -> None:
    """Long names and many columns: texts stay inside the figure and beside each other."""
    tile = np.zeros((64, 64, 3), np.uint8)
    name = "a very long name of a level, $x$ & <y>, that no column has room for"
    panels = [Panel((name, name), tile, Window(0, 0, 64, 64)) for _ in range(4)]
    with look():
        figure = draw_sheet(
            [Row(panels, side=name, notes=("a note",), mpp=0.25)],
            legend=("true", "found", "extra", "lost", "segmenter"),
            width=COLUMN,
        )
        saved(figure, "png")
        renderer = FigureCanvasAgg(figure).get_renderer()
        places = [text.get_window_extent(renderer) for text in figure.texts]
    width, height = figure.get_size_inches() * figure.dpi
    assert all(p.x0 >= 0 and p.x1 <= width and p.y0 >= 0 and p.y1 <= height for p in places)
    for i, one in enumerate(places):
        assert not any(one.padded(-1).overlaps(other.padded(-1)) for other in places[:i])
    with look():
        assert fitted("short", 100) == "short"
        assert text_width(fitted(name, 60)) <= 60


def test_pictures_of_other_things_take_other_files() -> None:
    """They took one, and the later one stayed."""
    asked = [
        Asked(), Asked(levels=("a",)), Asked(levels=("a", "b")), Asked(levels=("a, b", "c")),
        Asked(round_=1), Asked(round_=2), Asked(metric="pq"), Asked(window=(64,)),
        Asked(window=(6, 4, 64)), Asked(levels=("a",), round_=1),
    ]  # fmt: skip
    assert [one.ending for one in asked[:2] + asked[-2:]] == [
        "", "-a", "-window-6-4-64", "-a-round-1"
    ]  # fmt: skip
    assert len({one.ending for one in asked}) == len(asked)


def test_nothing_to_draw_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "curves", lambda *asked: iter(()))
    with pytest.raises(UserError, match="nothing to draw as curves"):
        pictures(None, tmp_path, "curves", Asked())  # type: ignore[arg-type]
