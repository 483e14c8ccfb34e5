"""Whether the compression of a picture changes its values: no id survives that."""

from __future__ import annotations

import struct
from typing import Any

BY_TAG = {
    6: "JPEG",
    22610: "JPEG XR",
    34892: "lossy JPEG",
    34934: "JPEG XR",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Compressions of a tif that lose values, or whose bytes do not readily say whether they do."""
BY_STREAM = (7, 33003, 33004, 33005, 33007, 34712, 50001)
"""Those that may do either and say it in their bytes: JPEG, JPEG 2000, WebP."""


def tif_loss(tif: Any, page: Any) -> str:
    """Name of a lossy compression of a tifffile page; empty for a lossless one."""
    code = int(page.compression)
    if code not in BY_STREAM:
        return BY_TAG.get(code, "")
    pieces = zip(page.dataoffsets, page.databytecounts, strict=False)
    offset, count = next(((o, n) for o, n in pieces if n), (0, 0))
    tif.filehandle.seek(offset)
    return stream_loss(tif.filehandle.read(count))


def stream_loss(stream: bytes) -> str:
    """Name of the lossy compression of a JPEG, JPEG 2000 or WebP stream; empty for others."""
    if stream.startswith(b"\xff\xd8"):
        return "" if _marker(stream, 2, (0xC3, 0xF7)) is not None else "JPEG"
    if stream.startswith(b"RIFF") and stream[8:12] == b"WEBP":
        return "" if b"VP8L" in stream[12:64] else "WebP"
    start = stream.find(b"\xff\x4f\xff\x51")
    if start >= 0:
        at = _marker(stream, start + 2, (0x52,))
        # The last byte of the coding style is the wavelet: 1 is the reversible one.
        return "" if at is not None and stream[at + 13 : at + 14] == b"\x01" else "JPEG 2000"
    return ""


def _marker(stream: bytes, at: int, wanted: tuple[int, ...]) -> int | None:
    """Where a marker segment of a JPEG or JPEG 2000 header begins, before the pixels."""
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        code, length = struct.unpack(">xBH", stream[at : at + 4])
        if code in wanted:
            return at
        if code in (0xDA, 0x90):  # the pixels begin
            return None
        at += 2 + length
    return None
