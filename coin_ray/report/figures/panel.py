"""One panel of a figure: a part of an image, outlines and boxes as vectors over its pixels, a scale
bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import LabelMap, boxes
from coin_ray.report.figures.style import MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL = 6.5
"""Points of all text: legible where the figure is one column wide."""
Kind = Literal["found", "true", "extra", "lost", "only", "segmenter", "scored", "coarse"]
LOOKS: dict[Kind, tuple[str, str, Any]] = {
    "found": ("prediction", "#56e0ff", "-"),
    "true": ("truth", "#ffffff", "-"),
    "extra": ("false positive", "#ff9f1a", "-"),
    "lost": ("false negative", "#ffffff", (0, (2.2, 1.2))),
    "only": ("only here", "#ff9f1a", "-"),
    "segmenter": ("segmenter's mask", "#ff9f1a", "-"),
    "scored": ("instance", "#56e0ff", (0, (1.8, 1.0))),
    "coarse": ("mask", "#ffe14d", "-"),
}
"""Kind of an outline or a box -> its name, colour and line: light colours that differ in brightness
and on the axis from blue to yellow, which every eye has, each in a dark seam."""
NUCLEUS, IGNORED, EMPTY = (0.0, 0.447, 0.698), (0.62, 0.62, 0.62), (0.95, 0.95, 0.95)
"""Fills: Okabe and Ito's blue, greys."""
ORANGE = (0.902, 0.624, 0.0)
SEAM = "#1a1a1a"


class Window(NamedTuple):
    """The part of an image that is shown, px."""

    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class Panel:
    """``title``: lines above it, the first one strong; ``pixels`` (H, W, 3) of the whole image, or
    (H, W) values of a map, dark at the first of its ``limits`` and bright at the second;
    ``outlines`` and ``boxed``: label maps, and their ids that get a box; ``points`` (N, 2) yx."""

    title: tuple[str, ...]
    pixels: NDArray[Any]
    window: Window
    outlines: Mapping[Kind, LabelMap] = field(default_factory=dict)
    boxed: Sequence[tuple[Kind, LabelMap, NDArray[np.integer]]] = ()
    points: NDArray[np.float64] | None = None
    limits: tuple[float, float] | None = None


def window_of(interest: NDArray[Any], side: int) -> Window:
    """The square of at most ``side`` px in which the sum of ``interest`` (H, W), not negative whole
    numbers, is largest; of equal ones the one nearest to the middle."""
    shape = interest.shape
    height, width = (min(side, n) for n in shape)
    sums = np.pad(interest.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    inside = inside + sums[:-height, :-width]
    y, x = np.indices(inside.shape)
    far = (2 * y + height - shape[0]) ** 2 + (2 * x + width - shape[1]) ** 2
    best = np.lexsort((far.ravel(), -inside.ravel()))[0]
    top, left = divmod(int(best), inside.shape[1])
    return Window(top, left, height, width)


def draw_panel(axis: Axes, panel: Panel, wide: float) -> None:
    """Draw it on axes that are ``wide`` inches."""
    y, x = panel.window.slices
    part = panel.pixels[y, x]
    extent = (x.start, x.stop, y.stop, y.start)
    low, high = panel.limits or (None, None)  # of a map; colours have none
    axis.imshow(part, extent=extent, interpolation="none", cmap="viridis", vmin=low, vmax=high)
    thick = max(0.35, min(1.0, wide * 72 / panel.window.width * 2.4))
    for kind, label_map in panel.outlines.items():
        _outline(axis, kind, label_map, panel.window, thick)
    for kind, label_map, ids in panel.boxed:
        _boxes(axis, kind, label_map, ids, panel.window, thick)
    if panel.points is not None:
        py, px = panel.points.T
        axis.plot(px + 0.5, py + 0.5, "o", ms=3.2, mfc="white", mec=SEAM, mew=0.7)
    axis.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, linewidth=0.4, color=MUTED)


def _outline(axis: Axes, kind: Kind, label_map: LabelMap, window: Window, thick: float) -> None:
    """The contours of the instances that the window shows, between the pixels."""
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import Normal, Stroke
    from skimage.measure import find_contours

    lines = []
    for i, (y0, x0, y1, x1) in enumerate(boxes(label_map).tolist(), start=1):
        if y1 == 0 or not _meet((y0, x0, y1, x1), window):
            continue
        own = np.pad(label_map[y0:y1, x0:x1] == i, 1)
        lines += [line[:, ::-1] + (x0 - 0.5, y0 - 0.5) for line in find_contours(own, 0.5)]
    seam = [Stroke(linewidth=1.9 * thick, foreground=SEAM, alpha=0.55), Normal()]
    _, colour, style = LOOKS[kind]
    drawn = LineCollection(lines, colors=colour, linewidths=thick, linestyles=style)
    drawn.set(path_effects=seam, gid=f"outlines-{kind}-{_nth(axis)}")
    axis.add_collection(drawn, autolim=False)


def _meet(box: tuple[int, int, int, int], window: Window) -> bool:
    y0, x0, y1, x1 = box
    y, x = window.slices
    return y1 > y.start and y0 < y.stop and x1 > x.start and x0 < x.stop


def _boxes(
    axis: Axes,
    kind: Kind,
    label_map: LabelMap,
    ids: NDArray[np.integer],
    window: Window,
    thick: float,
) -> None:
    """A box around each of the instances whose middle the window shows."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    y, x = window.slices
    found = boxes(label_map)
    for i in ids.tolist():
        y0, x0, y1, x1 = found[i - 1].tolist()
        if not (y.start <= (y0 + y1) / 2 < y.stop and x.start <= (x0 + x1) / 2 < x.stop):
            continue
        box = Rectangle((x0 - 2, y0 - 2), x1 - x0 + 4, y1 - y0 + 4, fill=False, lw=thick)
        seam = [Stroke(linewidth=1.9 * thick, foreground=SEAM, alpha=0.55), Normal()]
        _, colour, style = LOOKS[kind]
        box.set(
            edgecolor=colour, linestyle=style, path_effects=seam, gid=f"box-{kind}-{_nth(axis)}-{i}"
        )
        axis.add_patch(box)


def _nth(axis: Axes) -> int:
    """Which panel of its figure it is: an id stands once in an SVG."""
    return len(axis.figure.axes)


def scale_bar(axis: Axes, window: Window, mpp: float) -> None:
    """The roundest length of about a quarter of the window, in its lower left corner."""
    from matplotlib.patheffects import withStroke

    most = window.width * mpp / 3
    power = 10.0 ** np.floor(np.log10(most))
    length = max(n * power for n in (1, 2, 5) if n * power <= most)
    x, y = window.x + 0.05 * window.width, window.y + 0.94 * window.height
    seam = [withStroke(linewidth=2.6, foreground=SEAM)]
    axis.plot([x, x + length / mpp], [y, y], color="white", lw=1.6, path_effects=seam,
              solid_capstyle="butt", gid=f"scale-bar-{_nth(axis)}")  # fmt: skip
    said = f"{length:g} µm"
    seam = [withStroke(linewidth=1.4, foreground=SEAM)]
    axis.text(
        x, y - 0.03 * window.height, said, color="white", size=SMALL, va="bottom",
        path_effects=seam,
    )  # fmt: skip
