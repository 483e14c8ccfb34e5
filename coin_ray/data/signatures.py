"""What a file is by its first bytes, whatever it is called."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

TIF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
OF_TIF = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".svslide", ".ndpi", ".scn", ".bif")
"""Suffixes of TIFFs, scanners' own among them."""
_SAVE = "save it as png or tif"


class Other(NamedTuple):
    """``name`` of what a file is instead of what was looked for, and what to ``do`` about it."""

    name: str
    do: str


_KNOWN: tuple[tuple[tuple[bytes, ...], Other], ...] = (
    (
        (b"MATLAB 7.3",),
        Other(
            "a MATLAB v7.3 file (HDF5)",
            "save it in MATLAB with `save(file, 'inst_map', '-v7')`, or as png or tif",
        ),
    ),
    ((b"\x89HDF\r\n",), Other("an HDF5 file", "save each picture in it as png, tif or npy")),
    ((b"MATLAB 5.0",), Other("a MATLAB file", "save the matrix in it as png, tif or npy")),
    (
        (b"version https://git-lfs",),
        Other("a pointer of Git LFS, not the file itself", "fetch the files with `git lfs pull`"),
    ),
    (
        (b"<!doctype html", b"<html"),
        Other("a web page", "download the file again; the server may ask for a login"),
    ),
    (
        (b"PK\x03\x04",),
        Other("a zip archive (npz is one)", "unpack it; save an array of an npz by itself as npy"),
    ),
    ((b"\x1f\x8b",), Other("a gzip archive", "unpack it")),
    ((b"%PDF-",), Other("a PDF", "export the picture in it as png or tif")),
    ((b"GIF8",), Other("a GIF picture", _SAVE)),
    ((b"\x93NUMPY",), Other("a NumPy array", "name it .npy")),
    (TIF, Other("a TIFF picture", "name it .tif")),
    (PICTURES, Other("a PNG or JPEG picture", "name it .png or .jpg")),
)

_PICKLE = Other(
    "a pickled Python object, which could run code and is never loaded",
    "save the array alone: numpy.save('a.npy', masks); of cellpose's _seg.npy export the label "
    "maps with --save_tif or io.save_masks",
)


def first_bytes(path: Path, count: int = 512) -> bytes:
    """The head of a file."""
    with path.open("rb") as file:
        return file.read(count)


def other_kind(path: Path) -> Other | None:
    """What a file is instead of what its suffix says; None if it may be that, or is unknown."""
    head = first_bytes(path)
    if (head.startswith(b"\x93NUMPY") and b"|O" in head) or (
        path.suffix.lower() == ".npy" and head[:1] == b"\x80"
    ):
        return _PICKLE
    own = {
        ".npy": (b"\x93NUMPY",),
        **dict.fromkeys(OF_TIF, TIF),
        ".gz": (b"\x1f\x8b",),
        ".mat": (b"MATLAB 5.0",),
        ".png": PICTURES,
        ".jpg": PICTURES,
        ".jpeg": PICTURES,
        ".zip": (b"PK\x03\x04",),
    }.get(path.suffix.lower(), ())
    if own and head.startswith(own):
        return None
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for starts, kind in _KNOWN:
        if head.startswith(starts) or text.startswith(starts):
            return kind
    return None
