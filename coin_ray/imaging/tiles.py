"""A large image in squares that are seen with some of what lies around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Window = tuple[slice, slice]


def squares(shape: Sequence[int], side: int, halo: int) -> Iterator[tuple[Window, Window, Window]]:
    """Squares of ``side`` px that cover a ``shape`` (H, W) without overlap, in reading order.

    Of each: what is looked at, the square and ``halo`` px around it within the image; the square
    itself in the image; and in what is looked at. Those at the end may be smaller.
    """
    height, width = shape
    for y in range(0, height, side):
        for x in range(0, width, side):
            bottom, right = min(y + side, height), min(x + side, width)
            top, left = max(0, y - halo), max(0, x - halo)
            yield (
                (slice(top, min(bottom + halo, height)), slice(left, min(right + halo, width))),
                (slice(y, bottom), slice(x, right)),
                (slice(y - top, bottom - top), slice(x - left, right - left)),
            )
