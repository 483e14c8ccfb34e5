"""Image files: orientation, photometric interpretation, planes, alpha, resolution."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from tests.files.kinds import IDS, RGB, kind, pictured, place, png, tif


def exif(orientation: int) -> bytes:
    found = Pillow.Exif()
    found[274] = orientation
    return found.tobytes()


def stored(array: Any, orientation: int) -> Any:
    """What a file holds that shows ``array`` under this orientation, by Pillow's own turning."""
    for turn in range(1, 9):
        picture = Pillow.fromarray(array)
        picture.getexif()[274] = turn
        candidate = np.array(ImageOps.exif_transpose(picture))
        back = Pillow.fromarray(candidate)
        back.getexif()[274] = orientation
        if np.array_equal(np.array(ImageOps.exif_transpose(back)), array):
            return candidate
    raise AssertionError(orientation)


def turned_png(folder: Any, part: str, array: Any, orientation: int) -> None:
    png(folder, part, stored(array, orientation), exif=exif(orientation))


def turned_tif(folder: Any, part: str, array: Any, orientation: int) -> None:
    extra = [(274, "H", 1, orientation, True)]
    tif(folder, part, stored(array, orientation), extratags=extra, photometric=_photometric(array))


def _photometric(array: Any) -> str:
    return "rgb" if array.ndim == 3 else "minisblack"


APART = "a\\.\\w+ says that it is stored (turned|mirrored)[\\s\\S]*says nothing of the kind"
for _turn in range(2, 9):
    for _name, _write in (("png", turned_png), ("tif", turned_tif)):
        kind(
            f"orientation {_turn}, {_name}",
            pictured(partial(_write, part="image", array=RGB, orientation=_turn)),
            warning=APART,
        )


def both(folder: Any, orientation: int) -> None:
    turned_png(folder, "image", RGB, orientation)
    turned_tif(folder, "label", IDS.astype(np.uint16), orientation)


kind("orientation 3 on both", partial(both, orientation=3))
kind("orientation 6 on both", partial(both, orientation=6))


def late(folder: Any) -> None:
    """The EXIF chunk behind the pixels, where the format allows it too."""
    path = place(folder, "image", ".png")
    turned_png(folder, "image", RGB, 3)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])


kind("orientation 3 behind the pixels", pictured(late), warning=APART)


def label_as_stored(folder: Any) -> None:
    turned_png(folder, "image", RGB, 6)
    png(folder, "label", stored(IDS.astype(np.uint16), 6))


kind("a label drawn on the stored pixels", label_as_stored, error="lie across each other")


def jpeg(folder: Any, **options: Any) -> None:
    Pillow.fromarray(np.kron(RGB[::4, ::4], np.ones((4, 4, 1), np.uint8))).save(
        place(folder, "image", ".jpg"), quality=100, subsampling=0, **options
    )


def jpeg_turned(folder: Any) -> None:
    smooth = np.kron(RGB[::4, ::4], np.ones((4, 4, 1), np.uint8))
    Pillow.fromarray(stored(smooth, 8)).save(
        place(folder, "image", ".jpg"), quality=100, subsampling=0, exif=exif(8)
    )


kind("jpeg", pictured(jpeg), image=None)
kind("jpeg turned", pictured(jpeg_turned), image=None, warning=APART)
kind("broken EXIF", pictured(partial(jpeg, exif=b"Exif\0\0garbage")), image=None)

NOT_RGB = "not an RGB image[\\s\\S]*{}"
YCBCR = np.array(Pillow.fromarray(RGB).convert("YCbCr"))
kind(
    "YCbCr without JPEG",
    pictured(lambda f: tif(f, "image", YCBCR, photometric="ycbcr", compression="zlib")),
    error=NOT_RGB.format("ycbcr"),
    by="image",
)
SMOOTH = np.kron(RGB[::4, ::4], np.ones((4, 4, 1), np.uint8))
kind(
    "YCbCr of JPEG in a tif",
    pictured(
        lambda f: tif(
            f,
            "image",
            SMOOTH,
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": 100},
            subsampling=(1, 1),
        )
    ),
    image=None,
)
kind(
    "planes apart",
    pictured(
        lambda f: tif(
            f, "image", np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"
        )
    ),
)
kind(
    "CMYK",
    pictured(lambda f: Pillow.fromarray(RGB).convert("CMYK").save(place(f, "image", ".tif"))),
    error=NOT_RGB.format("separated"),
    by="image",
)
kind(
    "palette image",
    pictured(lambda f: png(f, "image", Pillow.fromarray(RGB).quantize(16))),
    error=NOT_RGB.format("palette[\\s\\S]*save it as 8-bit RGB"),
    by="image",
)
kind(
    "white is 0",
    pictured(lambda f: tif(f, "image", RGB[..., 0], photometric="miniswhite")),
    error="white is stored as 0",
    by="image",
)
kind(
    "signed samples",
    pictured(lambda f: tif(f, "image", RGB.astype(np.int8), photometric="rgb")),
    error=NOT_RGB.format("int8"),
    by="image",
)
kind(
    "float samples",
    pictured(lambda f: tif(f, "image", (RGB / 255).astype(np.float32), photometric="rgb")),
    error=NOT_RGB.format("float32"),
    by="image",
)
kind(
    "a transparent colour",
    pictured(lambda f: png(f, "image", RGB, transparency=tuple(int(v) for v in RGB[0, 0]))),
    error="1 transparent pixels",
    by="image",
)
kind(
    "two frames",
    pictured(
        lambda f: png(
            f,
            "image",
            Pillow.fromarray(RGB),
            save_all=True,
            append_images=[Pillow.fromarray(255 - RGB)],
        )
    ),
    error="a stack of pictures[\\s\\S]*2 frames",
    by="image",
)


def states(name: str, mpp: float | None, **options: Any) -> None:
    kind(
        f"resolution: {name}",
        pictured(lambda f: tif(f, "image", RGB, photometric="rgb", **options)),
        mpp=mpp,
    )


CM = {"resolutionunit": "CENTIMETER"}
states("none", None)
states("tags in cm", 0.5, resolution=(20_000, 20_000), **CM)
states("tags in inches", 0.5, resolution=(50_800, 50_800), resolutionunit="INCH")
states("96 dpi", None, resolution=(96, 96), resolutionunit="INCH")
states("pixels that are not square", None, resolution=(20_000, 10_000), **CM)
states(
    "Aperio",
    0.4991,
    description="Aperio Image Library v12\r\n1x1 |AppMag = 20|MPP = 0.4991",
    metadata=None,
)
states(
    "ImageJ",
    0.5,
    imagej=True,
    resolution=(2, 2),
    metadata={"unit": "micron"},
)
states(
    "ImageJ, um by its sign",
    0.5,
    imagej=True,
    resolution=(2, 2),
    metadata={"unit": "\\u00B5m"},
)
for _unit, _size in (("\u00b5m", 0.3), ("nm", 300.0), ("mm", 0.0003)):
    states(
        f"OME in {_unit}",
        0.3,
        ome=True,
        metadata={
            "axes": "YXS",
            "PhysicalSizeX": _size,
            "PhysicalSizeXUnit": _unit,
            "PhysicalSizeY": _size,
            "PhysicalSizeYUnit": _unit,
        },
    )
kind(
    "resolution: png in dots per inch",
    pictured(lambda f: png(f, "image", RGB, dpi=(50_800, 50_800))),
    mpp=0.5,
)
kind(
    "resolution: jpg of a printer",
    pictured(partial(jpeg, dpi=(300, 300))),
    image=None,
)
