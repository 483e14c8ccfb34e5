"""Label files: masks of two values, colours, palettes, numbers, containers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from tests.files.kinds import IDS, MASK, ONE, RGB, kind, labelled, place, png, tif

ASKED = "a binary mask where instances are needed[\\s\\S]*in 3 regions[\\s\\S]*--binary components"


def label(write: Any) -> Any:
    return labelled()(write)


def array(folder: Any, values: Any) -> None:
    np.save(place(folder, "label", ".npy"), values)


def masks(value: int, dtype: Any, write: Any, name: str) -> None:
    """A mask of one value is asked about, and split as the answer says."""
    values = (MASK * value).astype(dtype)
    make = label(lambda folder: write(folder, values))
    kind(f"mask 0/{value} {name}", make, error=ASKED)
    kind(f"mask 0/{value} {name}, components", make, binary="components")
    kind(f"mask 0/{value} {name}, one nucleus", make, binary="instances", labels=MASK)


def as_png(folder: Any, values: Any) -> None:
    png(folder, "label", values)


def as_tif(folder: Any, values: Any) -> None:
    tif(folder, "label", values)


for value in (1, 128, 254, 255):
    masks(value, np.uint8, as_png, "png")
for value in (255, 65_535):
    masks(value, np.uint16, as_png, "16-bit png")
    masks(value, np.uint16, as_tif, "16-bit tif")
masks(1, np.int64, array, "int64 npy")
masks(1, bool, as_png, "1-bit png")
masks(1, bool, array, "bool npy")
masks(1, np.float32, as_tif, "float tif")
masks(7, np.int32, as_tif, "int32 tif")

TOUCHING = np.zeros((60, 80), dtype=bool)
_Y, _X = np.mgrid[:60, :80]
for _x in (25, 50):
    TOUCHING |= (_Y - 30) ** 2 + (_X - _x) ** 2 <= 14**2
TOUCHING[2:6, 2:6] = True
HALVES = np.where(TOUCHING, np.where(_X < 38, 2, 3), 0)
HALVES[2:6, 2:6] = 1


def touching(folder: Any) -> None:
    png(folder, "image", np.tile(RGB, (3, 4, 1))[:60, :80])
    png(folder, "label", TOUCHING.astype(np.uint8) * 255)


_WIDE = np.tile(RGB, (3, 4, 1))[:60, :80]
kind(
    "touching nuclei, components",
    touching,
    image=_WIDE,
    labels=np.minimum(HALVES, 2),
    binary="components",
)
kind("touching nuclei, watershed", touching, image=_WIDE, labels=HALVES, binary="watershed")


def rgb_of(values: Any) -> Any:
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=2)


def coded(ids: Any) -> Any:
    return np.stack([np.zeros_like(ids), ids % 256, ids // 256], axis=-1).astype(np.uint8)


def palette(indices: Any, colours: Any, suffix: str = ".png") -> Any:
    def write(folder: Any) -> None:
        picture = Pillow.fromarray(indices.astype(np.uint8), mode="P")
        picture.putpalette(np.asarray(colours, dtype=np.uint8).ravel().tolist())
        picture.save(place(folder, "label", suffix))

    return label(write)


kind("one nucleus", label(partial(as_png, values=ONE.astype(np.uint8))), labels=ONE)
kind("one nucleus of 255", label(partial(as_png, values=(ONE * 255).astype(np.uint8))), labels=ONE)
kind(
    "one nucleus, components",
    label(partial(as_png, values=ONE.astype(np.uint8))),
    labels=ONE,
    binary="components",
)
kind("no nucleus", label(partial(as_png, values=IDS.astype(np.uint8) * 0)), labels=IDS * 0)
kind(
    "no nucleus, components",
    label(partial(as_png, values=IDS.astype(np.uint8) * 0)),
    labels=IDS * 0,
    binary="components",
)
kind(
    "two values without 0",
    label(partial(as_png, values=(MASK + 1).astype(np.uint8))),
    error="a mask without a background[\\s\\S]*values 1 and 2",
)
for _how in ("components", "watershed"):
    kind(
        f"label map, {_how}",
        label(partial(as_png, values=IDS.astype(np.uint8))),
        binary=_how,
        error="no binary mask, although[\\s\\S]*4 values up to 3",
    )
kind("ids 8 bits", label(partial(as_png, values=IDS.astype(np.uint8))))
kind("ids 16 bits", label(partial(as_tif, values=(IDS * 300).astype(np.uint16))))
kind("ids 32 bits", label(partial(as_tif, values=(IDS * 90_000_000).astype(np.uint32))))
kind("ids 64 bits", label(partial(array, values=IDS.astype(np.int64) * 70_000)))
kind("ids as whole floats", label(partial(array, values=IDS.astype(np.float64))))
kind("ids as 32-bit floats", label(partial(as_tif, values=IDS.astype(np.float32))))
kind(
    "ids divided by 255",
    label(partial(as_tif, values=(IDS / 255).astype(np.float32))),
    error="a label map of fractions[\\s\\S]*not ids divided",
)
kind(
    "ids that a float cannot hold",
    label(partial(as_tif, values=(IDS * 2.0**25).astype(np.float32))),
    error="a label map of fractions",
)
kind("negative ids", label(partial(array, values=-IDS)), error="negative ids")

kind("COIN's colours", label(partial(as_png, values=coded(IDS * 200))))
kind(
    "COIN's colours, opaque alpha",
    label(partial(as_png, values=np.dstack([coded(IDS), np.full(IDS.shape, 255, np.uint8)]))),
)
kind("grey ids in colour", label(partial(as_png, values=rgb_of(IDS))))
kind("grey ids in a colour tif", label(lambda f: tif(f, "label", rgb_of(IDS), photometric="rgb")))
for _name, _values in {
    "white colour": rgb_of(MASK * 255),
    "red": rgb_of(MASK * 255) * np.array([1, 0, 0], np.uint8),
    "green": rgb_of(MASK * 255) * np.array([0, 1, 0], np.uint8),
}.items():
    kind(f"{_name} mask", label(partial(as_png, values=_values)), error=ASKED)
    kind(
        f"{_name} mask, components",
        label(partial(as_png, values=_values)),
        binary="components",
    )
kind(
    "a colour for each nucleus",
    label(
        partial(
            as_png,
            values=np.array([[0, 0, 0], [200, 9, 9], [9, 200, 9], [99, 9, 1]])[IDS].astype(
                np.uint8
            ),
        )
    ),
    error="a colour picture where a label map is needed",
)
kind(
    "grey and alpha",
    label(partial(as_png, values=np.dstack([IDS, np.full(IDS.shape, 255)]).astype(np.uint8))),
)
kind(
    "a mask that is alpha",
    label(partial(as_png, values=np.dstack([rgb_of(MASK | True), MASK * 255]).astype(np.uint8))),
    error="a label file with hidden values",
)

SIX = np.array([[0, 0, 0], [9, 9, 200], [200, 9, 9], [9, 200, 9]])
kind("palette of a label map", palette(IDS, SIX))
kind("palette of a label map, tif", palette(IDS, SIX, ".tif"))
kind("palette of one colour", palette(IDS, np.zeros((4, 3))))
kind("palette of a mask", palette(MASK, SIX), error=ASKED)
kind("palette of a mask, components", palette(MASK, SIX), binary="components")
kind(
    "palette whose black is index 1",
    palette(~MASK, [[255, 255, 255], [0, 0, 0]]),
    binary="components",
    error="a palette whose black is not its index 0",
)

LOSSY = "a label file with lossy compression \\({}\\)"
kind(
    "a jpeg of a mask",
    label(lambda f: Pillow.fromarray(MASK.astype(np.uint8) * 255).save(place(f, "label", ".jpg"))),
    error=LOSSY.format("JPEG"),
)
kind(
    "a jpeg of a mask called png",
    label(
        lambda f: Pillow.fromarray(MASK.astype(np.uint8) * 255).save(
            place(f, "label", ".png"), format="JPEG"
        )
    ),
    error=LOSSY.format("JPEG"),
)
for _name, _code, _options in (
    ("JPEG", "jpeg", {}),
    ("WebP", "webp", {"level": 50, "lossless": False}),
    ("JPEG 2000", "jpeg2000", {"level": 30}),
    ("JPEG XL", "jpegxl", {"level": 50}),
):
    kind(
        f"tif with {_name}",
        label(
            partial(
                tif,
                part="label",
                array=coded(IDS) if _code == "webp" else IDS.astype(np.uint8),
                compression=_code,
                compressionargs=_options,
                photometric="rgb" if _code == "webp" else "minisblack",
            )
        ),
        error=LOSSY.format(_name),
    )
kind(
    "tif with lossless JPEG 2000",
    label(partial(tif, part="label", array=IDS.astype(np.uint8), compression="jpeg2000")),
)
kind(
    "tif with lossless WebP",
    label(
        partial(
            tif,
            part="label",
            array=coded(IDS),
            photometric="rgb",
            compression="webp",
            compressionargs={"lossless": True},
        )
    ),
)

kind(
    "white is 0, 1 bit",
    label(partial(tif, part="label", array=~MASK, photometric="miniswhite")),
    binary="components",
)
kind(
    "white is 0, 8 bits",
    label(partial(tif, part="label", array=255 - IDS.astype(np.uint8), photometric="miniswhite")),
    error="white is stored as 0 \\(MinIsWhite\\)",
)


def sparse(folder: Any, absent: int) -> None:
    """Four tiles; the first ``absent`` in the lower row are told to be nowhere."""
    ids = np.zeros((32, 32), dtype=np.uint16)
    ids[2:8, 3:9], ids[4:10, 20:30] = 1, 2
    png(folder, "image", np.tile(RGB, (2, 2, 1))[:32, :32])
    path = tif(folder, "label", ids, tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages[0].tags
        for name in ("TileOffsets", "TileByteCounts"):
            kept = list(tags[name].value)
            tags[name].overwrite([*kept[:2], *([0] * absent), *kept[2 + absent :]])


SPARSE = np.zeros((32, 32))
SPARSE[2:8, 3:9], SPARSE[4:10, 20:30] = 1, 2
kind(
    "sparse tif",
    partial(sparse, absent=2),
    labels=SPARSE,
    image=np.tile(RGB, (2, 2, 1))[:32, :32],
    warning="a sparse tif: 2 of its tiles are absent",
)


def other(head: bytes, suffix: str, text: str, name: str) -> None:
    def write(folder: Any) -> None:
        place(folder, "label", suffix).write_bytes(head + bytes(200))

    kind(name, label(write), error=text)


def cellpose(folder: Any) -> None:
    found: Any = {"masks": IDS, "outlines": IDS}
    np.save(place(folder, "label", ".npy"), found, allow_pickle=True)


kind("cellpose _seg.npy", label(cellpose), error="this is a pickled Python object[\\s\\S]*save_tif")
other(b"\x80\x04\x95", ".npy", "this is a pickled Python object", "a pickle called npy")
other(b"PK\x03\x04", ".npy", "this is a zip archive", "npz called npy")
other(b"\n<!DOCTYPE html><html>", ".png", "this is a web page", "a web page called png")
other(b"version https://git-lfs.github.com/spec", ".tif", "Git LFS", "a pointer of Git LFS")
other(b"\x89HDF\r\n\x1a\n", ".tif", "this is an HDF5 file", "HDF5 called tif")
kind(
    "png called tif",
    label(
        lambda f: Pillow.fromarray(IDS.astype(np.uint8)).save(
            place(f, "label", ".tif"), format="PNG"
        )
    ),
)
kind(
    "tif called png",
    label(lambda f: tif(f, "label", IDS.astype(np.uint8)).rename(place(f, "label", ".png"))),
)
