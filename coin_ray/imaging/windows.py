"""Where windows of a fixed side lie so that they cover an image."""

from __future__ import annotations


def origins(length: int, window: int, stride: int) -> list[int]:
    """Starts of the windows along one axis, ascending; every pixel is in at least one window.

    The last window is shifted back to end on the border instead of hanging over it, and none
    follows one that already ends there. ``length`` <= ``window`` gives ``[0]`` (the caller clips or
    pads). ``length``, ``window``, ``stride`` in px; a stride above the window would leave gaps.
    Raises ValueError for a size below 1 or ``stride`` > ``window``.
    """
    if length < 1 or window < 1 or not 1 <= stride <= window:
        raise ValueError(f"no covering windows: length {length}, window {window}, stride {stride}")
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def grid(shape: tuple[int, int], window: int, stride: int) -> list[tuple[int, int]]:
    """(y, x) origins of square windows over an image of ``shape`` (H, W), in raster order."""
    height, width = shape[:2]
    return [(y, x) for y in origins(height, window, stride) for x in origins(width, window, stride)]
