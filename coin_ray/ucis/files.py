"""Coarse masks made elsewhere (SSA, PSM, any tool): a folder of label maps or binary masks."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np

from coin_ray.errors import UserError
from coin_ray.labels import BoolArray

SUFFIXES = (".png", ".tif", ".tiff")


def find_mask(folder: str | Path, name: str) -> Path:
    """The mask of image ``name`` (its stem) in ``folder``: the one file NAME.png, .tif or .tiff.

    Suffixes in any case. UserError if the folder or the mask is missing or two files match.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            "the folder of coarse masks does not exist",
            where=str(folder),
            expected="a folder with one mask per image, named like the image",
            found="a file" if folder.exists() else "nothing",
            do="check ucis.path",
        )
    masks = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    found = [p for p in masks if p.stem == name]
    if len(found) == 1:
        return found[0]
    near = get_close_matches(name, [p.stem for p in masks], n=1)
    closest = f"; the closest is {near[0]}" if near else ""
    raise UserError(
        f"{len(found)} coarse masks" if found else "no coarse mask",
        where=f"image {name}",
        expected=f"one of {name}.png, {name}.tif, {name}.tiff in {folder}",
        found=", ".join(p.name for p in found) or f"{len(masks)} masks of other names{closest}",
        do="keep one of them" if found else "name the masks like the images",
    )


def read_coarse_mask(path: str | Path, shape: tuple[int, int]) -> BoolArray:
    """Foreground of a mask file: every pixel that is not 0, (H, W) bool.

    Takes binary masks (0 against 1 or 255), label maps of any integer type, and colour-coded ones
    (any colour channel not 0, so also ids written as 256 * B + G); alpha is ignored. ``shape`` is
    the image's (H, W). UserError for an unreadable file, another size or non-integer values (a
    probability map needs a threshold first).
    """
    path = Path(path)
    try:
        values = _read(path)
    except Exception as error:  # the decoders raise types of their own
        raise UserError(
            "the coarse mask cannot be read",
            where=str(path),
            expected="a PNG or TIFF image",
            found=f"{type(error).__name__}: {error}",
            do="write it again",
        ) from error
    if values.ndim == 3:
        colour = values.shape[2] - (values.shape[2] in (2, 4))
        values = values[..., :colour]
    if values.shape[:2] != tuple(shape) or values.ndim not in (2, 3):
        raise UserError(
            "the coarse mask has another size than its image",
            where=str(path),
            expected=f"{shape[0]} x {shape[1]} px (height x width)",
            found=" x ".join(map(str, values.shape[:2])) + " px",
            do="write the mask at the image's size",
        )
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise UserError(
            "the coarse mask holds fractions",
            where=str(path),
            expected="a binary mask or a label map (integers, 0 = background)",
            found=f"values from {values.min():g} to {values.max():g}",
            do="threshold the probabilities first",
        )
    foreground = values != 0
    return foreground.any(axis=2) if foreground.ndim == 3 else foreground


def _read(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        values = np.asarray(tifffile.imread(path))
        # Planes of one channel, or the channels first: squeezed or moved to (H, W, C).
        values = values.squeeze() if values.ndim > 3 or 1 in values.shape[:1] else values
        if values.ndim == 3 and values.shape[0] <= 4 < values.shape[2]:
            values = np.moveaxis(values, 0, 2)
        return values
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image)
